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
    """Probabilities restricted to the labels, rows sum to 1, float32 on the CPU, (N, C)."""
    num_tokens: int
    """Tokens that the target read, those shared between the conversations counted once."""


class TargetLLM(Protocol):
    """A frozen LLM that can say how probable each label word is as the answer."""

    name: str

    def label_scores(
        self, conversations: Sequence[Sequence[Message]], label_words: Sequence[str]
    ) -> LabelScores:
        """Score each label word as the assistant's answer to each conversation.

        Args:
            conversations: Chat messages, N of them.
            label_words: C words, whole sequences of tokens.
        """
        ...

    def markup(self) -> list[str]:
        """The strings that its tokenizer reads as chat markup."""
        ...

    def fits(self, conversation: Sequence[Message], room: int) -> bool:
        """Whether a conversation, ``room`` more tokens and an answer fit the context."""
        ...
