"""Rows -> examples: texts and labels cleaned, and every row that has none refused.

Rows are counted from 1, the header of a file not included.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from stableprompt.errors import DataError
from stableprompt.tasks.columns import Columns, split_name
from stableprompt.tasks.example import Example
from stableprompt.tasks.splits import SplitName
from stableprompt.tasks.wording import quoted, rows_listed

Record = Mapping[str, object]

_HALF_CHARACTER: Final = re.compile("[\ud800-\udfff]")


def examples_from(records: Sequence[Record], columns: Columns) -> list[Example]:
    """One example for each row, in the order of the rows.

    Args:
        records: The rows; a row may lack a column, which is then missing in it.
        columns: Which column is the text and which the label.

    Raises:
        DataError: some row has no text, no label, or a label that is no class name.
    """
    texts = [_clean_text(record.get(columns.text)) for record in records]
    _require_all(texts, f"no text in column {quoted(columns.text)} (a text is a non-empty string)")
    labels = [
        label_name(record.get(columns.label), f"row {number}")
        for number, record in enumerate(records, start=1)
    ]
    _require_all(labels, f"no label in column {quoted(columns.label)}")
    examples = [Example(text or "", label or "") for text, label in zip(texts, labels, strict=True)]
    _require_whole_characters(examples)
    return examples


def split_names_from(records: Sequence[Record], column: str) -> list[SplitName]:
    """The split of each row, in the order of the rows.

    Raises:
        DataError: some cell names no split.
    """
    names: list[SplitName] = []
    for number, record in enumerate(records, start=1):
        name = split_name(record.get(column))
        if name is None:
            raise DataError(
                f"row {number} has {quoted(record.get(column))} in the column {quoted(column)}: "
                "write train, validation or test, or rename the column to have the rows split"
            )
        names.append(name)
    return names


def label_name(value: object, place: str) -> str | None:
    """The label as a stripped string, None if it is missing.

    Args:
        value: A string, a boolean or a whole number; None, NaN and "" are missing.
        place: Where the value stands, for the message.

    Raises:
        DataError: the value is of another kind, such as 0.37 or a list.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of whole numbers with a gap arrives as 1.0, 2.0
    if not isinstance(value, str | int):
        raise DataError(
            f"the label in {place} is {quoted(value)} ({type(value).__name__}): a label must be a "
            "class name (a string, a whole number or a boolean); only classification is supported"
        )
    return str(value).strip() or None


def _clean_text(value: object) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _require_all(values: Sequence[str | None], lack: str) -> None:
    missing = [number for number, value in enumerate(values, start=1) if value is None]
    if missing:
        raise DataError(f"{rows_listed(missing)} with {lack}: fill them in or remove these rows")


def _require_whole_characters(examples: Sequence[Example]) -> None:
    broken = [
        number
        for number, example in enumerate(examples, start=1)
        if _HALF_CHARACTER.search(example.text + example.label)
    ]
    if broken:
        raise DataError(
            f"{rows_listed(broken)} with half a character (a lone surrogate such as \\ud83d, "
            "often a text cut in the middle of an emoji): correct or remove these rows"
        )
