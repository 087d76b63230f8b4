"""Cells -> answers: a label, the references of a free answer, the choices and the right ones."""

import json
import math
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stableprompt.errors import DataError
from stableprompt.tasks.formats import MOST_CHOICES
from stableprompt.tasks.wording import listed, quoted


def label_name(value: object, place: str) -> str | None:
    """The label as a stripped string, None if it is missing.

    Args:
        value: A string, a boolean or a whole number; None, NaN and "" are missing.
        place: Where the value stands, for the message.

    Raises:
        DataError: the value is of another kind, such as 0.37 or a list.
    """
    value = _plain(value)
    if value is None:
        return None
    if not isinstance(value, str | int):
        raise DataError(
            f"the label in {place} is {quoted(value)} ({type(value).__name__}): a label must be a "
            "class name (a string, a whole number or a boolean); for free text use "
            "--kind generation"
        )
    return str(value).strip() or None


def references_of(value: object, place: str) -> list[str]:
    """All references of a free answer, each once; empty if there are none.

    Args:
        value: A string or a number; or a list of them, which a cell of a CSV file writes as JSON.
        place: Where the value stands, for the message.

    Raises:
        DataError: the value is of another kind.
    """
    references = []
    for item in _listed(value):
        item = _plain(item)
        if item is not None and not isinstance(item, str | int | float):
            raise DataError(
                f"the answer in {place} is {quoted(item)} ({type(item).__name__}): write a text, "
                "or a list of texts where several are correct"
            )
        if item is not None and str(item).strip():
            references.append(str(item).strip())
    return list(dict.fromkeys(references))


def choices_of(value: object, place: str) -> list[str]:
    """The choices of a row, each once.

    Args:
        value: A list of texts, a list in JSON, texts with | between them, or an object with a
            list named ``text``, as some hub data sets have.
        place: Where the value stands, for the message.

    Raises:
        DataError: there are fewer than 2 or more than 26.
    """
    choices = list(dict.fromkeys(_raw_choices(value)))
    if len(choices) < 2 or len(choices) > MOST_CHOICES or "" in choices:
        raise DataError(
            f"the choices in {place} are {quoted(value)}: write a list of 2 to {MOST_CHOICES} "
            "different texts, or texts with | between them"
        )
    return choices


def right_choices(value: object, cell: object, place: str) -> list[str]:
    """The texts of the right choices, usually one; empty if the value is missing.

    Args:
        value: The text of a choice, its letter (A is the first), its number (0 is the first), or
            a list of these.
        cell: The cell with the choices.
        place: Where the row stands, for the message.

    Raises:
        DataError: there is no such choice, or none is wrong.
    """
    raw = _raw_choices(cell)  # as counted by whoever wrote the data: repeated ones included
    given = cell.get("label") if isinstance(cell, Mapping) else None
    called = [str(name) for name in _listed(given)] if given is not None else string.ascii_uppercase
    names = dict(zip(called, raw, strict=False))
    right = []
    for item in map(_plain, _listed(value)):
        if item is None or item == "":
            continue
        chosen = _chosen(item, raw, names)
        if chosen is None:
            raise DataError(
                f"the label in {place} is {quoted(item)}, and the choices are {listed(raw)}: "
                "write the text of one of them, its letter, or its number counted from 0"
            )
        right.append(chosen)
    if set(right) == set(raw):
        raise DataError(
            f"in {place} every choice is right: {listed(raw)}; such a row tells prompts nothing "
            "apart, so remove it"
        )
    return list(dict.fromkeys(right))


def _raw_choices(value: object) -> list[str]:
    if isinstance(value, Mapping):
        value = value.get("text")
    items = _listed(value)
    if isinstance(value, str) and len(items) == 1:
        items = value.split("|")
    return ["" if item is None else str(item).strip() for item in map(_plain, items)]


def _chosen(item: object, choices: Sequence[str], names: Mapping[str, str]) -> str | None:
    text = str(item).strip()
    if isinstance(item, str) and text in choices:
        return text
    if text in names:
        return names[text]
    # A CSV file has no numbers, only digits; many of them are no number of a choice.
    if isinstance(item, bool) or not text.isdecimal() or len(text) > 3:
        return None
    return choices[int(text)] if int(text) < len(choices) else None


def _plain(value: object) -> object:
    """A numpy scalar as Python's; NaN as None; 1.0 as 1."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)  # a column of whole numbers with a gap arrives as 1.0, 2.0
    return value


def _listed(value: object) -> list[Any]:
    """The items of a list, of a list in JSON, or the value alone."""
    if isinstance(value, list | tuple | np.ndarray):
        return list(value)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            items = json.loads(value)
        except (ValueError, RecursionError):
            return [value]
        texts = isinstance(items, list) and all(isinstance(item, str) for item in items)
        return items if texts else [value]  # [1, 2] may well be the answer itself
    return [value]
