"""Which columns are the input, which the answer, the choices and the split."""

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
    "answer_index", "outputs", "answers", "reference", "references",
)  # fmt: skip
CHOICES_NAMES: Final = ("choices", "options")
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
    """The names of the columns that are read.

    Attributes:
        fields: The parts of the input, at least one.
        label: The correct answer.
        choices: What may be answered, or None where the examples have no choices of their own.
        split: Where each row belongs, or None where the table does not say.
    """

    fields: tuple[str, ...]
    label: str
    choices: str | None = None
    split: str | None = None


def resolve_columns(
    columns: Sequence[str],
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    choices: str | None = None,
) -> Columns:
    """Take the columns that are named, guess the others from common names.

    Args:
        columns: The names that the table has.
        text: The column or columns of the input, if the user named them.
        label: The column of the correct answer, if the user named it.
        choices: The column of the choices, if the user named it.

    Raises:
        DataError: a named column is missing, one cannot be guessed, or one has two roles.
    """
    named = _named(text)
    guessed = _guess(columns, TEXT_NAMES, taken=(label, choices)) if not named else None
    fields = named or ((guessed,) if guessed is not None else ())
    if not fields:
        raise _no_guess("text", columns)
    _require_columns([("text", name) for name in fields], columns)
    taken = (*fields, choices)
    label_column = label if label is not None else _guess(columns, LABEL_NAMES, taken=taken)
    if label_column is None:
        raise _no_guess("label", columns)
    taken = (*fields, label_column)
    choices_column = choices if choices is not None else _guess(columns, CHOICES_NAMES, taken=taken)
    roles = [*(("text", name) for name in fields), ("label", label_column)]
    roles += [("choices", choices_column)] if choices_column is not None else []
    _require_columns(roles, columns)
    _require_one_role_each(roles, columns)
    split = _guess(columns, (SPLIT_COLUMN,), taken=tuple(column for _, column in roles))
    return Columns(tuple(fields), label_column, choices_column, split)


def split_name(value: object) -> SplitName | None:
    """The split that a cell of the split column means, None if it is no split."""
    return _SPLIT_SPELLINGS.get(str(value).strip().casefold())


def _named(text: str | Sequence[str] | None) -> tuple[str, ...]:
    if text is None:
        return ()
    return (text,) if isinstance(text, str) else tuple(text)


def _guess(columns: Sequence[str], names: Sequence[str], taken: Sequence[str | None]) -> str | None:
    for name in names:
        for column in columns:
            if column.strip().casefold() == name and column not in taken:
                return column
    return None


def _require_columns(roles: Sequence[tuple[str, str]], columns: Sequence[str]) -> None:
    for role, column in roles:
        if column not in columns:
            raise DataError(
                f"no column {quoted(column)}, found {listed(columns)}: name the {role} column "
                f"with {_option(role)}"
            )


def _require_one_role_each(roles: Sequence[tuple[str, str]], columns: Sequence[str]) -> None:
    role_of: dict[str, str] = {}
    for role, column in roles:
        other = role_of.setdefault(column, role)
        if other != role:
            raise DataError(
                f"{other} and {role} are the same column {quoted(column)}, found "
                f"{listed(columns)}: name two different ones with --{other} COLUMN and "
                f"--{role} COLUMN"
            )
    if len(role_of) < len(roles):
        raise DataError("a text column is named twice: name each field once")


def _option(role: str) -> str:
    return f"--{role} COLUMN ({role}=... in Python)"


def _no_guess(role: str, columns: Sequence[str]) -> DataError:
    return DataError(
        f"no {role} column could be guessed from {listed(columns)}: name it with {_option(role)}"
    )
