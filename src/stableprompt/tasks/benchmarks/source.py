"""The rows of a benchmark, from a data folder or from the hub, and the options to load them with.

A data folder is never guessed at: what is read is named in the benchmark's entry, and a file that
is missing is an error, not a reason to look elsewhere.
"""

import os
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from stableprompt.errors import DataError
from stableprompt.tasks.benchmarks.benchmark import Benchmark, HubSource
from stableprompt.tasks.example import Example
from stableprompt.tasks.metrics.registry import METRICS
from stableprompt.tasks.table import Row, read_jsonl
from stableprompt.tasks.wording import listed, quoted

DATA_VARIABLE: Final = "STABLEPROMPT_DATA"
"""The environment variable that names the data folder where no other is given."""

_PACKED: Final = "text"
"""The column that holds all fields of an example where they have no columns of their own."""
_SPLIT: Final = "split"


@dataclass(frozen=True, slots=True)
class BenchmarkRows:
    """What ``Task.from_records`` needs.

    Attributes:
        rows: With a column ``split``; validation may be missing.
        options: The keyword options, see ``LoadOptions``.
        notes: One line for each thing that the user should know of the rows.
    """

    rows: list[Row]
    options: dict[str, Any]
    notes: tuple[str, ...]


def load_rows(benchmark: Benchmark, data_dir: Path | None, fold: int = 0) -> BenchmarkRows:
    """Read the rows of a benchmark.

    Args:
        benchmark: Which one.
        data_dir: The data folder; None for the one that STABLEPROMPT_DATA names, and for the hub
            where that is not set either.
        fold: Which few-shot draw, from 0; where there are no draws it only becomes the seed.

    Raises:
        DataError: the rows cannot be had, or are not as the benchmark says.
    """
    if fold < 0:
        raise DataError(f"{benchmark.name}: fold is counted from 0, found {fold}; give 0 or more")
    folder = data_dir or _named_folder()
    rows, notes = (
        _hub_rows(benchmark, fold) if folder is None else _local_rows(benchmark, folder, fold)
    )
    kept = [_with_needed_columns(row, benchmark) for row in _wanted(rows, benchmark)]
    if benchmark.note:
        notes.append(benchmark.note)
    return BenchmarkRows(kept, _options(benchmark, fold), tuple(notes))


def _named_folder() -> Path | None:
    name = os.environ.get(DATA_VARIABLE, "").strip()
    return Path(name) if name else None


def _options(benchmark: Benchmark, fold: int) -> dict[str, Any]:
    text = benchmark.text
    options = {
        "name": benchmark.name,
        "kind": benchmark.kind,
        "text": text[0] if len(text) == 1 else list(text),
        "label": benchmark.label,
        "choices": benchmark.choices,
        "input_format": benchmark.input_format,
        "choice_style": benchmark.choice_style,
        "seed_prompt": benchmark.seed_prompt,
        "label_words": benchmark.label_words,
        "metric": benchmark.metric,
        "limit": benchmark.limit or None,
        "max_answer_tokens": benchmark.max_answer_tokens,
        "seed": fold,
    }
    return {key: value for key, value in options.items() if value is not None}


# From a data folder


def _local_rows(benchmark: Benchmark, folder: Path, fold: int) -> tuple[list[Row], list[str]]:
    if not folder.is_dir():
        raise DataError(f"no such data folder: {folder}; {_ways_out(benchmark)}")
    seed = _fold_seed(benchmark, fold)
    rows: list[Row] = []
    for split, path in benchmark.local.files.items():
        file = folder / path.replace("{fold}", seed)
        if not file.is_file():
            raise DataError(f"{benchmark.name}: no such file: {file}; {_ways_out(benchmark)}")
        for number, row in enumerate(read_jsonl(file), start=1):
            place = f"{file}, row {number}"
            rows.append({**_unpacked(row, benchmark, place), _SPLIT: split})
    return rows, []


def _fold_seed(benchmark: Benchmark, fold: int) -> str:
    folds = benchmark.local.folds
    if not folds:
        return ""
    if fold >= len(folds):
        raise DataError(
            f"{benchmark.name} has {len(folds)} few-shot draws (of the seeds "
            f"{', '.join(map(str, folds))}), found fold {fold}: give 0 to {len(folds) - 1}"
        )
    return str(folds[fold])


def _ways_out(benchmark: Benchmark) -> str:
    folder = f"name the folder that has it with --data-dir DIR or {DATA_VARIABLE}"
    if benchmark.hub is None:
        return f"{folder} (no copy on the hub is known)"
    return f"{folder}, or leave both out to read {benchmark.hub.id} from the hub"


def _unpacked(row: Row, benchmark: Benchmark, place: str) -> Row:
    layout = benchmark.local.text_pattern
    if layout is None:
        return row
    match = _pattern_of(layout).fullmatch(str(row.get(_PACKED)))
    if match is None:
        raise DataError(
            f"{place}: {quoted(row.get(_PACKED))} is not laid out as {quoted(layout)}; correct "
            "the row"
        )
    return {**row, **match.groupdict()}


