"""DATA on the command line: a file, examples of a run, a hub data set, or the name of a task."""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from stableprompt.cli.data_options import DataOptions
from stableprompt.errors import ConfigError, DataError
from stableprompt.runs.folder import TASK, RunFolder
from stableprompt.tasks.archive import task_from_dict
from stableprompt.tasks.formats import CHOICES
from stableprompt.tasks.hub import HUB_PREFIX
from stableprompt.tasks.loading import LoadOptions
from stableprompt.tasks.named import is_named, load_named
from stableprompt.tasks.placeholders import placeholder_name, placeholders
from stableprompt.tasks.splits import SPLIT_NAMES, SplitName
from stableprompt.tasks.task import Task
from stableprompt.tasks.wording import listed, quoted


def load_task(data: str, given: DataOptions, *, seed: int, like: Task | None = None) -> Task:
    """Load DATA; a file wins over a task of the same name.

    Args:
        data: As on the command line.
        given: The options beside it.
        seed: Decides which example goes to which split.
        like: A task whose kind, layout and metric the examples are to have.

    Raises:
        DataError: it is none of these, or its rows cannot be used.
        ConfigError: an option contradicts the data.
        RunError: it is a run's task.json, and damaged.
    """
    if _is_of_a_run(data):
        return _as_in_run(data, given)
    options = _options(given, seed, like)
    if data.startswith(HUB_PREFIX):
        return Task.from_hub(data.removeprefix(HUB_PREFIX), **options)
    # os.path, not pathlib: it answers False for a name that cannot exist.
    if os.path.isfile(data):
        return Task.from_file(data, **options)
    if os.path.isdir(data) and not is_named(data):
        raise DataError(f"{data} is a folder; give the file in it that holds the examples")
    if is_named(data) or not os.path.splitext(data)[1]:
        if given.text or given.label or given.choices or given.kind:
            raise DataError(
                f"{data} is a task by name, it takes no --text, --label, --choices and --kind"
            )
        return load_named(data, data_dir=given.data_dir, fold=seed, overrides=options)
    return Task.from_file(data, **options)  # says what is wrong with the file


def _is_of_a_run(data: str) -> bool:
    """Whether it is the task.json of a run; files of the user's hold rows, in a list."""
    with suppress(OSError, ValueError):
        if os.path.basename(data) == TASK:
            with open(data, "rb") as file:
                return file.read(1) == b"{"
    return False


def _as_in_run(data: str, given: DataOptions) -> Task:
    """The task of a run with its splits, layout and seed prompt, so that a run can be made again.

    Raises:
        ConfigError: an option would make another task of it, or a metric of the user's own is not
            given.
        RunError: the file is damaged.
    """
    own = custom_metric(given.metric)
    # The data folder may come from the environment, so it does not count.
    others = replace(given, metric=None if own else given.metric, data_dir=None)
    if others != DataOptions():
        raise ConfigError(
            f"{data} is the task of a run, with its columns, splits, metric and seed prompt; give "
            "it alone (a metric of your own aside), or the file that the run was given"
        )
    return task_from_dict(RunFolder(Path(data).parent).read_json(TASK), own)


def custom_metric(name: str | None) -> Callable[..., float] | None:
    """The function that MODULE:FUNCTION names, from the current folder too; None for no such name.

    Raises:
        ConfigError: there is no such module or function.
    """
    if name is None or ":" not in name:
        return None
    return imported(name, "--metric")  # type: ignore[no-any-return]


def imported(name: str, option: str) -> Any:
    """What MODULE:FUNCTION names, from the current folder too.

    Raises:
        ConfigError: there is no such module or function.
    """
    module, _, function = name.partition(":")
    sys.path.insert(0, "")
    try:
        found: Any = getattr(importlib.import_module(module.removesuffix(".py")), function)
    except Exception as error:  # whatever the user's module does while it is imported
        raise ConfigError(
            f"{option} {name!r} cannot be imported ({type(error).__name__}: {error}); write "
            "MODULE:FUNCTION, the module being a file in this folder or installed"
        ) from error
    finally:
        sys.path.remove("")
    return found


def _options(given: DataOptions, seed: int, like: Task | None) -> LoadOptions:
    options: LoadOptions = {
        "text": given.text,
        "label": given.label,
        "choices": given.choices,
        "kind": given.kind,
        "metric": custom_metric(given.metric) or given.metric,
        "seed_prompt": given.seed_prompt,
        "seed": seed,
    }
    if like is not None:
        known = sorted(placeholders(like.layout.layout) - {CHOICES})
        if given.text and sorted(map(placeholder_name, given.text)) != known:
            raise ConfigError(
                f"--text names {listed(given.text)}, the run's inputs were in {listed(known)}: "
                "give the columns of DATA the names that the run knows"
            )
        options["kind"] = like.kind
        options["input_format"] = like.layout.layout
        options["choice_style"] = like.layout.choice_style
        options["metric"] = None  # judged by the one of the run, in ``unseen``
    if given.limit:
        options["limit"] = dict(map(_limit, given.limit))
    if given.label_words:
        options["label_words"] = label_words_of(given.label_words)
    return options


def label_words_of(given: Sequence[str]) -> dict[str, str]:
    """Label -> label word.

    Args:
        given: Each LABEL=WORD. A label may hold the sign, a word may not.

    Raises:
        ConfigError: one does not look like that, or a label is named twice.
    """
    words: dict[str, str] = {}
    for one in given:
        label, sign, word = one.rpartition("=")
        if not (sign and label.strip() and word.strip()):
            raise ConfigError(f"--label-words {one!r} must look like 0=no")
        if label.strip() in words:
            raise ConfigError(f"--label-words names the label {quoted(label.strip())} twice")
        words[label.strip()] = word.strip()
    return words


def _limit(given: str) -> tuple[SplitName, int]:
    name, _, count = given.partition("=")
    for split in SPLIT_NAMES:
        if split == name.strip() and count.strip().isdecimal():
            return split, int(count)
    raise ConfigError(f"--limit {given!r} must look like test=200, for train, validation or test")
