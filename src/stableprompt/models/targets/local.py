"""A target in this process: a causal LM that scores words as sequences, and answers freely."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.utils.rnn import pad_sequence

from stableprompt.errors import ModelError
from stableprompt.models.chat import (
    Message,
    encode_answer,
    encode_chat,
    encode_plain,
    special_tokens,
)
from stableprompt.models.likelihood import Likelihood, continues_exactly
from stableprompt.models.loading import LoadedModel
from stableprompt.models.numbers import not_finite
from stableprompt.models.targets.interface import Answers, LabelScores, Usage
from stableprompt.models.targets.writing import write_greedily

ANSWER_ROOM = 32  # tokens kept free for a label

_KNOWN_LABELS = 10_000  # sets of words whose token ids are kept

_Labels = list[list[int]]  # the token ids of each word that may be answered


class LocalTarget:
    """Scores words over a tree of all that is read, so that what is shared is read once.

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
        self._likelihood = Likelihood(loaded, max_batch_tokens=max_batch_tokens)
        self._labels: dict[tuple[str, ...], _Labels] = {}

    def close(self) -> None:
        """Nothing is open."""

    @property
    def gives_probabilities(self) -> bool:
        """It does: all of its output can be read."""
        return True

    @property
    def at_once(self) -> int | None:
        """All: what they share is read once."""
        return None

    @property
    def requests(self) -> Mapping[str, int]:
        """None."""
        return {}

    @property
    def how(self) -> str:
        """In this process."""
        return "probabilities of the answers, in this process"

    @property
    def loaded(self) -> LoadedModel:
        """The checkpoint that answers."""
        return self._loaded

    @property
    def plain(self) -> bool:
        """Whether it reads raw texts."""
        return self._plain

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

    def label_scores(
        self, conversations: Sequence[Sequence[Message]], words: Sequence[Sequence[str]]
    ) -> LabelScores:
        """Log-probabilities of whole words, made probabilities over those of a conversation."""
        inputs = [self._encode(conversation) for conversation in conversations]
        labels = [self._encode_labels(tuple(own)) for own in words]
        with self._speaking():
            logprobs, num_tokens = self._likelihood.logprobs(
                inputs, labels, share=continues_exactly(self._loaded)
            )
        table = pad_sequence(logprobs, batch_first=True, padding_value=-torch.inf)
        label_probs = table.softmax(dim=1)
        if not label_probs.isfinite().all():  # a judge, too, would read them as some number
            raise not_finite(self.name)
        return LabelScores(label_probs, Usage(read=num_tokens))

    def _encode_labels(self, words: tuple[str, ...]) -> _Labels:
        """Token ids of each word as an answer; the same few words are asked for again and again.

        Where one word's tokens begin another's ("on", "on hold"), the end of the turn is scored
        too: without it the shorter one could never be less probable.
        """
        if words in self._labels:
            return self._labels[words]
        tokenizer = self._loaded.tokenizer
        encoded = [encode_answer(tokenizer, word, plain=self._plain) for word in words]
        if not all(encoded) or len({tuple(ids) for ids in encoded}) < len(encoded):
            raise ModelError(
                f"the target's tokenizer cannot tell the label words {', '.join(words)} "
                "apart; give others as label_words"
            )
        if any(a is not b and b[: len(a)] == a for a in encoded for b in encoded):
            encoded = [[*ids, self._loaded.end_of_turn_ids[0]] for ids in encoded]
        if len(self._labels) < _KNOWN_LABELS:
            self._labels[words] = encoded
        return encoded
