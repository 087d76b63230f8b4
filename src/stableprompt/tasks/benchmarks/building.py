"""From the table of one entry to the benchmark; what is wrong with the entry is refused."""

import re
from collections.abc import Collection, Mapping, Sequence, Set
from pathlib import PurePosixPath
from typing import Any, Final

from stableprompt.errors import DataError
from stableprompt.tasks.benchmarks.benchmark import (
    PROMPT_ORIGINS,
    Benchmark,
    HubSource,
    LocalSource,
)
from stableprompt.tasks.example import TaskKind
from stableprompt.tasks.splits import SPLIT_NAMES
from stableprompt.tasks.wording import listed, quoted

CHOICE_STYLES: Final = ("letters", "text")

_NAME: Final = re.compile(r"[a-z0-9_]+(/[a-z0-9_-]+)?")
_FIELD: Final = re.compile(r"\{(\w+)\}")

Table = dict[str, Any]
# The keys of each table and what they hold. Unknown keys are refused: a misspelt one would
# otherwise be a setting that silently does nothing.
_ENTRY: Final = {
    "title": str, "kind": str, "source": str, "licence": str, "metric": str, "seed_prompt": str,
    "seed_prompt_from": str, "columns": dict, "local": dict, "hub": dict, "label_words": dict,
    "input_format": str, "choice_style": str, "limit": dict, "max_answer_tokens": int,
    "filters": dict, "input_is_no_answer": bool, "note": str,
}  # fmt: skip
_PLAIN_NEEDED: Final = (
    "title", "source", "licence", "metric", "seed_prompt", "seed_prompt_from",
)  # fmt: skip
_PLAIN_OPTIONAL: Final = ("label_words", "input_format", "choice_style", "max_answer_tokens")
_LOCAL: Final[Mapping[str, type]] = {
    "train": str, "validation": str, "test": str, "folds": list, "text_pattern": str,
}  # fmt: skip
_HUB: Final = {"id": str, "config": str, "splits": dict, "columns": dict, "shots": int}
# What a task of this kind must have, and no other may.
_OWN_KEY: Final = {
    TaskKind.CLASSIFICATION: "label_words",
    TaskKind.MULTIPLE_CHOICE: "choice_style",
    TaskKind.GENERATION: "max_answer_tokens",
}


def build_benchmark(name: str, entry: Table, place: str) -> Benchmark:
    """The benchmark that an entry describes.

    Args:
        name: Its name.
        entry: Its table, defaults and member filled in.
        place: Where the entry stands, for messages.

    Raises:
        DataError: the entry is not as ``Benchmark`` says.
    """
    require(_NAME.fullmatch(name) is not None, place, f"{quoted(name)} is no name")
    _check_table(entry, _ENTRY, (*_PLAIN_NEEDED, "kind", "columns", "local"), place)
    _check_one_of(entry["kind"], tuple(TaskKind), f"{place}, kind")
    _check_one_of(entry["seed_prompt_from"], PROMPT_ORIGINS, f"{place}, seed_prompt_from")
    kind = TaskKind(entry["kind"])
    _check_kind(kind, entry, place)
    text, label, choices = _columns(entry["columns"], f"{place}, columns")
    _check_layout(entry.get("input_format"), text, choices, f"{place}, input_format")
    limit, filters = _by_split(entry, place)
    hub = entry.get("hub")
    known = {*text, label, choices, *(column for wanted in filters.values() for column in wanted)}
    required: Table = {key: entry[key] for key in _PLAIN_NEEDED}
    optional: Table = {key: entry.get(key) for key in _PLAIN_OPTIONAL}
    return Benchmark(
        **required,
        **optional,
        name=name,
        kind=kind,
        text=text,
        label=label,
        choices=choices,
        local=_local(entry["local"], text, f"{place}, local"),
        hub=None if hub is None else _hub(hub, kind, known, f"{place}, hub"),
        limit=limit,
        filters=filters,
        input_is_no_answer=entry.get("input_is_no_answer", False),
        note=entry.get("note", ""),
    )


def _by_split(entry: Table, place: str) -> tuple[Table, Table]:
    limit, filters = entry.get("limit", {}), entry.get("filters", {})
    _check_values(limit, int, f"{place}, limit", keys=SPLIT_NAMES)
    require(all(most > 0 for most in limit.values()), place, "limit must be positive")
    _check_values(filters, dict, f"{place}, filters", keys=SPLIT_NAMES)
    for split, wanted in filters.items():
        _check_values(wanted, str, f"{place}, filters.{split}")
    return limit, filters


