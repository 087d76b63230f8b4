"""Rows -> disjoint splits: split column or cut by label, duplicates dropped, labels checked."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypedDict

from stableprompt.errors import ConfigError, DataError
from stableprompt.tasks.columns import Columns, resolve_columns
from stableprompt.tasks.example import Example
from stableprompt.tasks.records import Record, examples_from, label_name, split_names_from
from stableprompt.tasks.splits import (
    DEFAULT_FRACTIONS,
    SPLIT_NAMES,
    Splits,
    carve_validation,
    drop_duplicates,
    split_examples,
)
from stableprompt.tasks.verbalizer import Verbalizer
from stableprompt.tasks.wording import listed, quoted

MOST_LABELS: Final = 50
"""More distinct labels than this are taken for free text."""


class LoadOptions(TypedDict, total=False):
    """The keyword options that every way of loading a task accepts.

    Attributes:
        name: Name of the task; the file's name without extension by default.
        text: The text column; guessed from common names by default.
        label: The label column; guessed from common names by default.
        seed_prompt: The prompt to start from; a plain one naming the labels by default.
        label_words: Label -> what the target should answer for it; the labels
            themselves by default. Its order becomes the order of the labels.
        fractions: Shares of train, validation and test where there is no split column.
        seed: Decides which example goes to which split.
    """

    name: str
    text: str | None
    label: str | None
    seed_prompt: str | None
    label_words: Mapping[str, str] | None
    fractions: Sequence[float]
    seed: int


@dataclass(frozen=True, slots=True)
class LoadedSplits:
    """What the rows became.

    Attributes:
        splits: Disjoint, each with at least one example.
        labels: In the order in which the rows first have them.
        notes: One line for each thing that was done to the rows on the way.
    """

    splits: Splits
    labels: tuple[str, ...]
    notes: tuple[str, ...]


def load_splits(records: Iterable[Record], options: LoadOptions) -> LoadedSplits:
    """Turn rows into splits.

    Args:
        records: The rows, from a file or from Python.
        options: Of these, text, label, fractions and seed are used.

    Raises:
        DataError: the rows cannot be used as they are.
    """
    rows = _checked_rows(records)
    columns = resolve_columns(
        list(dict.fromkeys(name for row in rows for name in row)),
        options.get("text"),
        options.get("label"),
    )
    examples = examples_from(rows, columns)
    given, dropped = drop_duplicates(_as_given(rows, columns, examples))

    left = given.labels()
    labels = tuple(dict.fromkeys(e.label for e in examples if e.label in left))
    _check_labels(labels, columns.label)
    splits = _complete(given, columns, options)
    _require_labels_in_train(splits)
    return LoadedSplits(splits, labels, tuple(_notes(splits, given, dropped)))


def verbalizer_for(labels: Sequence[str], label_words: Mapping[str, str] | None) -> Verbalizer:
    """The verbalizer for labels found in the data.

    Args:
        labels: The labels of the examples.
        label_words: Label -> label word, or None for the labels themselves.

    Raises:
        ConfigError: the words are not for exactly these labels.
    """
    if label_words is None:
        return Verbalizer.identity(labels)
    # Labels read as 0 and 1 are strings here, but numbers where the user writes {0: "no"}.
    words = {label_name(key, "label_words") or "": word for key, word in label_words.items()}
    if set(words) != set(labels):
        raise ConfigError(
            f"label_words must name each label once: found words for {listed(words)}, but the "
            f"labels in the data are {listed(labels)}"
        )
    return Verbalizer(words)


def _checked_rows(records: Iterable[Record]) -> list[Record]:
    rows = list(records)
    if not rows:
        raise DataError("there are no rows: add examples")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise DataError(
                f"row {number} is a {type(row).__name__}, not a mapping: "
                'write {"text": "...", "label": "..."}'
            )
    return rows


def _as_given(rows: Sequence[Record], columns: Columns, examples: Sequence[Example]) -> Splits:
    """The splits as the split column says; without one, all in train for the time being."""
    if columns.split is None:
        return Splits(train=tuple(examples))
    names = split_names_from(rows, columns.split)
    missing = {"train", "test"} - set(names)
    if missing:
        raise DataError(
            f"the column {quoted(columns.split)} has only {', '.join(sorted(set(names)))}: it must "
            "have train and test (validation is cut from train if need be); or rename the column "
            "to have the rows split"
        )
    return Splits(
        *(
            tuple(example for example, own in zip(examples, names, strict=True) if own == name)
            for name in SPLIT_NAMES
        )
    )


def _complete(given: Splits, columns: Columns, options: LoadOptions) -> Splits:
    seed = options.get("seed", 0)
    fractions = options.get("fractions", DEFAULT_FRACTIONS)
    if columns.split is None:
        return split_examples(given.train, seed=seed, fractions=fractions)
    if not given.validation:
        return carve_validation(given, seed=seed, fractions=fractions)
    return given


def _check_labels(labels: Sequence[str], column: str) -> None:
    if len(labels) < 2:
        raise DataError(
            f"the column {quoted(column)} has only one label, {listed(labels)}: a task needs "
            "examples of at least two; add them, or name another column with --label COLUMN"
        )
    if len(labels) > MOST_LABELS:
        raise DataError(
            f"the column {quoted(column)} has {len(labels)} distinct labels (at most "
            f"{MOST_LABELS}), which looks like free text: only classification is supported; name "
            "another column with --label COLUMN, or merge labels"
        )


def _require_labels_in_train(splits: Splits) -> None:
    known = {example.label for example in splits.train}
    for name in SPLIT_NAMES[1:]:
        unseen = dict.fromkeys(e.label for e in splits.part(name) if e.label not in known)
        if unseen:
            raise DataError(
                f"the {name} split has labels that train does not have: {listed(unseen)}; add "
                "train examples of them that are not repeated in another split, or remove them"
            )


def _notes(splits: Splits, given: Splits, dropped: int) -> Iterable[str]:
    if dropped:
        rows = "1 duplicate row" if dropped == 1 else f"{dropped} duplicate rows"
        yield f"{rows} dropped (same text but for case and white space)"
    if given.test and not given.validation:
        yield f"{len(splits.validation)} of {len(given.train)} train examples made validation"
    for name in SPLIT_NAMES[1:]:
        absent = sorted(splits.labels() - {example.label for example in splits.part(name)})
        if absent:
            yield f"no {name} example has the label {listed(absent)}"
