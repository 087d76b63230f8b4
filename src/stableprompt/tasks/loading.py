"""Rows -> disjoint splits: kind, split column or seeded cut, duplicates dropped, labels checked."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypedDict

from stableprompt.errors import ConfigError, DataError
from stableprompt.tasks.answers import has_several, label_name
from stableprompt.tasks.columns import Columns, resolve_columns
from stableprompt.tasks.example import Example, TaskKind
from stableprompt.tasks.formats import CHOICES, ChoiceStyle, InputFormat
from stableprompt.tasks.near_duplicates import near_duplicate_note, near_duplicates
from stableprompt.tasks.records import Record, examples_from, field_names, split_names_from
from stableprompt.tasks.splits import (
    DEFAULT_FRACTIONS,
    SPLIT_NAMES,
    SplitName,
    Splits,
    carve_validation,
    drop_duplicates,
    limit_splits,
    merge_answers,
    num_contradictions,
    split_examples,
)
from stableprompt.tasks.verbalizer import Verbalizer
from stableprompt.tasks.wording import listed, quoted

MOST_LABELS: Final = 50
"""More distinct labels than this are taken for free text."""
FEWEST_TO_SHUFFLE: Final = 10
"""In fewer rows the right choices may all have one place by chance."""
MOST_COMPARED: Final = 20_000
"""Texts from one template take time that grows with the square of their number."""


class LoadOptions(TypedDict, total=False):
    """The keyword options that every way of loading a task accepts.

    Attributes:
        name: Name of the task; the file's name without extension by default.
        kind: "classification", "multiple_choice" or "generation"; by default multiple choice
            where there is a column of choices, generation where an answer is a list of several
            texts, else classification.
        text: The text column, or several, each a field of the input; guessed by default.
        label: The column of the correct answer: the label; the right choice (its text, letter or
            number from 0); the reference or a list of references. Guessed by default.
        choices: The column of the choices of each example; guessed by default.
        input_format: How several fields become one input, such as
            ``"Premise: {premise}\\nHypothesis: {hypothesis}"``; each under its name by default.
        choice_style: "letters" (default) or "text", see ``InputFormat``.
        seed_prompt: The prompt to start from; a plain one by default.
        label_words: Label -> what the target should answer for it; the labels
            themselves by default. Its order becomes the order of the labels.
        metric: Name of a metric, or a function of an example and a prediction that gives 0 to 1.
        fractions: Shares of train, validation and test where there is no split column.
        seed: Decides which example goes to which split.
        limit: Split -> at most so many examples of it, drawn by the seed.
        max_answer_tokens: Longest answer of a generation task.
        rubric: What a judge requires of an answer; {reference} and {text} are filled in.
    """

    name: str
    kind: str | None
    text: str | Sequence[str] | None
    label: str | None
    choices: str | None
    input_format: str | None
    choice_style: ChoiceStyle
    seed_prompt: str | None
    label_words: Mapping[str, str] | None
    metric: str | Callable[[Example, str], float] | None
    fractions: Sequence[float]
    seed: int
    limit: Mapping[SplitName, int]
    max_answer_tokens: int | None
    rubric: str | None


@dataclass(frozen=True, slots=True)
class LoadedSplits:
    """What the rows became.

    Attributes:
        splits: Disjoint, each with at least one example.
        kind: What the answers are.
        layout: How the fields became the input.
        labels: Of a classification task, in the order in which the rows first have them.
        notes: One line for each thing that was done to the rows on the way.
    """

    splits: Splits
    kind: TaskKind
    layout: InputFormat
    labels: tuple[str, ...]
    notes: tuple[str, ...]


def load_splits(records: Iterable[Record], options: LoadOptions) -> LoadedSplits:
    """Turn rows into splits.

    Args:
        records: The rows, from a file or from Python.
        options: Of these, all but name, seed_prompt, label_words, metric and max_answer_tokens.

    Raises:
        DataError: the rows cannot be used as they are.
        ConfigError: an option contradicts the rows.
    """
    rows = _checked_rows(records)
    columns = resolve_columns(
        list(dict.fromkeys(name for row in rows for name in row)),
        options.get("text"),
        options.get("label"),
        options.get("choices"),
    )
    named_choices = options.get("choices") is not None
    kind = _kind_of(rows, columns, options.get("kind"), named_choices=named_choices)
    layout = _layout_of(columns, kind, options)
    examples = examples_from(rows, columns, kind, layout)
    one_place = kind is TaskKind.MULTIPLE_CHOICE and _have_one_place(examples)
    if one_place:
        examples = examples_from(rows, columns, kind, layout, shuffled=True)
    rough = _as_given(rows, columns, examples)
    if kind is TaskKind.GENERATION:
        rough = merge_answers(rough)
    given, dropped = drop_duplicates(rough)

    labels: tuple[str, ...] = ()
    if kind is TaskKind.CLASSIFICATION:
        left = given.labels()
        labels = tuple(dict.fromkeys(e.label for e in examples if e.label in left))
        _check_labels(labels, columns.label)
    stratum = label_of if labels else one_stratum
    whole = _complete(given, columns, options, stratum)
    splits = limit_splits(
        whole, options.get("limit") or {}, seed=options.get("seed", 0), stratum=stratum
    )
    if labels:
        _require_labels_in_train(splits)
    notes = [
        *_notes_on_reading(rough, columns, kind, named_choices),
        *(["the right choice always had the same place; choices shuffled"] if one_place else []),
        *_notes_on_splits(splits, whole, given, dropped, labels),
    ]
    return LoadedSplits(splits, kind, layout, labels, tuple(notes))


def label_of(example: Example) -> str:
    """Classification is cut label by label."""
    return example.label


def one_stratum(example: Example) -> str:
    """Answers that examples do not share are no groups to cut by."""
    return ""


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


def _kind_of(
    rows: Sequence[Record], columns: Columns, asked: str | None, *, named_choices: bool
) -> TaskKind:
    if asked is not None and asked not in list(TaskKind):
        raise ConfigError(f"kind must be one of {', '.join(TaskKind)}, found {asked!r}")
    if asked == TaskKind.MULTIPLE_CHOICE and columns.choices is None:
        raise DataError(
            "multiple_choice needs a column with the choices of each example: name it with "
            "--choices COLUMN (choices=... in Python)"
        )
    if named_choices and asked not in (None, TaskKind.MULTIPLE_CHOICE):
        raise ConfigError(f"--choices is for multiple choice, not for {asked}; leave one out")
    if asked is not None:
        return TaskKind(asked)
    if columns.choices is not None:
        return TaskKind.MULTIPLE_CHOICE
    several = any(has_several(row.get(columns.label)) for row in rows)
    return TaskKind.GENERATION if several else TaskKind.CLASSIFICATION


def _have_one_place(examples: Sequence[Example]) -> bool:
    """Whether the right choice always has the same place, so that the place gives it away."""
    places = {example.choices.index(example.label) for example in examples}
    return len(examples) >= FEWEST_TO_SHUFFLE and len(places) == 1


def _layout_of(columns: Columns, kind: TaskKind, options: LoadOptions) -> InputFormat:
    with_choices = kind is TaskKind.MULTIPLE_CHOICE
    style = options.get("choice_style", "letters")
    given = options.get("input_format")
    names = field_names(columns.fields)
    if with_choices and CHOICES in names:
        raise DataError(
            f"a text column cannot be called {quoted(CHOICES)} beside a column of choices: "
            "rename it"
        )
    if given is None:
        return InputFormat.plain(names, with_choices=with_choices, choice_style=style)
    layout = InputFormat(given, style)
    layout.require_fields(names, with_choices=with_choices)
    return layout


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


def _complete(
    given: Splits, columns: Columns, options: LoadOptions, stratum: Callable[[Example], str]
) -> Splits:
    seed = options.get("seed", 0)
    fractions = options.get("fractions", DEFAULT_FRACTIONS)
    if columns.split is None:
        return split_examples(given.train, seed=seed, fractions=fractions, stratum=stratum)
    if not given.validation:
        return carve_validation(given, seed=seed, fractions=fractions, stratum=stratum)
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
            f"{MOST_LABELS}), which looks like free text: use --kind generation if it is, name "
            "another column with --label COLUMN, or merge labels"
        )


def _require_labels_in_train(splits: Splits) -> None:
    known = {example.label for example in splits.train}
    for name in SPLIT_NAMES[1:]:
        unseen = dict.fromkeys(e.label for e in splits.part(name) if e.label not in known)
        if unseen:
            raise DataError(
                f"the {name} split has labels that train does not have: {listed(unseen)}; add "
                "train examples of them that are not repeated in another split, remove them, or "
                "raise --limit train"
            )


def _notes_on_reading(
    rough: Splits, columns: Columns, kind: TaskKind, named_choices: bool
) -> Iterable[str]:
    if kind is TaskKind.MULTIPLE_CHOICE and not named_choices:
        yield f"choices are read from the column {quoted(columns.choices)}; --kind says otherwise"
    if kind is TaskKind.CLASSIFICATION and (count := num_contradictions(rough)):
        texts = "1 text has rows" if count == 1 else f"{count} texts have rows"
        yield f"{texts} with different labels; one row is kept"


def _notes_on_splits(
    splits: Splits, whole: Splits, given: Splits, dropped: int, labels: Sequence[str]
) -> Iterable[str]:
    if dropped:
        rows = "1 duplicate row" if dropped == 1 else f"{dropped} duplicate rows"
        yield f"{rows} dropped (same text but for case and white space)"
    if given.test and not given.validation:
        yield f"{len(whole.validation)} of {len(given.train)} train examples made validation"
    for name in SPLIT_NAMES:
        kept, found = len(splits.part(name)), len(whole.part(name))
        if kept < found:
            yield f"{kept} of {found} {name} examples drawn"
    for name in SPLIT_NAMES[1:]:
        absent = sorted(set(labels) - {example.label for example in splits.part(name)})
        if absent:
            yield f"no {name} example has the label {listed(absent)}"
    if sum(len(splits.part(name)) for name in SPLIT_NAMES) > MOST_COMPARED:
        yield f"nearly equal texts were not looked for among more than {MOST_COMPARED} examples"
    elif near := near_duplicate_note(near_duplicates(splits)):
        yield near
