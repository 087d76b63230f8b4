"""The task: what is tuned for. Labelled examples in three splits, and a prompt to start from."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack

from stableprompt.errors import ConfigError, DataError
from stableprompt.tasks.example import Example
from stableprompt.tasks.loading import LoadOptions, load_splits, verbalizer_for
from stableprompt.tasks.records import Record
from stableprompt.tasks.splits import SPLIT_NAMES, SplitName, Splits, require_disjoint
from stableprompt.tasks.table import read_csv, read_jsonl, read_table
from stableprompt.tasks.verbalizer import Verbalizer
from stableprompt.tasks.wording import listed

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, slots=True)
class Task:
    """Labelled examples in three disjoint splits, their label words, and the seed prompt.

    Make one with ``from_csv``, ``from_jsonl``, ``from_file``, ``from_pandas`` or
    ``from_records``; their keyword options are those of ``LoadOptions``.

    Attributes:
        name: Shown in reports.
        splits: The examples; ``train``, ``validation`` and ``test`` are short for its parts.
        verbalizer: The labels in order, each with its label word.
        seed_prompt: The prompt that tuning starts from and is compared with.
        notes: One line for each thing that loading did to the rows.
    """

    name: str
    splits: Splits
    verbalizer: Verbalizer
    seed_prompt: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.seed_prompt.strip():
            raise ConfigError(
                "the seed prompt is empty: write one, or leave it out for a plain one"
            )
        for name in SPLIT_NAMES:
            if not self.splits.part(name):
                raise DataError(f"the {name} split is empty: add {name} examples")
        for label in self.splits.labels():
            self.verbalizer.index(label)  # refuses a label that has no word
        require_disjoint(self.splits)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels in the order of their class index."""
        return self.verbalizer.labels

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
        verbalizer = verbalizer_for(loaded.labels, options.get("label_words"))
        seed_prompt = options.get("seed_prompt")
        return cls(
            name=options.get("name", "records"),
            splits=loaded.splits,
            verbalizer=verbalizer,
            seed_prompt=plain_prompt(verbalizer) if seed_prompt is None else seed_prompt,
            notes=loaded.notes,
        )

    @classmethod
    def from_file(cls, path: str | PathLike[str], **options: Unpack[LoadOptions]) -> Self:
        """Make a task of a .csv, .tsv, .jsonl, .ndjson, .json or .parquet file.

        Args:
            path: The file.
            **options: See ``LoadOptions``.

        Raises:
            DataError: the file cannot be read, or its rows cannot be used as they are.
            ConfigError: an option contradicts the rows.
        """
        return cls.from_records(read_table(Path(path)), **_named_after(path, options))

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

    def majority_share(self, split: SplitName) -> float:
        """Accuracy on the split of always answering its most frequent label, 0 to 1."""
        counts = Counter(example.label for example in self.splits.part(split))
        return max(counts.values()) / counts.total()

    def fingerprint(self) -> str:
        """SHA-256 (hex) of examples, label words and seed prompt; not of name and notes.

        Two tasks with the same fingerprint give the same scores, in any process.
        """
        content = {
            "splits": {
                name: [[example.text, example.label] for example in self.splits.part(name)]
                for name in SPLIT_NAMES
            },
            "label_words": list(self.verbalizer.words.items()),
            "seed_prompt": self.seed_prompt,
        }
        return hashlib.sha256(json.dumps(content).encode("ascii")).hexdigest()


def plain_prompt(verbalizer: Verbalizer) -> str:
    """The seed prompt where the user gave none: it names what may be answered."""
    return f"Classify the text. Answer with one of: {', '.join(verbalizer.label_words)}."


def _named_after(path: str | PathLike[str], options: LoadOptions) -> LoadOptions:
    return {"name": Path(path).stem, **options}
