"""From the fields of an example to the one input that the target reads."""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from stableprompt.errors import ConfigError
from stableprompt.tasks.placeholders import fill, placeholders
from stableprompt.tasks.wording import listed, quoted

ChoiceStyle = Literal["letters", "text"]
CHOICES: Final = "choices"
"""The placeholder for the list of choices."""
MOST_CHOICES: Final = len(string.ascii_uppercase)


@dataclass(frozen=True, slots=True)
class InputFormat:
    """How an example's fields, and its choices if it has some, are laid out.

    Attributes:
        layout: Text with a placeholder for each field, such as
            ``"Premise: {premise}\\nHypothesis: {hypothesis}"``, and ``{choices}`` for the list.
        choice_style: "letters": choices are listed as "A. ...", and a letter is the answer;
            "text": they are listed as "- ...", and the choice's own text is the answer.
    """

    layout: str
    choice_style: ChoiceStyle = "letters"

    def __post_init__(self) -> None:
        if self.choice_style not in get_args(ChoiceStyle):
            raise ConfigError(
                f"choice_style must be one of {', '.join(get_args(ChoiceStyle))}, found "
                f"{self.choice_style!r}"
            )

    @classmethod
    def plain(
        cls, fields: Sequence[str], *, with_choices: bool, choice_style: ChoiceStyle = "letters"
    ) -> "InputFormat":
        """One field as it is; several under their names, one a line; choices below them."""
        if len(fields) == 1:
            lines = [f"{{{fields[0]}}}"]
        else:
            lines = [f"{_titled(name)}: {{{name}}}" for name in fields]
        if with_choices:
            lines.append(f"{{{CHOICES}}}")
        return cls("\n".join(lines), choice_style)

    def require_fields(self, fields: Sequence[str], *, with_choices: bool) -> None:
        """Check that the layout shows exactly what an example has.

        Raises:
            ConfigError: it leaves a field out, or names one that there is not.
        """
        known = {*fields, CHOICES} if with_choices else set(fields)
        shown = placeholders(self.layout)
        for name in sorted(known - shown):
            raise ConfigError(
                f"input_format {quoted(self.layout)} does not show the field {quoted(name)}: "
                f"write {{{name}}} where it belongs"
            )
        for name in sorted(shown - known):
            raise ConfigError(
                f"input_format {quoted(self.layout)} has the placeholder {{{name}}}, but the "
                f"fields are {listed(sorted(known))}: correct it"
            )

    def answer_words(self, choices: Sequence[str]) -> tuple[str, ...]:
        """What may be answered for each choice, in order."""
        if self.choice_style == "text":
            return tuple(choices)
        return tuple(string.ascii_uppercase[: len(choices)])

    def choice_list(self, choices: Sequence[str]) -> str:
        """The choices as the target reads them, one a line."""
        if self.choice_style == "text":
            return "\n".join(f"- {choice}" for choice in choices)
        letters = self.answer_words(choices)
        return "\n".join(f"{a}. {choice}" for a, choice in zip(letters, choices, strict=True))

    def text(self, fields: Mapping[str, str]) -> str:
        """The whole input; the fields of a multiple-choice example hold the list of choices."""
        return fill(self.layout, fields)


def _titled(name: str) -> str:
    return name.replace("_", " ").strip().capitalize()
