"""How a prompt and one input become what the target reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from stableprompt.config import TargetConfig
from stableprompt.errors import ConfigError
from stableprompt.tasks.example import Example
from stableprompt.tasks.placeholders import WHOLE_INPUT, fill, placeholders

Message = dict[str, str]
"""One chat message: its "role" and its "content"."""

Position = Literal["user", "system"]
Order = Literal["prompt_first", "input_first"]
Format = Literal["chat", "plain"]

_PLACEHOLDER = f"{{{WHOLE_INPUT}}}"


@dataclass(frozen=True, slots=True)
class TargetTemplate:
    """Where the prompt stands and how the input is shown; exactly this is scored.

    A prompt that holds placeholders of the input (``{text}``, or fields such as ``{premise}``)
    is the whole user message, with the input put in; position, order, input_format and separator
    then do not matter.

    Attributes:
        position: "user": prompt and input share the user message; "system": the
            prompt is the system message and the user message holds the input alone.
        order: Which of the two comes first in a shared message.
        input_format: How the input is shown; contains ``{text}`` once.
        separator: What stands between prompt and input in a shared message.
        format: "chat": messages in the target's chat template; "plain": one raw text without
            any, as base models read it; prompt and input then share it, whatever the position.
    """

    position: Position = "user"
    order: Order = "prompt_first"
    input_format: str = "Text: {text}"
    separator: str = "\n\n"
    format: Format = "chat"

    def __post_init__(self) -> None:
        _require_choice("position", self.position, get_args(Position))
        _require_choice("order", self.order, get_args(Order))
        _require_choice("format", self.format, get_args(Format))
        found = self.input_format.count(_PLACEHOLDER)
        if found != 1:
            raise ConfigError(
                f"input_format must contain {_PLACEHOLDER} exactly once, found {found} times in "
                f"{self.input_format!r}: write for example 'Text: {_PLACEHOLDER}'"
            )

    def messages(self, prompt: str, example: Example) -> list[Message]:
        """The messages for one input under this prompt; a plain text is one user message.

        Prompt and input are put in as they are: braces inside an input mean nothing.
        """
        parts: Mapping[str, str] = {**example.fields, WHOLE_INPUT: example.text}
        if placeholders(prompt) & parts.keys():
            return [{"role": "user", "content": fill(prompt, parts)}]
        # One pass over the format, which holds one placeholder: the text is never searched.
        shown = self.input_format.replace(_PLACEHOLDER, example.text)
        if self.position == "system" and self.format == "chat":
            return [
                {"role": "system", "content": prompt},
                {"role": "user", "content": shown},
            ]
        both = (prompt, shown) if self.order == "prompt_first" else (shown, prompt)
        return [{"role": "user", "content": self.separator.join(both)}]


def template_of(target: TargetConfig) -> TargetTemplate:
    """The template that the settings describe."""
    return TargetTemplate(
        target.position, target.order, target.input_format, target.separator, target.format
    )


def _require_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{field} must be one of {', '.join(choices)}, found {value!r}")