def _check_kind(kind: TaskKind, entry: Table, place: str) -> None:
    for other, key in _OWN_KEY.items():
        wanted = "needs" if other == kind else "must not have"
        require((key in entry) == (other == kind), place, f"{kind} {wanted} {key}")
    with_choices = kind == TaskKind.MULTIPLE_CHOICE
    wanted = "needs" if with_choices else "must not have"
    has_choices = "choices" in entry["columns"]
    require(has_choices == with_choices, place, f"{kind} {wanted} columns.choices")
    _check_values(entry.get("label_words", {}), str, f"{place}, label_words")
    if kind == TaskKind.CLASSIFICATION:
        require(len(entry["label_words"]) > 1, place, "label_words needs two labels or more")
    if with_choices:
        _check_one_of(entry["choice_style"], CHOICE_STYLES, f"{place}, choice_style")
    if kind == TaskKind.GENERATION:
        require(entry["max_answer_tokens"] > 0, place, "max_answer_tokens must be positive")
    elsewhere = kind != TaskKind.GENERATION and "input_is_no_answer" in entry
    require(not elsewhere, place, f"{kind} must not have input_is_no_answer")


def _columns(table: Table, place: str) -> tuple[tuple[str, ...], str, str | None]:
    rest = {key: value for key, value in table.items() if key != "text"}
    _check_values(rest, str, place, keys=("label", "choices"))
    require("label" in rest, place, "no label")
    text = table.get("text")
    names = text if isinstance(text, list) else [text]
    require(bool(names), place, "text names no column")
    for name in names:
        _check_type(name, str, f"{place}, text")
    return tuple(names), rest["label"], rest.get("choices")


def _local(table: Table, text: Sequence[str], place: str) -> LocalSource:
    _check_table(table, _LOCAL, ("train", "test"), place)
    folds = tuple(table.get("folds", ()))
    require(len(set(folds)) == len(folds), place, "folds has a seed twice")
    for fold in folds:
        _check_type(fold, int, f"{place}, folds")
    files: dict[str, str] = {split: table[split] for split in SPLIT_NAMES if split in table}
    for path in files.values():
        inside = not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts
        require(inside and "\\" not in path, place, f"{quoted(path)} leaves the data folder")
    require(len(set(files.values())) == len(files), place, "two splits read the same file")
    folded = any("{fold}" in path for path in files.values())
    require(folded == bool(folds), place, "{fold} in a path needs folds, and the reverse")
    pattern = table.get("text_pattern")
    if pattern is not None:
        _check_layout(pattern, text, None, f"{place}, text_pattern")
        # Between two fields without a literal nothing would say where the first one ends.
        require("}{" not in pattern, place, "two fields of text_pattern touch")
    return LocalSource(files, folds, pattern)


def _hub(table: Table, kind: TaskKind, known: Set[str | None], place: str) -> HubSource:
    _check_table(table, _HUB, ("id", "splits"), place)
    splits, columns, shots = table["splits"], table.get("columns", {}), table.get("shots")
    _check_values(splits, str, f"{place}, splits", keys=SPLIT_NAMES)
    _check_values(columns, str, f"{place}, columns", keys=known)
    require({"train", "test"} <= splits.keys(), place, "splits needs train and test")
    require(len(set(splits.values())) == len(splits), place, "splits takes one of them twice")
    if shots is not None:
        require(shots > 0, place, "shots must be positive")
        require(kind == TaskKind.CLASSIFICATION, place, "shots are drawn by label")
        require("validation" not in splits, place, "with shots, validation is drawn from train")
    return HubSource(table["id"], table.get("config"), splits, columns, shots)


def _check_layout(layout: Any, text: Sequence[str], choices: str | None, place: str) -> None:
    if layout is None:
        require(len(text) == 1, place, f"needed to lay out {listed(text)}")
        return
    shown = [name for name in _FIELD.findall(layout) if choices is None or name != "choices"]
    require(
        sorted(shown) == sorted(text), place, f"shows {listed(shown)}, must show {listed(text)}"
    )


def _check_table(
    table: Table, known: Mapping[str, type], needed: Sequence[str], place: str
) -> None:
    missing = [key for key in needed if key not in table]
    require(not missing, place, f"no {', '.join(missing)}")
    for key, value in table.items():
        require(key in known, place, f"unknown key {quoted(key)}; known are {', '.join(known)}")
        _check_type(value, known[key], f"{place}, {key}")


def _check_values(
    table: Table, expected: type, place: str, *, keys: Collection[str | None] | None = None
) -> None:
    for key, value in table.items():
        require(keys is None or key in keys, place, f"unknown key {quoted(key)}")
        _check_type(value, expected, f"{place}.{key}")


def _check_type(value: object, expected: type, place: str) -> None:
    require(type(value) is expected, place, f"must be {expected.__name__}, found {quoted(value)}")
    if isinstance(value, str):
        require(bool(value.strip()), place, "is empty")


def _check_one_of(value: str, allowed: Sequence[str], place: str) -> None:
    require(value in allowed, place, f"must be one of {', '.join(allowed)}, found {quoted(value)}")


def require(condition: bool, place: str, message: str) -> None:
    """Refuse the entry at this place unless the condition holds."""
    if not condition:
        raise DataError(f"catalogue, {place}: {message}; correct the entry")
