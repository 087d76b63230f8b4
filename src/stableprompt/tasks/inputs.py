"""An input as a user gives it, without any right answer."""

from collections.abc import Mapping
from typing import Any

from stableprompt.errors import ConfigError
from stableprompt.tasks.answers import choices_of
from stableprompt.tasks.example import Example
from stableprompt.tasks.formats import CHOICES, InputFormat
from stableprompt.tasks.placeholders import placeholders


def example_of(given: str | Mapping[str, Any], layout: InputFormat, *, prompt: str = "") -> Example:
    """One input, laid out as the examples were that the prompt was tuned on.

    Args:
        given: The fields of the input by name, ``choices`` being a list; or a text: the one field,
            or, where there are several, the whole input as it was laid out.
        layout: How fields become the input.
        prompt: The prompt it will stand under: what fields it places by name must be given.

    Raises:
        ConfigError: fields are missing or no texts, or an input of several was given as one text
            to a prompt that places them one by one.
        DataError: the choices are fewer than 2 or more than 26.
    """
    names = placeholders(layout.layout)
    if isinstance(given, str):
        fields = {name: given.strip() for name in names} if len(names) == 1 else {}
        _require(names & placeholders(prompt), fields, names)
        return Example(layout.text(fields) if fields else given.strip(), "", fields=fields)
    _require(names, given, names)
    fields = {name: given[name] for name in names}
    words: tuple[str, ...] = ()
    if CHOICES in names and not _laid_out(given[CHOICES]):
        choices = choices_of(given[CHOICES], "the input")
        fields[CHOICES], words = layout.choice_list(choices), layout.answer_words(choices)
    for name, value in fields.items():
        if not isinstance(value, str):
            raise ConfigError(f"the field {name!r} is {value!r}; give a text")
        fields[name] = value.strip()
    return Example(layout.text(fields), "", choices=words, fields=fields)


def _laid_out(choices: object) -> bool:
    """Whether these are choices as the target reads them, one a line."""
    return isinstance(choices, str) and choices.lstrip().startswith(("A. ", "- "))


def _require(needed: frozenset[str], given: Mapping[str, Any], names: frozenset[str]) -> None:
    missing = sorted(needed - given.keys())
    if missing:
        raise ConfigError(
            f"the input has no field {missing[0]!r}; give a mapping with {sorted(names)}"
        )
