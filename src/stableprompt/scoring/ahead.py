"""The target is asked about a prompt while the agent still writes the others.

What is sent here is asked once more, in order, when all are written: then the answer is there, or
under way. Scores, ledger and limits know nothing of it, so no figure depends on it.
"""

from collections.abc import Callable, Sequence

from stableprompt.models.chat import Message
from stableprompt.models.targets.ahead import AsksAhead
from stableprompt.tasks.example import Example

Pairs = Callable[
    [str, Sequence[Example]], tuple[Sequence[Sequence[Message]], list[list[str]] | None]
]
"""The conversations about a prompt that are not known already, and the words to choose from."""


class Ahead:
    """Sends prompts of one step ahead, or nothing where that gains nothing.

    Args:
        target: Asked, where it waits for others to compute; None sends nothing.
        pairs: What is to be asked.
        max_tokens: Of a free answer.
    """

    def __init__(self, target: AsksAhead | None, pairs: Pairs, max_tokens: int) -> None:
        self._target, self._pairs, self._max_tokens = target, pairs, max_tokens
        if target is not None:
            target.forget_ahead()  # what the last step did not need

    @property
    def wanted(self) -> bool:
        """Whether anything is sent."""
        return self._target is not None

    def ask(self, prompt: str, examples: Sequence[Example]) -> None:
        """Begin with a prompt that will be scored on these examples."""
        if self._target is not None:
            conversations, words = self._pairs(prompt, examples)
            self._target.ask_ahead(conversations, words, self._max_tokens)
