"""A task as plain JSON values, and back; and what of other data a run has not seen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from stableprompt.errors import DataError
from stableprompt.tasks.example import Example, TaskKind
from stableprompt.tasks.folding import fold
from stableprompt.tasks.formats import InputFormat
from stableprompt.tasks.metrics.registry import resolve_metric
from stableprompt.tasks.splits import SPLIT_NAMES, SplitName, Splits
from stableprompt.tasks.task import Task
from stableprompt.tasks.verbalizer import Verbalizer

CustomMetric = Callable[[Example, str], float]


def task_to_dict(task: Task) -> dict[str, Any]:
    """Everything of a task, as JSON values; of a custom metric the name alone."""
    return {
        "name": task.name,
        "kind": task.kind,
        "metric": task.metric.name,
        "seed_prompt": task.seed_prompt,
        "label_words": dict(task.verbalizer.words) if task.verbalizer is not None else None,
        "layout": asdict(task.layout),
        "max_answer_tokens": task.max_answer_tokens,
        "rubric": task.rubric,
        "notes": list(task.notes),
        **{name: [_row(e) for e in task.splits.part(name)] for name in SPLIT_NAMES},
    }


def task_from_dict(content: Mapping[str, Any], metric: CustomMetric | None = None) -> Task:
    """Take back what ``task_to_dict`` gave.

    Args:
        content: As it was written.
        metric: The function, where the task is scored by one of the user's own. It is never
            looked up by its name: a run folder is data, and what is in it must not be run.

    Raises:
        ConfigError: the task has a metric of the user's own, and it was not given.
    """
    kind = TaskKind(content["kind"])
    words = content["label_words"]
    parts = {name: tuple(map(_example, content[name])) for name in SPLIT_NAMES}
    return Task(
        name=content["name"],
        kind=kind,
        splits=Splits(**parts),
        layout=InputFormat(**content["layout"]),
        metric=resolve_metric(content["metric"] if metric is None else metric, kind),
        verbalizer=None if words is None else Verbalizer(words),
        seed_prompt=content["seed_prompt"],
        max_answer_tokens=content["max_answer_tokens"],
        rubric=content["rubric"],
        notes=tuple(content["notes"]),
    )


def _row(example: Example) -> dict[str, Any]:
    """What an example has, without what is empty."""
    row = {"text": example.text, "label": example.label}
    extra = {"others": example.others, "choices": example.choices, "fields": dict(example.fields)}
    return row | {name: value for name, value in extra.items() if value}


def _example(row: Mapping[str, Any]) -> Example:
    several = {name: tuple(row.get(name, ())) for name in ("others", "choices")}
    return Example(row["text"], row["label"], **several, fields=dict(row.get("fields", {})))


def unseen(task: Task, used: Task) -> Task:
    """The examples that a prompt tuned on ``used`` may be judged on, scored as it was.

    The same texts keep the splits that they had in the run. Of other data, every text that the
    run had in train or validation is left out, and the notes say how many.

    Args:
        task: What is to be scored.
        used: The task of the run.

    Raises:
        DataError: the kinds differ, or a split would be empty.
    """
    if task.kind is not used.kind:
        raise DataError(
            f"the run was tuned for {used.kind}, these examples are {task.kind}; give data of the "
            "same kind, or say what it is with --kind"
        )
    if _texts(task, SPLIT_NAMES) == _texts(used, SPLIT_NAMES):
        return used
    seen = _texts(used, ("train", "validation"))
    kept = {
        name: tuple(e for e in task.splits.part(name) if fold(e.text) not in seen)
        for name in SPLIT_NAMES
    }
    dropped = sum(len(task.splits.part(name)) - len(kept[name]) for name in SPLIT_NAMES)
    same_labels = set(task.labels) == set(used.labels)
    note = (f"{dropped} texts that the run was tuned on left out",) if dropped else ()
    return replace(
        task,
        splits=Splits(**kept),
        metric=used.metric,
        verbalizer=used.verbalizer if same_labels else task.verbalizer,
        notes=(*task.notes, *note),
    )


def _texts(task: Task, names: Sequence[SplitName]) -> set[str]:
    return {fold(example.text) for name in names for example in task.splits.part(name)}
