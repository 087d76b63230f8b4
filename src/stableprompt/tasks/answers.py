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


def has_several(value: object) -> bool:
    """Whether a cell holds a list of several answers."""
    return len(_listed(value)) > 1


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


def right_choices(values: Sequence[object], cells: Sequence[object]) -> list[list[str]]:
    """The texts of the right choices of each row, usually one; empty where the value is missing.

    The whole column is read in one way: as texts of choices where all are; else as their names
    (letters, A being the first, or as a hub data set calls them); else as numbers from 0.

    Args:
        values: What is right, row by row; or lists of these where several are.
        cells: The cells with the choices.

    Raises:
        DataError: some row names no choice, or all; or the column can be read in two ways.
    """
    raw = [_raw_choices(cell) for cell in cells]  # as the data count them: repeated ones included
    named = [_named(cell, own) for cell, own in zip(cells, raw, strict=True)]
    numbered = [{str(i): text for i, text in enumerate(own)} for own in raw]
    texts = [dict(zip(own, own, strict=True)) for own in raw]
    wanted = [[_plain(item) for item in _listed(value)] for value in values]
    wanted = [[item for item in items if item is not None and item != ""] for items in wanted]
    readings = [_read(wanted, known) for known in (texts, named, numbered)]
    by_text, by_number = readings[0], readings[2]
    whole = all(isinstance(item, int) for items in wanted for item in items)
    if whole and by_text is not None and by_number is not None and by_text != by_number:
        raise DataError(
            "the labels are numbers that could be texts of choices or places in their list: "
            "write them as letters (A is the first)"
        )
    right = next((reading for reading in readings if reading is not None), None)
    if right is None:
        raise _no_choice(wanted, raw, (texts, named, numbered))
    for number, (chosen, own) in enumerate(zip(right, raw, strict=True), start=1):
        if set(chosen) == set(own):
            raise DataError(
                f"in row {number} every choice is right: {listed(own)}; such a row tells prompts "
                "nothing apart, so remove it"
            )
    return right


def _named(cell: object, raw: Sequence[str]) -> dict[str, str]:
    given = cell.get("label") if isinstance(cell, Mapping) else None
    names = [str(name) for name in _listed(given)] if given is not None else string.ascii_uppercase
    return dict(zip(names, raw, strict=False))


def _read(
    wanted: Sequence[Sequence[object]], known: Sequence[Mapping[str, str]]
) -> list[list[str]] | None:
    """Each row's right choices if all are known; None if one is not."""
    right = []
    for items, own in zip(wanted, known, strict=True):
        keys = [str(item).strip() for item in items]
        if not all(key in own for key in keys):
            return None
        right.append(list(dict.fromkeys(own[key] for key in keys)))
    return right


def _no_choice(
    wanted: Sequence[Sequence[object]],
    raw: Sequence[Sequence[str]],
    readings: Sequence[Sequence[Mapping[str, str]]],
) -> DataError:
    for number, (items, own) in enumerate(zip(wanted, raw, strict=True), start=1):
        for item in items:
            if not any(str(item).strip() in reading[number - 1] for reading in readings):
                return DataError(
                    f"the label in row {number} is {quoted(item)}, and the choices are "
                    f"{listed(own)}: write the text of one of them, its letter, or its number "
                    "counted from 0"
                )
    return DataError(
        "the label column names choices in different ways: write the texts in all rows, or the "
        "letters, or the numbers counted from 0"
    )


def _raw_choices(value: object) -> list[str]:
    if isinstance(value, Mapping):
        value = value.get("text")
    items = _listed(value, numbers=True)
    if isinstance(value, str) and len(items) == 1:
        items = value.split("|")
    return ["" if item is None else str(item).strip() for item in map(_plain, items)]


def _plain(value: object) -> object:
    """A numpy scalar as Python's; NaN as None; 1.0 as 1."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)  # a column of whole numbers with a gap arrives as 1.0, 2.0
    return value


def _listed(value: object, *, numbers: bool = False) -> list[Any]:
    """The items of a list, of a list of texts in JSON, or the value alone.

    Args:
        value: A cell.
        numbers: Whether a list of anything in JSON is a list, too.
    """
    if isinstance(value, list | tuple | np.ndarray):
        return list(value)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            items = json.loads(value)
        except (ValueError, RecursionError):
            return [value]
        texts = isinstance(items, list) and all(isinstance(item, str) for item in items)
        return (
            items if texts or (numbers and isinstance(items, list)) else [value]
        )  # [1, 2] may well be the answer itself
    return [value]
