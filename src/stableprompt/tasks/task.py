"""The task: what is tuned for. Examples in three splits, a metric, a prompt to start from."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack, cast

from stableprompt.errors import ConfigError, DataError
from stableprompt.tasks.example import Example, TaskKind
from stableprompt.tasks.formats import InputFormat
from stableprompt.tasks.hub import HUB_PREFIX, parse_hub_name, read_hub
from stableprompt.tasks.loading import LoadedSplits, LoadOptions, load_splits, verbalizer_for
from stableprompt.tasks.metrics.metric import Metric
from stableprompt.tasks.metrics.registry import DEFAULT_METRICS, JUDGE, is_cheap, resolve_metric
from stableprompt.tasks.metrics.trivial import trivial_score
from stableprompt.tasks.notes import notes_on_echo, notes_on_prompt
from stableprompt.tasks.placeholders import WHOLE_INPUT, placeholders
from stableprompt.tasks.promptfoo import from_promptfoo, is_promptfoo
from stableprompt.tasks.records import Record
from stableprompt.tasks.splits import SPLIT_NAMES, SplitName, Splits, require_disjoint
from stableprompt.tasks.table import read_csv, read_jsonl, read_table
from stableprompt.tasks.verbalizer import Verbalizer
from stableprompt.tasks.wording import listed, require_whole_characters

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, slots=True)
class Task:
    """Examples in three disjoint splits, how they are scored, and the seed prompt.

    Make one with ``from_csv``, ``from_jsonl``, ``from_file``, ``from_pandas`` or
    ``from_records``; their keyword options are those of ``LoadOptions``.

    Attributes:
        name: Shown in reports.
        kind: What the target is asked for.
        splits: The examples; ``train``, ``validation`` and ``test`` are short for its parts.
        layout: How the fields of an example became its text.
        metric: What is measured of a prompt.
        verbalizer: The labels in order, each with its label word; classification only.
        seed_prompt: The prompt that tuning starts from and is compared with.
        max_answer_tokens: Longest answer of a generation task; None leaves it to the settings.
        rubric: What a judge requires of an answer; None leaves it to the settings.
        notes: One line for each thing that loading did to the rows.
    """

    name: str
    kind: TaskKind
    splits: Splits
    layout: InputFormat
    metric: Metric
    verbalizer: Verbalizer | None
    seed_prompt: str
    max_answer_tokens: int | None = None
    rubric: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.seed_prompt.strip():
            raise ConfigError(
                "the seed prompt is empty: write one, or leave it out for a plain one"
            )
        words = self.verbalizer.label_words if self.verbalizer is not None else ()
        require_whole_characters("name", self.name)
        require_whole_characters("seed prompt", self.seed_prompt)
        require_whole_characters("layout of the task", self.layout.layout)
        require_whole_characters("rubric", self.rubric or "")
        require_whole_characters("label words", "".join(words))
        for name in SPLIT_NAMES:
            if not self.splits.part(name):
                raise DataError(f"the {name} split is empty: add {name} examples")
        if (self.verbalizer is None) == (self.kind is TaskKind.CLASSIFICATION):
            raise ConfigError("a classification task needs a verbalizer, no other task takes one")
        if self.verbalizer is not None:
            for label in self.splits.labels():
                self.verbalizer.index(label)  # refuses a label that has no word
        if self.kind not in self.metric.kinds:
            raise ConfigError(f"the metric {self.metric.name!r} does not score {self.kind} tasks")
        self._require_whole_input()
        require_disjoint(self.splits)

    def _require_whole_input(self) -> None:
        """A seed prompt that places some fields must place all: the others would not be seen."""
        placed = placeholders(self.seed_prompt)
        missing = sorted(set(self.fields) - placed)
        if WHOLE_INPUT not in placed and placed & set(self.fields) and missing:
            raise ConfigError(
                f"the prompt has no {{{missing[0]}}}, so the target would never see that "
                f"field: add it, or write {{{WHOLE_INPUT}}} where the whole input belongs"
            )

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the parts of an input; a list of choices is one of them."""
        return tuple(self.splits.train[0].fields)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels in the order of their class index; none but in classification."""
        return self.verbalizer.labels if self.verbalizer is not None else ()

    def answer_words(self, example: Example) -> tuple[str, ...]:
        """What the target may answer to the example; nothing where the answer is free."""
        return self.verbalizer.label_words if self.verbalizer is not None else example.choices

    def shown_answer(self, example: Example) -> str:
        """The right answer as the target should give it."""
        if self.verbalizer is None:
            return example.label
        return self.verbalizer.label_words[self.verbalizer.index(example.label)]

    @property
    def allowed_outputs(self) -> tuple[str, ...]:
        """What may be answered to any example, in words; nothing where that differs or is free."""
        if self.kind is TaskKind.MULTIPLE_CHOICE and self.layout.choice_style == "letters":
            return max((example.choices for example in self.splits.train), key=len)
        return self.verbalizer.label_words if self.verbalizer is not None else ()

    @property
    def train(self) -> tuple[Example, ...]:
        """The examples that give the reward."""
        return self.splits.train

    @property
    def validation(self) -> tuple[Example, ...]:
        """The examples that decide between prompts."""
        return self.splits.validation

    @property
    def test(self) -> tuple[Example, ...]:
        """The examples for the final figure, read once."""
        return self.splits.test

    @classmethod
    def from_records(cls, records: Iterable[Record], **options: Unpack[LoadOptions]) -> Self:
        """Make a task of mappings such as ``{"text": ..., "label": ...}``.

        Args:
            records: One mapping per example.
            **options: See ``LoadOptions``.

        Raises:
            DataError: the rows cannot be used as they are.
            ConfigError: an option contradicts the rows.
        """
        unknown = options.keys() - LoadOptions.__annotations__.keys()
        if unknown:
            raise TypeError(f"unknown options {sorted(unknown)}: see LoadOptions")
        loaded = load_splits(records, options)
        named = options.get("metric")
        metric = resolve_metric(
            DEFAULT_METRICS[loaded.kind] if named is None else named, loaded.kind
        )
        verbalizer = None
        if loaded.labels:
            verbalizer = verbalizer_for(loaded.labels, options.get("label_words"))
        elif options.get("label_words"):
            raise ConfigError(f"label_words are for classification, this task is {loaded.kind}")
        seed_prompt = options.get("seed_prompt")
        if seed_prompt is None:
            seed_prompt = plain_prompt(loaded, verbalizer)
        fields = tuple(loaded.splits.train[0].fields)
        return cls(
            name=options.get("name", "records"),
            kind=loaded.kind,
            splits=loaded.splits,
            layout=loaded.layout,
            metric=metric,
            verbalizer=verbalizer,
            seed_prompt=seed_prompt,
            max_answer_tokens=options.get("max_answer_tokens"),
            rubric=options.get("rubric"),
            notes=(
                *loaded.notes,
                *notes_on_prompt(seed_prompt, fields),
                *notes_on_echo(loaded.kind, metric, loaded.splits.train),
            ),
        )

    @classmethod
    def from_file(cls, path: str | PathLike[str], **options: Unpack[LoadOptions]) -> Self:
        """Make a task of a .csv, .tsv, .jsonl, .ndjson, .json or .parquet file.

        A table of promptfoo tests (with a column ``__expected``) is read as such.

        Args:
            path: The file.
            **options: See ``LoadOptions``.

        Raises:
            DataError: the file cannot be read, or its rows cannot be used as they are.
            ConfigError: an option contradicts the rows.
        """
        rows = read_table(Path(path))
        options = _named_after(path, options)
        if not is_promptfoo(list(rows[0])):
            return cls.from_records(rows, **options)
        table = from_promptfoo(rows, str(path))
        found: LoadOptions = {
            "kind": TaskKind.GENERATION,
            "text": table.fields,
            "label": "references",
            "metric": table.metric,
            # An llm-rubric is a row's requirement itself, and stands where others have a reference.
            "rubric": "{reference}" if table.metric == JUDGE else None,
        }
        given = {name: value for name, value in options.items() if value is not None}
        task = cls.from_records(table.rows, **cast(LoadOptions, {**found, **given}))
        return replace(task, notes=(*table.notes, *task.notes))

    @classmethod
    def from_hub(cls, dataset: str, **options: Unpack[LoadOptions]) -> Self:
        """Make a task of a data set of the Hugging Face hub, with its own splits.

        Args:
            dataset: ``owner/name``, with ``:config`` and ``@revision`` behind it if need be; or
                a local folder in the hub's layout.
            **options: See ``LoadOptions``.

        Raises:
            DataError: it cannot be had, or its rows cannot be used as they are.
            ConfigError: an option contradicts the rows.
        """
        name, config, revision = parse_hub_name(f"{HUB_PREFIX}{dataset}")
        table = read_hub(name, config=config, revision=revision, label=options.get("label"))
        task = cls.from_records(table.rows, **_named_after(name, options))
        return replace(task, notes=(*table.notes, *task.notes))

    @classmethod
    def from_csv(cls, path: str | PathLike[str], **options: Unpack[LoadOptions]) -> Self:
        """Make a task of a CSV file, whatever its extension (.tsv: separated by tabs).

        Args:
            path: The file, with a header line.
            **options: See ``LoadOptions``.

        Raises:
            DataError: the file cannot be read, or its rows cannot be used as they are.
            ConfigError: an option contradicts the rows.
        """
        return cls.from_records(read_csv(Path(path)), **_named_after(path, options))

    @classmethod
    def from_jsonl(cls, path: str | PathLike[str], **options: Unpack[LoadOptions]) -> Self:
        """Make a task of a file with one JSON object per line, whatever its extension.

        Args:
            path: The file.
            **options: See ``LoadOptions``.

        Raises:
            DataError: the file cannot be read, or its rows cannot be used as they are.
            ConfigError: an option contradicts the rows.
        """
        return cls.from_records(read_jsonl(Path(path)), **_named_after(path, options))

    @classmethod
    def from_pandas(cls, frame: "pandas.DataFrame", **options: Unpack[LoadOptions]) -> Self:
        """Make a task of a data frame; its index is not read.

        Args:
            frame: One row per example.
            **options: See ``LoadOptions``.

        Raises:
            DataError: the rows cannot be used as they are.
            ConfigError: an option contradicts the rows.
        """
        names = [str(name) for name in frame.columns]
        if len(set(names)) < len(names):
            raise DataError(
                f"two columns of the frame have the same name: {listed(names)}; rename one"
            )
        # pandas has several kinds of "missing"; all become None.
        plain = frame.astype(object).where(frame.notna(), None)
        rows = [
            dict(zip(names, row, strict=True)) for row in plain.itertuples(index=False, name=None)
        ]
        return cls.from_records(rows, **options)

    def trivial_score(self, split: SplitName) -> float | None:
        """Score on the split of the best trivial answer, see ``trivial_score``, 0 to 1.

        For accuracy it is the share of the most frequent label; where answers are free, tried are
        the most frequent references of train, and the input itself. None where trying many answers
        could be dear: for an LLM judge, and for a metric of the user's own.
        """
        if not is_cheap(self.metric):
            return None
        return trivial_score(self.metric, self.splits.part(split), self.labels, self.train)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that decides a score; not of name and notes.

        Two tasks with the same fingerprint give the same scores, in any process; of a metric of
        the user's own it knows the name alone.
        """
        content = {
            "kind": self.kind,
            "metric": self.metric.name,
            "splits": {
                name: [
                    [e.text, e.answers, e.choices, dict(e.fields)] for e in self.splits.part(name)
                ]
                for name in SPLIT_NAMES
            },
            "label_words": list(self.verbalizer.words.items()) if self.verbalizer else None,
            "seed_prompt": self.seed_prompt,
            "max_answer_tokens": self.max_answer_tokens,
            "rubric": self.rubric,
        }
        return hashlib.sha256(json.dumps(content).encode("ascii")).hexdigest()


def plain_prompt(loaded: LoadedSplits, verbalizer: Verbalizer | None) -> str:
    """The seed prompt where the user gave none: it names what may be answered."""
    if verbalizer is not None:
        return f"Classify the text. Answer with one of: {', '.join(verbalizer.label_words)}."
    if loaded.kind is TaskKind.MULTIPLE_CHOICE and loaded.layout.choice_style == "letters":
        return "Answer the question with the letter of the right choice."
    if loaded.kind is TaskKind.MULTIPLE_CHOICE:
        return "Answer the question with the right choice, in its own words."
    return "Write the output for the input. Reply with the output only."


def _named_after(path: str | PathLike[str], options: LoadOptions) -> LoadOptions:
    # A file's name may be no UTF-8, and would be half characters then.
    name = Path(path).stem.encode("utf-8", "replace").decode()
    return {"name": name, **options}
