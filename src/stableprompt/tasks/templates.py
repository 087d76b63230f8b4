"""How a prompt and one text become the chat messages that the target reads."""

from dataclasses import dataclass
from typing import Literal, get_args

from stableprompt.errors import ConfigError

Message = dict[str, str]
"""One chat message: its "role" and its "content"."""

Position = Literal["user", "system"]
Order = Literal["prompt_first", "input_first"]

_PLACEHOLDER = "{text}"


@dataclass(frozen=True, slots=True)
class TargetTemplate:
    """Where the prompt stands and how the text is shown; exactly this is scored.

    Attributes:
        position: "user": prompt and text share the user message; "system": the
            prompt is the system message and the user message holds the text alone.
        order: Which of the two comes first in a shared message.
        input_format: How the text is shown; contains ``{text}`` once.
        separator: What stands between prompt and text in a shared message.
    """

    position: Position = "user"
    order: Order = "prompt_first"
    input_format: str = "Text: {text}"
    separator: str = "\n\n"

    def __post_init__(self) -> None:
        _require_choice("position", self.position, get_args(Position))
        _require_choice("order", self.order, get_args(Order))
        found = self.input_format.count(_PLACEHOLDER)
        if found != 1:
            raise ConfigError(
                f"input_format must contain {_PLACEHOLDER} exactly once, found {found} times in "
                f"{self.input_format!r}: write for example 'Text: {_PLACEHOLDER}'"
            )

    def messages(self, prompt: str, text: str) -> list[Message]:
        """The chat messages for one text under this prompt.

        Both are put in as they are: braces inside them mean nothing.
        """
        # One pass over the format, which holds one placeholder: the text is never searched.
        shown = self.input_format.replace(_PLACEHOLDER, text)
        if self.position == "system":
            return [
                {"role": "system", "content": prompt},
                {"role": "user", "content": shown},
            ]
        parts = (prompt, shown) if self.order == "prompt_first" else (shown, prompt)
        return [{"role": "user", "content": self.separator.join(parts)}]


def _require_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{field} must be one of {', '.join(choices)}, found {value!r}")
