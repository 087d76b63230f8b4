"""Free answers: greedy decoding in batches of like length, behind what was read once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from stableprompt.models.likelihood import continues_exactly
from stableprompt.models.loading import LoadedModel
from stableprompt.models.memory import halve_when_full
from stableprompt.models.numbers import not_finite
from stableprompt.models.reading import Reader, Reading
from stableprompt.models.targets.interface import Answers, Usage
from stableprompt.models.tree import num_tokens, plan


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
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=max_tokens,
        pad_token_id=int(loaded.tokenizer.pad_token_id),
        eos_token_id=loaded.end_of_turn_ids,
    )
    written: dict[int, list[int]] = {}
    # The last token of an input is read where writing begins, so it needs another before it.
    if continues_exactly(loaded) and min(map(len, inputs)) > 1:
        forest = plan([ids[:-1] for ids in inputs], [[ids[-1:]] for ids in inputs], share=True)
        num_read = num_tokens(forest) + len(inputs)
        reader = Reader(loaded, max_batch_tokens=max_batch_tokens, room=max_tokens)
        for reading in reader.read(forest):
            # The only answer of an input is its last token: the numbers are those of the inputs.
            ends = [
                (row, ask.position + 1, ask.answer)
                for row, node in enumerate(reading.nodes)
                for ask in node.asks
            ]
            for part in halve_when_full(ends, partial(_go_on, loaded, settings, inputs, reading)):
                written |= part
            del reading  # its cache, while the next one is read
    else:
        num_read = sum(map(len, inputs))
        for batch in _batches(inputs, max_tokens, max_batch_tokens):
            for part in halve_when_full(batch, partial(_write, loaded, settings, inputs)):
                written |= part
    answers = [_until_end(written[n], loaded.end_of_turn_ids) for n in range(len(inputs))]
    # The new tokens alone: what was read can never be taken for an answer.
    texts = loaded.tokenizer.batch_decode(answers, skip_special_tokens=True)
    usage = Usage(num_read, sum(map(len, answers)))
    return Answers(tuple(text.strip() for text in texts), usage)


def _go_on(
    loaded: LoadedModel,
    settings: GenerationConfig,
    inputs: list[list[int]],
    reading: Reading,
    ends: Sequence[tuple[int, int, int]],
) -> dict[int, list[int]]:
    """Write behind inputs of which all but the last token has been read."""
    cache = reading.continued([(row, length) for row, length, _ in ends])
    return _write(loaded, settings, inputs, [n for _, _, n in ends], past_key_values=cache)


def _write(
    loaded: LoadedModel,
    settings: GenerationConfig,
    inputs: list[list[int]],
    batch: Sequence[int],
    **options: Any,
) -> dict[int, list[int]]:
    """The new tokens behind some inputs, by number; after an end-of-turn token comes padding."""
    ids, mask = _left_pad([inputs[n] for n in batch], settings.pad_token_id, loaded.device)
    with _only_these(loaded.model, settings):
        out = loaded.model.generate(
            input_ids=ids,
            attention_mask=mask,
            logits_processor=LogitsProcessorList([_Sound(loaded.name)]),
            **options,
        )
    return dict(zip(batch, out[:, ids.shape[1] :].tolist(), strict=True))


class _Sound(LogitsProcessor):
    """Stops where the logits are broken: the most probable token of NaN is a token, too."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, _ids: Any, scores: Any) -> Any:
        """Pass the logits on as they are."""
        if not scores.amax(dim=-1).isfinite().all():
            raise not_finite(self._name)
        return scores


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
