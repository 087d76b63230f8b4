"""Placeholders in prompts and layouts: ``{name}`` or ``{{ name }}``, filled in one pass.

What is put in is never searched again: braces inside a text mean nothing. A name that is not
known stays as it is written, so that a prompt may carry variables of the user's own.
"""

import re
from collections.abc import Collection, Mapping
from typing import Final

# Letters first: {"json": 1}, {0} and {} are no placeholders.
_NAME = r"[^\W\d][\w .\-]*"
_PLACEHOLDER: Final = re.compile(rf"\{{\{{\s*({_NAME}?)\s*\}}\}}|\{{({_NAME})\}}")

WHOLE_INPUT: Final = "text"
"""The placeholder for the whole input, in every task."""


def placeholders(text: str) -> frozenset[str]:
    """The names of all placeholders in the text."""
    return frozenset(_name(match) for match in _PLACEHOLDER.finditer(text))


def fill(text: str, values: Mapping[str, str]) -> str:
    """The text with the value in place of each placeholder whose name is known."""
    return _PLACEHOLDER.sub(lambda match: values.get(_name(match), match.group()), text)


def marks(text: str, known: Collection[str]) -> frozenset[str]:
    """The placeholders that two prompts must share: known ones by name, others as written.

    A known placeholder is filled in here, however it is spelled; another is a variable that the
    user fills in, with a program that wants it as it was.
    """
    found = _PLACEHOLDER.finditer(text)
    return frozenset(_name(m) if _name(m) in known else m.group() for m in found)


def placeholder_name(column: str) -> str:
    """The name under which a column can stand in a placeholder: "a/b (c)" becomes "a_b _c"."""
    name = re.sub(r"[^\w .\-]", "_", column).strip("_ .-")
    return name if re.match(r"[^\W\d]", name) else f"field {name}".strip()


def _name(match: re.Match[str]) -> str:
    return match.group(1) or match.group(2)