@cache
def _pattern_of(layout: str) -> re.Pattern[str]:
    """Literal text as it is, each ``{field}`` as short as it can be, line breaks included."""
    parts = re.split(r"\{(\w+)\}", layout)  # literal, field, literal, field, ..., literal
    return re.compile(
        "".join(
            f"(?P<{part}>.+?)" if number % 2 else re.escape(part)
            for number, part in enumerate(parts)
        ),
        re.DOTALL,
    )


# From the hub


def _hub_rows(benchmark: Benchmark, fold: int) -> tuple[list[Row], list[str]]:
    hub = benchmark.hub
    if hub is None:
        raise DataError(
            f"{benchmark.name}: no copy on the hub is known; name a data folder with --data-dir "
            f"DIR or {DATA_VARIABLE}"
        )
    from stableprompt.tasks.hub import read_hub

    # The rows without a label go there, with a note.
    label = hub.columns.get(benchmark.label, benchmark.label)
    try:
        table = read_hub(hub.id, config=hub.config, splits=hub.splits, label=label)
    except DataError as error:
        raise DataError(
            f"{benchmark.name}: {error}; or name a data folder with --data-dir DIR"
        ) from error
    notes = list(table.notes)
    rows = [_renamed(row, hub) for row in table.rows]
    if hub.shots is not None:
        rows = _with_shots(rows, benchmark, hub.shots, fold)
        notes.append(
            f"{hub.shots} train and {hub.shots} validation examples a label drawn from the hub's "
            f"train split with the seed {fold}: not the draw of LM-BFF that the paper uses"
        )
    return rows, notes


def _renamed(row: Row, hub: HubSource) -> Row:
    return {**row, **{ours: row.get(theirs) for ours, theirs in hub.columns.items()}}


def _with_shots(rows: Sequence[Row], benchmark: Benchmark, shots: int, fold: int) -> list[Row]:
    for row in rows:
        _known_label(row, benchmark)  # the draw would pass over any other label in silence
    rng = random.Random(fold)
    drawn: list[Row] = []
    for label in benchmark.label_words or ():
        group = [r for r in rows if r[_SPLIT] == "train" and r[benchmark.label] == label]
        if len(group) < 2 * shots:
            raise DataError(
                f"{benchmark.name}: {2 * shots} train rows of each label are needed, found "
                f"{len(group)} of {quoted(label)}; give another copy with --data-dir DIR"
            )
        chosen = rng.sample(group, 2 * shots)
        drawn += chosen[:shots]
        drawn += [{**row, _SPLIT: "validation"} for row in chosen[shots:]]
    return drawn + [row for row in rows if row[_SPLIT] != "train"]


# From both


def _wanted(rows: Sequence[Row], benchmark: Benchmark) -> list[Row]:
    """The rows that pass the filters of their split."""
    kept = [
        row
        for row in rows
        if all(
            row.get(column) == value
            for column, value in benchmark.filters.get(str(row[_SPLIT]), {}).items()
        )
    ]
    for split in ("train", "test"):
        if not any(row[_SPLIT] == split for row in kept):
            wanted = benchmark.filters.get(split, {})
            which = "".join(f" with {column} = {quoted(v)}" for column, v in wanted.items())
            raise DataError(
                f"{benchmark.name}: there are no {split} rows{which}; {_ways_out(benchmark)}"
            )
    return kept


def _with_needed_columns(row: Row, benchmark: Benchmark) -> Row:
    missing = [column for column in benchmark.columns if row.get(column) is None]
    if missing:
        raise DataError(
            f"{benchmark.name}: a {row[_SPLIT]} row has no {listed(missing)}, found "
            f"{listed(row)}; {_ways_out(benchmark)}"
        )
    kept = {column: row[column] for column in (*benchmark.columns, _SPLIT)}
    if benchmark.label_words is not None:
        kept[benchmark.label] = _known_label(row, benchmark)
    if benchmark.input_is_no_answer:
        kept[benchmark.label] = _other_answers(kept, benchmark)
    return kept


def _other_answers(row: Row, benchmark: Benchmark) -> list[Any]:
    """The references but for those that the input itself would be right for."""
    metric, inputs = METRICS[benchmark.metric], [str(row[column]) for column in benchmark.text]
    given = row[benchmark.label]
    left = [
        answer
        for answer in (given if isinstance(given, list) else [given])
        if all(metric.value(Example(text, str(answer)), text) < 1 for text in inputs)
    ]
    if given and not left:
        raise DataError(
            f"{benchmark.name}: a {row[_SPLIT]} row has no answer but its input, "
            f"{quoted(inputs[0])}; {_ways_out(benchmark)}"
        )
    return left


def _known_label(row: Row, benchmark: Benchmark) -> str:
    """The label; BIG-bench has it as a list of one."""
    label = row.get(benchmark.label)
    if isinstance(label, list) and len(label) == 1:
        label = label[0]
    words = benchmark.label_words or {}
    if not isinstance(label, str) or label not in words:
        raise DataError(
            f"{benchmark.name}: a {row[_SPLIT]} row has the label {quoted(label)}, known are "
            f"{listed(words)}; {_ways_out(benchmark)}"
        )
    return label
