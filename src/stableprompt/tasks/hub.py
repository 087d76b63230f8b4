"""Rows of a Hugging Face dataset, by its name on the hub or from a local folder.

The library ``datasets`` (extra ``hub``) downloads and reads; it runs no code
of the dataset. Without a connection it is not left to try for a minute: one
question with a short time limit decides, and then its cache must have the data.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, Final, NamedTuple

from stableprompt.errors import DataError
from stableprompt.tasks.columns import LABEL_NAMES, SPLIT_COLUMN
from stableprompt.tasks.splits import SPLIT_NAMES, SplitName
from stableprompt.tasks.table import Row
from stableprompt.tasks.wording import listed, quoted

HUB_PREFIX: Final = "hub:"

_HUB_NAME: Final = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_PROBE_SECONDS: Final = 5.0  # datasets itself tries six times, up to 80 seconds


class HubName(NamedTuple):
    """A dataset (hub name or folder), its configuration, and a branch, tag or commit."""

    dataset: str
    config: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class HubTable:
    """What was read.

    Attributes:
        rows: Train, then validation, then test; the column ``split`` says which is which,
            unless there is only one split.
        notes: One line for each thing that was decided or left out.
    """

    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def parse_hub_name(text: str) -> HubName:
    """Read ``hub:NAME[:CONFIG][@REVISION]``; what follows ``hub:`` may be a folder's path.

    Raises:
        DataError: the text is not of this form.
    """
    body = text.removeprefix(HUB_PREFIX)
    if text.startswith(HUB_PREFIX) and os.path.isdir(body):
        return HubName(body)  # a path may contain : and @
    name, at, revision = body.partition("@")
    dataset, colon, config = name.partition(":")
    empty = not dataset or (colon and not config) or (at and not revision)
    if not text.startswith(HUB_PREFIX) or empty:
        raise DataError(
            f"{quoted(text)} does not name a dataset: write hub:NAME, hub:NAME:CONFIG or "
            "hub:NAME:CONFIG@REVISION, for example hub:nyu-mll/glue:sst2"
        )
    return HubName(dataset, config or None, revision or None)


def read_hub(
    dataset: str,
    *,
    config: str | None = None,
    splits: Mapping[SplitName, str] | None = None,
    revision: str | None = None,
    label: str | None = None,
) -> HubTable:
    """Read the rows of a dataset, with class names for class numbers.

    Rows without a label are left out and counted: the labels of a test split are often secret.
    Validation becomes test where there is no test split, or none with labels.

    Args:
        dataset: A folder, or else a name on the hub such as "nyu-mll/glue".
        config: Which configuration, such as "sst2"; the only or default one by default.
        splits: Our name of a split -> the dataset's; by default those with our names, or its
            only split.
        revision: A branch, tag or commit on the hub; the newest by default.
        label: The label column; by default a column of classes, with a common name if possible.

    Raises:
        DataError: no such dataset, configuration, revision or split, or no library ``datasets``.
    """
    name = HubName(dataset, config, revision)
    _require_folder_or_name(name)
    datasets = _import_datasets(dataset)
    notes: list[str] = []
    with _quiet(datasets):
        found = _load(datasets, name, notes)
        chosen = _choose(dataset, found, splits, notes)
        parts = {
            ours: _labelled_rows(datasets, found[theirs], theirs, label, notes)
            for ours, theirs in chosen.items()
        }
    rows = _arrange(dataset, chosen, parts, splits is not None, notes)
    return HubTable(tuple(rows), tuple(notes))


def _require_folder_or_name(name: HubName) -> None:
    if os.path.isdir(name.dataset):
        if name.revision is not None:
            raise DataError(f"{name.dataset!r} is a folder, without revisions; leave that out")
    elif os.path.exists(name.dataset) or not _HUB_NAME.fullmatch(name.dataset):
        raise DataError(
            f"{name.dataset!r} is no folder and no name of a dataset on the hub "
            "(ORGANISATION/NAME): check the path, or the name at https://huggingface.co/datasets; "
            f"a single file is given by its path, without {HUB_PREFIX}"
        )


def _import_datasets(dataset: str) -> Any:
    try:
        import datasets
        import datasets.packaged_modules
    except ImportError as error:
        raise DataError(
            f"cannot read {dataset}: the library datasets is not installed; "
            "run pip install 'stableprompt[hub]'"
        ) from error
    # Under these names, datasets would read what lies in the working directory.
    if dataset in getattr(datasets.packaged_modules, "_PACKAGED_DATASETS_MODULES", ()):
        raise DataError(f"{quoted(dataset)} is a file format; give the path of a folder of files")
    return datasets


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """No progress bars and no log lines; what matters of them is in our notes and errors."""
    from huggingface_hub import utils

    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    bars = [b for b in (datasets, utils) if not b.are_progress_bars_disabled()]
    try:
        for library in bars:
            library.disable_progress_bars()
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for library in bars:
            library.enable_progress_bars()


def _load(datasets: Any, name: HubName, notes: list[str]) -> Mapping[str, Any]:
    """All splits of a dataset, from a folder, the hub, or the cache of an earlier download."""
    before = datasets.config.HF_HUB_OFFLINE
    reachable = os.path.isdir(name.dataset) or _hub_answers(datasets)
    # else the library would try at length to reach what has just not answered
    datasets.config.HF_HUB_OFFLINE = before or not reachable
    try:
        builder = datasets.load_dataset_builder(name.dataset, name.config, revision=name.revision)
        cached = type(builder).__module__.startswith("datasets.packaged_modules.cache.")
        if cached and name.revision not in (None, builder.hash):
            raise ConnectionError(f"only another revision, {builder.hash}, is in the cache")
        builder.download_and_prepare()
        found: Mapping[str, Any] = builder.as_dataset()
    except Exception as error:  # the library has no common error, and passes others on
        raise DataError(_what_is_wrong(datasets, name, error)) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = before
    if cached:
        notes.append("the hub was not reached: read from the cache of an earlier download")
    return found


def _hub_answers(datasets: Any) -> bool:
    if datasets.config.HF_HUB_OFFLINE:
        return False
    from huggingface_hub import get_session

    try:
        get_session().head(datasets.config.HF_ENDPOINT, timeout=_PROBE_SECONDS)
    except Exception:  # whatever the HTTP library of this version raises: there was no answer
        return False
    return True


def _what_is_wrong(datasets: Any, name: HubName, error: Exception) -> str:
    reason = shorten(f"{error} ({error.__cause__})".replace(" (None)", ""), 250, placeholder=" …")
    dataset, local = name.dataset, os.path.isdir(name.dataset)
    if isinstance(error, ConnectionError):
        at = f" at revision {name.revision}" if name.revision else ""
        return (
            f"cannot read {dataset}{at}: the hub cannot be reached and it is not in the cache "
            f"({reason}); check the connection and the name, or give a local folder"
        )
    if "scripts are no longer supported" in reason:
        return (
            f"{dataset} is read by a script of its own, which is not run; try the converted files, "
            f"{HUB_PREFIX}{dataset}:CONFIG@refs/convert/parquet, or give a local folder"
        )
    if isinstance(error, ValueError) and (local or not datasets.config.HF_HUB_OFFLINE):
        try:
            configs = datasets.get_dataset_config_names(dataset, revision=name.revision)
        except Exception:  # then the reason must do
            configs = []
        if configs and name.config not in configs and (name.config or len(configs) > 1):
            lack = f"has no {quoted(name.config)}" if name.config else "needs a configuration"
            return (
                f"{dataset} {lack}: it has {listed(configs)}; give one as in "
                f"{HUB_PREFIX}{dataset}:{configs[0]}"
            )
    remote = "its name at https://huggingface.co/datasets (if it is private: hf auth login)"
    suspect = "the files in this folder" if local else remote
    return f"cannot read {dataset} ({reason}); check {suspect}"


def _choose(
    dataset: str,
    found: Mapping[str, Any],
    splits: Mapping[SplitName, str] | None,
    notes: list[str],
) -> Mapping[SplitName, str]:
    """Our name of a split -> the dataset's, in our order."""
    if splits is None:
        splits = {name: name for name in SPLIT_NAMES if name in found}
        if len(found) == 1:
            splits = {"train": next(iter(found))}
    known = set(splits) <= set(SPLIT_NAMES) and set(splits.values()) <= set(found)
    if not known or not ("train" in splits or len(splits) == 1):
        raise DataError(
            f"{dataset} has the splits {listed(found)}, to be used were {dict(splits)}: say which "
            "is train, and which are validation and test if it has them, as in "
            f"splits={{'train': {next(iter(found), '...')!r}}}"
        )
    left_out = [theirs for theirs in found if theirs not in splits.values()]
    if left_out:
        notes.append(f"left out: the splits {listed(left_out)}")
    return {name: splits[name] for name in SPLIT_NAMES if name in splits}


