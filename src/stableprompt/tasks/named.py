"""Tasks by name: those that come with the package, and the benchmarks of the catalogue."""

import difflib
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import cast

from stableprompt.errors import DataError
from stableprompt.tasks.benchmarks.entries import benchmark_names, find_benchmark
from stableprompt.tasks.benchmarks.source import load_rows
from stableprompt.tasks.bundled_cards import bundled_names
from stableprompt.tasks.bundled_tasks import load_bundled
from stableprompt.tasks.loading import LoadOptions
from stableprompt.tasks.task import Task
from stableprompt.tasks.wording import quoted


def is_named(name: str) -> bool:
    """Whether a task has this name."""
    return name in bundled_names() or name in benchmark_names()


def load_named(
    name: str,
    *,
    data_dir: str | PathLike[str] | None = None,
    fold: int = 0,
    overrides: LoadOptions | None = None,
) -> Task:
    """Load a bundled task or a benchmark.

    Args:
        name: As ``stableprompt tasks`` lists it.
        data_dir: Folder with the benchmarks' data; by default ``$STABLEPROMPT_DATA``, else the
            hub.
        fold: Which of a benchmark's few-shot draws, and the seed of what is drawn besides.
        overrides: Options that win over those of the task; None in them means its own.

    Raises:
        DataError: no task has this name, or its data cannot be had.
        ConfigError: an option contradicts the task.
    """
    given = cast(LoadOptions, {k: v for k, v in (overrides or {}).items() if v is not None})
    if "label_words" in given:
        given.setdefault("seed_prompt", None)  # the task's own may name its own words
    if name in bundled_names():
        return load_bundled(name, overrides=given)
    if name not in benchmark_names():
        raise _unknown(name)
    folder = None if data_dir is None else Path(data_dir)
    found = load_rows(find_benchmark(name), folder, fold)
    options = cast(LoadOptions, {**found.options, "seed": fold, **given})
    # A limit on one split leaves the task's own on the others.
    options["limit"] = {**found.options.get("limit", {}), **given.get("limit", {})}
    task = Task.from_records(found.rows, **options)
    return replace(task, notes=(*found.notes, *task.notes))


def _unknown(name: str) -> DataError:
    names = (*bundled_names(), *benchmark_names())
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return DataError(
        f"no file and no task {quoted(name)}: {hint}`stableprompt tasks` lists the tasks"
    )
