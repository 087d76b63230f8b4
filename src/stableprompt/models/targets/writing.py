"""Free answers: greedy decoding in batches of like length."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig

from stableprompt.models.loading import LoadedModel
from stableprompt.models.targets.interface import Answers


@torch.no_grad()
def write_greedily(
    loaded: LoadedModel, inputs: list[list[int]], max_tokens: int, *, max_batch_tokens: int
) -> Answers:
    """Continue each input with the most probable token until the turn ends.

    Args:
        loaded: The frozen checkpoint.
        inputs: Token ids of what is read, not empty, N of them.
        max_tokens: Longer answers are cut.
        max_batch_tokens: Tokens of one batch, padding and answers included.
    """
    end_ids = loaded.end_of_turn_ids
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=max_tokens,
        pad_token_id=int(loaded.tokenizer.pad_token_id),
        eos_token_id=end_ids,
    )
    texts = [""] * len(inputs)
    num_tokens = sum(map(len, inputs))
    for batch in _batches(inputs, max_tokens, max_batch_tokens):
        ids, mask = _left_pad([inputs[n] for n in batch], settings.pad_token_id, loaded.device)
        with _only_these(loaded.model, settings):
            out = loaded.model.generate(input_ids=ids, attention_mask=mask)
        for number, written in zip(batch, out[:, ids.shape[1] :].tolist(), strict=True):
            answer = _until_end(written, end_ids)
            num_tokens += len(answer)
            # The new tokens alone: what was read can never be taken for an answer.
            texts[number] = loaded.tokenizer.decode(answer, skip_special_tokens=True).strip()
    return Answers(tuple(texts), num_tokens)


@contextmanager
def _only_these(model: Any, settings: GenerationConfig) -> Iterator[None]:
    """Keep the checkpoint's own settings out: a repetition penalty, say, punishes the very words
    that a prompt names. Given to ``generate``, our settings would be completed by them."""
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own


def _batches(inputs: list[list[int]], max_tokens: int, limit: int) -> Iterator[list[int]]:
    """Numbers of inputs of like length; the inputs alone fix the order."""
    batch: list[int] = []
    for number in sorted(range(len(inputs)), key=lambda n: (len(inputs[n]), inputs[n])):
        if batch and (len(inputs[number]) + max_tokens) * (len(batch) + 1) > limit:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _left_pad(
    rows: list[list[int]], pad_id: int | None, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded on the left, where decoding goes on at the right; (rows, longest) each."""
    longest = max(map(len, rows))
    padding = [longest - len(row) for row in rows]
    ids = [[pad_id or 0] * short + row for short, row in zip(padding, rows, strict=True)]
    mask = [[0] * short + [1] * len(row) for short, row in zip(padding, rows, strict=True)]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _until_end(written: list[int], end_ids: list[int]) -> list[int]:
    """Up to and including the first token that ends the turn."""
    for length, token in enumerate(written, start=1):
        if token in end_ids:
            return written[:length]
    return written
