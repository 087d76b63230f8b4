"""Which column is the text, which the label, which the split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stableprompt.errors import DataError
from stableprompt.tasks.splits import SplitName
from stableprompt.tasks.wording import listed, quoted

# Tried in this order, without regard to case.
TEXT_NAMES: Final = (
    "text", "sentence", "input", "question", "content", "message", "review", "utterance", "x",
)  # fmt: skip
LABEL_NAMES: Final = (
    "label", "class", "category", "target", "output", "answer", "intent", "y",
)  # fmt: skip
SPLIT_COLUMN: Final = "split"

_SPLIT_SPELLINGS: Final[dict[str, SplitName]] = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of the columns that are read; split is None where the table has none."""

    text: str
    label: str
    split: str | None = None


def resolve_columns(
    columns: Sequence[str], text: str | None = None, label: str | None = None
) -> Columns:
    """Take the columns that are named, guess the others from common names.

    Args:
        columns: The names that the table has.
        text: The text column, if the user named it.
        label: The label column, if the user named it.

    Raises:
        DataError: a named column is missing, one cannot be guessed, or both are the same.
    """
    text_column = text if text is not None else _guess(columns, TEXT_NAMES, taken=label)
    label_column = label if label is not None else _guess(columns, LABEL_NAMES, taken=text_column)
    for role, column in (("text", text_column), ("label", label_column)):
        option = f"--{role} COLUMN ({role}=... in Python)"
        if column is None:
            raise DataError(
                f"no {role} column could be guessed from {listed(columns)}: name it with {option}"
            )
        if column not in columns:
            raise DataError(
                f"no column {quoted(column)}, found {listed(columns)}: name the {role} column "
                f"with {option}"
            )
    if text_column == label_column:
        raise DataError(
            f"text and label are the same column {quoted(text_column)}, found {listed(columns)}: "
            "name two different ones with --text COLUMN and --label COLUMN"
        )
    assert text_column is not None and label_column is not None
    split = _guess(columns, (SPLIT_COLUMN,), taken=None)
    read_already = split in (text_column, label_column)
    return Columns(text_column, label_column, None if read_already else split)


def split_name(value: object) -> SplitName | None:
    """The split that a cell of the split column means, None if it is no split."""
    return _SPLIT_SPELLINGS.get(str(value).strip().casefold())


def _guess(columns: Sequence[str], names: Sequence[str], taken: str | None) -> str | None:
    for name in names:
        for column in columns:
            if column.strip().casefold() == name and column != taken:
                return column
    return None
