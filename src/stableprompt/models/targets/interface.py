"""What the scorer needs of a target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from stableprompt.models.chat import Message


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of some answers; those of an answer that was on disk are counted like any other."""

    read: int = 0
    """Tokens that the target read; in this process those shared between the conversations once."""
    written: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.read + other.read, self.written + other.written)


@dataclass(frozen=True, slots=True)
class LabelScores:
    """What a target made of N conversations."""

    label_probs: Tensor
    """Probabilities of the words that may be answered, float32 on the CPU, (N, C); a row sums to 1.
    Where a conversation has fewer than C words, the rest of its row is 0. A row of zeros: what was
    answered is none of the words, or nothing was (``failed``)."""
    usage: Usage
    failed: Mapping[int, str] = field(default_factory=dict)
    """Conversations without an answer, by number, and why: they failed for good."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a target wrote in N conversations."""

    texts: tuple[str, ...]
    """The new text alone, never what was read; stripped. "" where a conversation failed."""
    usage: Usage
    failed: Mapping[int, str] = field(default_factory=dict)
    """Conversations without an answer, by number, and why: they failed for good."""


class TargetLLM(Protocol):
    """A frozen LLM that can say how probable given answers are, and answer freely."""

    name: str

    @property
    def gives_probabilities(self) -> bool:
        """Whether ``label_scores`` says how probable each word is, or only which was answered."""
        ...

    @property
    def at_once(self) -> int | None:
        """How many conversations to send between two looks at the limits of a run; None: all of
        them, where what they share is read once."""
        ...

    @property
    def requests(self) -> Mapping[str, Any]:
        """Sent so far, retries among them, and answers that were on disk; {} in this process."""
        ...

    @property
    def how(self) -> str:
        """How its answers are had, in a few words, for the record."""
        ...

    def label_scores(
        self, conversations: Sequence[Sequence[Message]], words: Sequence[Sequence[str]]
    ) -> LabelScores:
        """Score words as the assistant's answer to each conversation.

        Args:
            conversations: Chat messages, N of them; a plain text is one message.
            words: For each conversation what may be answered, whole sequences of tokens.

        Raises:
            TargetError: it refuses, or too many calls failed for good.
        """
        ...

    def generate(self, conversations: Sequence[Sequence[Message]], max_tokens: int) -> Answers:
        """The most probable answer to each conversation, token by token (greedy).

        Args:
            conversations: Chat messages, N of them; a plain text is one message.
            max_tokens: Longer answers are cut.

        Raises:
            TargetError: it refuses, or too many calls failed for good.
        """
        ...

    def num_tokens(self, text: str) -> int:
        """How many tokens the text is as an answer."""
        ...

    def close(self) -> None:
        """Let go of what is open elsewhere; it answers no more."""
        ...

    def markup(self) -> list[str]:
        """The strings that its tokenizer reads as chat markup."""
        ...

    def fits(self, conversation: Sequence[Message], room: int) -> bool:
        """Whether a conversation, ``room`` more tokens and a short answer fit the context."""
        ...
