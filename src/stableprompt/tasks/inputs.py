"""An input as a user gives it, without any right answer."""

from collections.abc import Mapping
from typing import Any

from stableprompt.errors import ConfigError
from stableprompt.tasks.example import Example
from stableprompt.tasks.formats import CHOICES, InputFormat
from stableprompt.tasks.placeholders import placeholders


def example_of(given: str | Mapping[str, Any], layout: InputFormat, *, prompt: str = "") -> Example:
    """One input, laid out as the examples were that the prompt was tuned on.

    Args:
        given: The input; or its fields by name, ``choices`` being a list.
        layout: How fields become the input.
        prompt: The prompt it will stand under: what fields it places by name must be given.

    Raises:
        ConfigError: fields are missing or no texts, or an input of several was given as one text
            to a prompt that places them one by one.
    """
    names = placeholders(layout.layout)
    if isinstance(given, str):
        fields = dict.fromkeys(names, given) if len(names) == 1 else {}
        _require(names & placeholders(prompt), fields, names)
        return Example(given, "", fields=fields)
    choices = given.get(CHOICES)
    listed = () if choices is None or isinstance(choices, str) else tuple(choices)
    fields = {**given, **({CHOICES: layout.choice_list(listed)} if listed else {})}
    for name, value in fields.items():
        if not isinstance(value, str):
            raise ConfigError(f"the field {name!r} is {value!r}; give a text")
    _require(names, fields, names)
    words = layout.answer_words(listed)
    return Example(layout.text(fields), "", choices=words, fields=fields)


def _require(needed: frozenset[str], fields: Mapping[str, str], names: frozenset[str]) -> None:
    missing = sorted(needed - fields.keys())
    if missing:
        raise ConfigError(
            f"the input has no field {missing[0]!r}; give a mapping with {sorted(names)}"
        )
