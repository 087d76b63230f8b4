"""What the scorer needs of a target."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from stableprompt.models.chat import Message


@dataclass(frozen=True, slots=True)
class LabelScores:
    """What a target made of N conversations."""

    label_probs: Tensor
    """Probabilities of the words that may be answered, float32 on the CPU, (N, C); a row sums to 1.
    Where a conversation has fewer than C words, the rest of its row is 0."""
    num_tokens: int
    """Tokens that the target read, those shared between the conversations counted once."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a target wrote in N conversations."""

    texts: tuple[str, ...]
    """The new text alone, never what was read; stripped."""
    num_tokens: int
    """Tokens that the target read and wrote."""


class TargetLLM(Protocol):
    """A frozen LLM that can say how probable given answers are, and answer freely."""

    name: str

    def label_scores(
        self, conversations: Sequence[Sequence[Message]], words: Sequence[Sequence[str]]
    ) -> LabelScores:
        """Score words as the assistant's answer to each conversation.

        Args:
            conversations: Chat messages, N of them; a plain text is one message.
            words: For each conversation what may be answered, whole sequences of tokens.
        """
        ...

    def generate(self, conversations: Sequence[Sequence[Message]], max_tokens: int) -> Answers:
        """The most probable answer to each conversation, token by token (greedy).

        Args:
            conversations: Chat messages, N of them; a plain text is one message.
            max_tokens: Longer answers are cut.
        """
        ...

    def num_tokens(self, text: str) -> int:
        """How many tokens the text is as an answer."""
        ...

    def markup(self) -> list[str]:
        """The strings that its tokenizer reads as chat markup."""
        ...

    def fits(self, conversation: Sequence[Message], room: int) -> bool:
        """Whether a conversation, ``room`` more tokens and a short answer fit the context."""
        ...