def _labelled_rows(
    datasets: Any, part: Any, name: str, label: str | None, notes: list[str]
) -> list[Row]:
    """The rows of one split with class names for numbers, without those that lack a label."""
    classes = {
        column: feature.names
        for column, feature in part.features.items()
        if isinstance(feature, datasets.ClassLabel)
    }
    rows: list[Row] = part.to_list()
    for row in rows:
        for column, names in classes.items():
            number = row[column]  # -1 where it is secret
            known = isinstance(number, int) and 0 <= number < len(names)
            row[column] = names[number] if known else None
    common = [column for column in classes if column.casefold() in LABEL_NAMES]
    for column in [label] if label and label in part.features else common or classes:
        labelled = [row for row in rows if row[column] is not None]
        if len(labelled) < len(rows):
            notes.append(
                f"{len(rows) - len(labelled)} of {len(rows)} rows of the split {quoted(name)} "
                f"without {quoted(column)} (missing or secret) left out"
            )
        rows = labelled
    return rows


def _arrange(
    dataset: str,
    chosen: Mapping[SplitName, str],
    parts: Mapping[SplitName, list[Row]],
    required: bool,
    notes: list[str],
) -> list[Row]:
    """The rows of all splits, with the column ``split`` where there are several."""
    empty = [chosen[name] for name in parts if not parts[name]]
    kept = {name: rows for name, rows in parts.items() if rows}
    if empty and (required or "train" not in kept):
        raise DataError(
            f"{dataset}: no row with a label in the split {listed(empty)}; choose others"
        )
    if len(kept) == 1:
        return next(iter(kept.values()))
    if "test" not in kept:
        kept["test"] = kept.pop("validation")
        notes.append(f"the split {quoted(chosen['validation'])} is used as test")
    own = {key for rows in kept.values() for key in rows[0] if key.casefold() == SPLIT_COLUMN}
    if own:
        notes.append(f"left out: the column {listed(sorted(own))}, whose name says the split here")
    return [
        {**{key: value for key, value in row.items() if key not in own}, SPLIT_COLUMN: name}
        for name, rows in kept.items()
        for row in rows
    ]
