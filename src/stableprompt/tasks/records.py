"""Rows -> examples: texts and answers cleaned, and every row that has none refused.

Rows are counted from 1, the header of a file not included.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from stableprompt.errors import DataError
from stableprompt.tasks.answers import choices_of, label_name, references_of, right_choices
from stableprompt.tasks.columns import Columns, split_name
from stableprompt.tasks.example import Example, TaskKind
from stableprompt.tasks.formats import CHOICES, InputFormat
from stableprompt.tasks.splits import SplitName
from stableprompt.tasks.wording import quoted, rows_listed

Record = Mapping[str, object]

_HALF_CHARACTER: Final = re.compile("[\ud800-\udfff]")


def examples_from(
    records: Sequence[Record], columns: Columns, kind: TaskKind, layout: InputFormat
) -> list[Example]:
    """One example for each row, in the order of the rows.

    Args:
        records: The rows; a row may lack a column, which is then missing in it.
        columns: Which columns are the input, the answer and the choices.
        kind: What the answers are.
        layout: How the fields become the input.

    Raises:
        DataError: some row has no text, no answer, or one that does not fit the kind.
    """
    inputs = [_fields(records, name) for name in columns.fields]
    answers = [_answers(r, columns, kind, n) for n, r in enumerate(records, start=1)]
    _require_all(
        [found[0] if found else None for found in answers],
        f"no label in column {quoted(columns.label)}",
    )
    examples = []
    for record, texts, found in zip(records, zip(*inputs, strict=True), answers, strict=True):
        fields = dict(zip(columns.fields, texts, strict=True))
        words: tuple[str, ...] = ()
        if kind is TaskKind.MULTIPLE_CHOICE:
            choices = choices_of(record.get(columns.choices or ""), "")
            words = layout.answer_words(choices)
            fields[CHOICES] = layout.choice_list(choices)
            found = [words[choices.index(choice)] for choice in found]
        examples.append(Example(layout.text(fields), found[0], tuple(found[1:]), words, fields))
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


def _fields(records: Sequence[Record], column: str) -> list[str]:
    texts = [_clean_text(record.get(column)) for record in records]
    _require_all(texts, f"no text in column {quoted(column)} (a text is a non-empty string)")
    return [text or "" for text in texts]


def _answers(record: Record, columns: Columns, kind: TaskKind, number: int) -> list[str]:
    """Everything that is correct for the row; empty where the cell is."""
    value, place = record.get(columns.label), f"row {number}"
    if kind is TaskKind.GENERATION:
        return references_of(value, place)
    if kind is TaskKind.MULTIPLE_CHOICE:
        return right_choices(value, record.get(columns.choices or ""), place)
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    label = label_name(value, place)
    return [label] if label is not None else []


def _clean_text(value: object) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _require_all(values: Sequence[str | None], lack: str) -> None:
    missing = [number for number, value in enumerate(values, start=1) if value is None]
    if missing:
        raise DataError(f"{rows_listed(missing)} with {lack}: fill them in or remove these rows")


def _require_whole_characters(examples: Sequence[Example]) -> None:
    broken = [
        number
        for number, e in enumerate(examples, start=1)
        if _HALF_CHARACTER.search("".join((e.text, *e.answers, *e.choices)))
    ]
    if broken:
        raise DataError(
            f"{rows_listed(broken)} with half a character (a lone surrogate such as \\ud83d, "
            "often a text cut in the middle of an emoji): correct or remove these rows"
        )
