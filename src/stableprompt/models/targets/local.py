"""A target in this process: a causal LM that scores words as sequences, and answers freely."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stableprompt.errors import ModelError
from stableprompt.models.chat import (
    Message,
    encode_answer,
    encode_chat,
    encode_plain,
    special_tokens,
)
from stableprompt.models.loading import LoadedModel
from stableprompt.models.prefix import repeat_cache, right_pad, shared_prefix_length
from stableprompt.models.targets.interface import Answers, LabelScores
from stableprompt.models.targets.writing import write_greedily

ANSWER_ROOM = 32  # tokens kept free for a label

_Labels = list[list[int]]  # the token ids of each word that may be answered


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of a batch: an input, with the head of a long label behind it where one is read."""

    conversation: int
    ids: list[int]  # without the shared prefix
    at: int  # position in ids of the last token before the answer
    labels: tuple[int, ...]  # the labels whose probabilities are read in this row


class LocalTarget:
    """Scores words in batches of like length, with the shared prefix run once.

    Args:
        loaded: The frozen checkpoint.
        speaking: Entered around every forward pass. Where agent and target are one checkpoint
            it switches the adapters off.
        max_batch_tokens: Tokens of one batch, padding and repeated prefixes included.
        plain: Whether it reads raw texts instead of its chat template.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        speaking: Callable[[], AbstractContextManager[None]] = nullcontext,
        max_batch_tokens: int = 4096,
        plain: bool = False,
    ) -> None:
        self.name = loaded.name
        self._loaded = loaded
        self._speaking = speaking
        self._max_batch_tokens = max_batch_tokens
        self._plain = plain

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self._loaded.model.dtype  # type: ignore[no-any-return]

    def markup(self) -> list[str]:
        """The strings that its tokenizer reads as chat markup."""
        return special_tokens(self._loaded.tokenizer)

    def num_tokens(self, text: str) -> int:
        """How many tokens the text is as an answer."""
        return len(encode_answer(self._loaded.tokenizer, text, plain=self._plain))

    def fits(self, conversation: Sequence[Message], room: int) -> bool:
        """Whether a conversation, ``room`` more tokens and a short answer fit the context."""
        used = len(self._encode(conversation))
        return used + room + ANSWER_ROOM <= self._loaded.context_length

    def _encode(self, conversation: Sequence[Message]) -> list[int]:
        if not self._plain:
            return encode_chat(self._loaded.tokenizer, conversation)
        [message] = conversation
        return encode_plain(self._loaded.tokenizer, message["content"])

    def generate(self, conversations: Sequence[Sequence[Message]], max_tokens: int) -> Answers:
        """The most probable answer to each conversation, token by token (greedy)."""
        inputs = [self._encode(conversation) for conversation in conversations]
        with self._speaking():
            return write_greedily(
                self._loaded, inputs, max_tokens, max_batch_tokens=self._max_batch_tokens
            )

    @torch.no_grad()
    def label_scores(
        self, conversations: Sequence[Sequence[Message]], words: Sequence[Sequence[str]]
    ) -> LabelScores:
        """Log-probabilities of whole words, made probabilities over those of a conversation."""
        inputs = [self._encode(conversation) for conversation in conversations]
        known = {given: self._encode_labels(given) for given in set(map(tuple, words))}
        labels = [known[tuple(given)] for given in words]
        shared = shared_prefix_length(inputs)
        rows = list(self._rows(inputs, labels, shared))
        logprobs = torch.full((len(inputs), max(map(len, labels))), -torch.inf)
        with self._speaking():
            cache = self._run_prefix(inputs[0][:shared])
            for batch in self._batches(rows, shared):
                for row, logits in zip(batch, self._logits(cache, shared, batch), strict=True):
                    n = row.conversation
                    for c in row.labels:
                        logprobs[n, c] = _sequence_logprob(logits, labels[n][c])
        num_tokens = shared + sum(len(row.ids) for row in rows)
        return LabelScores(logprobs.softmax(dim=1), num_tokens)

    def _encode_labels(self, words: Sequence[str]) -> _Labels:
        """Token ids of each word as an answer.

        Where one word's tokens begin another's ("on", "on hold"), the end of the turn is scored
        too: without it the shorter one could never be less probable.
        """
        tokenizer = self._loaded.tokenizer
        encoded = [encode_answer(tokenizer, word, plain=self._plain) for word in words]
        if not all(encoded) or len({tuple(ids) for ids in encoded}) < len(encoded):
            raise ModelError(
                f"the target's tokenizer cannot tell the label words {', '.join(words)} "
                "apart; give others as label_words"
            )
        if any(a is not b and b[: len(a)] == a for a in encoded for b in encoded):
            encoded = [[*ids, self._loaded.end_of_turn_ids[0]] for ids in encoded]
        return encoded

    @staticmethod
    def _rows(inputs: list[list[int]], labels: list[_Labels], shared: int) -> Iterator[_Row]:
        """One row an input reads every label of one token; each longer label needs its own."""
        for number, (ids, own_labels) in enumerate(zip(inputs, labels, strict=True)):
            own, at = ids[shared:], len(ids) - shared - 1
            short = tuple(c for c, label in enumerate(own_labels) if len(label) == 1)
            if short:
                yield _Row(number, own, at, short)
            for c, label in enumerate(own_labels):
                if len(label) > 1:
                    yield _Row(number, own + label[:-1], at, (c,))

    def _batches(self, rows: list[_Row], shared: int) -> Iterator[list[_Row]]:
        """Rows of like length together, so that little is padded; the rows alone fix the order.

        The shared prefix counts for every row: its keys and values are repeated in memory.
        """
        batch: list[_Row] = []
        for row in sorted(rows, key=lambda row: len(row.ids)):
            tokens = shared + len(row.ids)
            if batch and tokens * (len(batch) + 1) > self._max_batch_tokens:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _run_prefix(self, prefix: list[int]) -> Any:
        if not prefix:
            return None
        ids = torch.tensor([prefix], device=self._loaded.device)
        return self._loaded.model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values

    def _logits(self, cache: Any, shared: int, batch: list[_Row]) -> list[Tensor]:
        """For each row, the logits from the end of its input on, (tokens, V)."""
        loaded = self._loaded
        ids, mask = right_pad(
            [row.ids for row in batch], int(loaded.tokenizer.pad_token_id), loaded.device
        )
        # The vocabulary is wide: the head runs only at positions where some row is read.
        wanted = sorted({at for row in batch for at in range(row.at, len(row.ids))})
        options: dict[str, Any] = {"logits_to_keep": torch.tensor(wanted, device=loaded.device)}
        if cache is not None:
            mask = torch.cat([mask.new_ones((len(batch), shared)), mask], dim=1)
            options["past_key_values"] = repeat_cache(copy.deepcopy(cache), len(batch))
        logits = loaded.model(input_ids=ids, attention_mask=mask, **options).logits
        place = {position: index for index, position in enumerate(wanted)}
        return [
            row_logits[place[row.at] : place[len(row.ids) - 1] + 1]
            for row, row_logits in zip(batch, logits, strict=True)
        ]


def _sequence_logprob(logits: Tensor, label_ids: list[int]) -> Tensor:
    """Sum of the log-probabilities of a label's tokens, the first read from the first row."""
    told = logits[: len(label_ids)].float().log_softmax(dim=-1)
    ids = torch.tensor(label_ids, device=told.device)
    return told.gather(1, ids.unsqueeze(1)).sum()
