"""Rows -> examples: texts and answers cleaned, and every row that has none refused.

Rows are counted from 1, the header of a file not included.
"""

import random
from collections.abc import Mapping, Sequence

from stableprompt.errors import DataError
from stableprompt.tasks.answers import choices_of, label_name, references_of, right_choices
from stableprompt.tasks.columns import Columns, split_name
from stableprompt.tasks.example import Example, TaskKind
from stableprompt.tasks.formats import CHOICES, InputFormat
from stableprompt.tasks.placeholders import placeholder_name
from stableprompt.tasks.splits import SplitName
from stableprompt.tasks.wording import HALF_CHARACTER, listed, quoted, rows_listed

Record = Mapping[str, object]


def examples_from(
    records: Sequence[Record],
    columns: Columns,
    kind: TaskKind,
    layout: InputFormat,
    *,
    shuffled: bool = False,
) -> list[Example]:
    """One example for each row, in the order of the rows.

    Args:
        records: The rows; a row may lack a column, which is then missing in it.
        columns: Which columns are the input, the answer and the choices.
        kind: What the answers are.
        layout: How the fields become the input.
        shuffled: Whether each row's choices are put into an order of their own, which follows
            from its texts alone.

    Raises:
        DataError: some row has no text, no answer, or one that does not fit the kind.
    """
    names = field_names(columns.fields)
    inputs = [_fields(records, name) for name in columns.fields]
    answers = _answers(records, columns, kind)
    _require_all(
        [found[0] if found else None for found in answers],
        f"no label in column {quoted(columns.label)}",
    )
    examples = []
    for number, (record, texts, found) in enumerate(
        zip(records, zip(*inputs, strict=True), answers, strict=True), start=1
    ):
        fields = dict(zip(names, texts, strict=True))
        words: tuple[str, ...] = ()
        if kind is TaskKind.MULTIPLE_CHOICE:
            choices = choices_of(record.get(columns.choices or ""), f"row {number}")
            if shuffled:
                random.Random("\n".join((*texts, *sorted(choices)))).shuffle(choices)
            words = layout.answer_words(choices)
            fields[CHOICES] = layout.choice_list(choices)
            found = [words[choices.index(choice)] for choice in found]
        examples.append(Example(layout.text(fields), found[0], tuple(found[1:]), words, fields))
    _require_whole_characters(examples)
    return examples


def field_names(columns: Sequence[str]) -> list[str]:
    """What the fields are called, in placeholders too.

    Raises:
        DataError: two columns would have the same name.
    """
    names = [placeholder_name(column) for column in columns]
    if len(set(names)) < len(names):
        raise DataError(
            f"the columns {listed(columns)} have names that are too alike ({listed(names)}): "
            "rename one"
        )
    return names


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


def _answers(records: Sequence[Record], columns: Columns, kind: TaskKind) -> list[list[str]]:
    """Everything that is correct for each row; empty where the cell is."""
    values = [record.get(columns.label) for record in records]
    if kind is TaskKind.GENERATION:
        return [references_of(value, f"row {n}") for n, value in enumerate(values, start=1)]
    if kind is TaskKind.MULTIPLE_CHOICE:
        return right_choices(values, [record.get(columns.choices or "") for record in records])
    labels = []
    for number, value in enumerate(values, start=1):
        single = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
        label = label_name(single, f"row {number}")
        labels.append([label] if label is not None else [])
    return labels


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
        if HALF_CHARACTER.search("".join((e.text, *e.answers, *e.choices)))
    ]
    if broken:
        raise DataError(
            f"{rows_listed(broken)} with half a character (a lone surrogate such as \\ud83d, "
            "often a text cut in the middle of an emoji): correct or remove these rows"
        )
