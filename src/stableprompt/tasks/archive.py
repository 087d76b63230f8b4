"""A task as plain JSON values, and back; and what of other data a run has not seen."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from stableprompt.errors import ConfigError, DataError, RunError, StablePromptError
from stableprompt.tasks.example import Example, TaskKind
from stableprompt.tasks.formats import InputFormat
from stableprompt.tasks.metrics.registry import METRICS, resolve_metric
from stableprompt.tasks.splits import SPLIT_NAMES, SplitName, Splits, identity
from stableprompt.tasks.task import Task
from stableprompt.tasks.verbalizer import Verbalizer
from stableprompt.tasks.wording import listed

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
        "fingerprint": task.fingerprint(),
        **{name: [_row(e) for e in task.splits.part(name)] for name in SPLIT_NAMES},
    }


def task_from_dict(content: Mapping[str, Any], metric: CustomMetric | None = None) -> Task:
    """Take back what ``task_to_dict`` gave, and check that it is that.

    Args:
        content: As it was written.
        metric: The function, where the task is scored by one of the user's own. It is never
            looked up by its name: a run folder is data, and what is in it must not be run.

    Raises:
        ConfigError: the task has a metric of the user's own, and another or none was given.
        RunError: the content is damaged, or was changed.
    """
    task = unchecked_task(content, metric)
    if content.get("fingerprint", task.fingerprint()) != task.fingerprint():
        raise RunError(
            "the run's task.json is not as it was written: its fingerprint differs, so a text or "
            "an answer was changed; put it back, or start a new run"
        )
    return task


def unchecked_task(content: Mapping[str, Any], metric: CustomMetric | None = None) -> Task:
    """The same, for who compares part by part what was written (``basis``).

    Raises:
        ConfigError: see ``task_from_dict``.
        RunError: the content is damaged.
    """
    if metric is not None and name_of(metric) != content.get("metric"):
        raise ConfigError(
            f"the run is scored by {content.get('metric')!r}, the function given is "
            f"{name_of(metric)!r}; give the same one"
        )
    try:
        return _task(content, metric)
    except StablePromptError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"the run's task.json cannot be read ({type(error).__name__}: {error}): it is damaged, "
            "or of another version; start a new run"
        ) from error


def _task(content: Mapping[str, Any], metric: CustomMetric | None) -> Task:
    kind, name = TaskKind(content["kind"]), content["metric"]
    if metric is None and name not in METRICS:
        raise ConfigError(
            f"the run is scored by a function of your own, {name!r}: give it again with "
            f"--metric MODULE:{name} (metric=... in Python)"
        )
    words = content["label_words"]
    parts = {part: tuple(map(_example, content[part])) for part in SPLIT_NAMES}
    return Task(
        name=content["name"],
        kind=kind,
        splits=Splits(**parts),
        layout=InputFormat(**content["layout"]),
        metric=resolve_metric(name if metric is None else metric, kind),
        verbalizer=None if words is None else Verbalizer(words),
        seed_prompt=content["seed_prompt"],
        max_answer_tokens=content["max_answer_tokens"],
        rubric=content["rubric"],
        notes=tuple(content["notes"]),
    )


def name_of(metric: CustomMetric) -> str:
    """What a function is called in results."""
    return str(getattr(metric, "__name__", type(metric).__name__))


def _row(example: Example) -> dict[str, Any]:
    """What an example has, without what is empty."""
    row = {"text": example.text, "label": example.label}
    extra = {"others": example.others, "choices": example.choices, "fields": dict(example.fields)}
    return row | {name: value for name, value in extra.items() if value}


def _example(row: Mapping[str, Any]) -> Example:
    several = {name: tuple(row.get(name, ())) for name in ("others", "choices")}
    fields = dict(row.get("fields", {}))
    own = (row["text"], row["label"])
    for text in (*own, *several["others"], *several["choices"], *fields.values()):
        if not isinstance(text, str):
            raise TypeError(f"an example has {type(text).__name__} where a text belongs")
    return Example(row["text"], row["label"], **several, fields=fields)


def unseen(task: Task, used: Task, split: SplitName = "test") -> Task:
    """The examples that a prompt tuned on ``used`` may be judged on, scored as it was.

    The same examples keep the splits that they had in the run. Of other data, every text that the
    run had elsewhere is left out of the split that is judged, and the notes say how many; the
    other splits are the run's own.

    Args:
        task: What is to be scored, laid out as in the run.
        used: The task of the run.
        split: Which split is judged.

    Raises:
        DataError: the kinds differ, or nothing is left.
    """
    if task.kind is not used.kind:
        raise DataError(
            f"the run was tuned for {used.kind}, these examples are {task.kind}; give data of the "
            "same kind, or say what it is with --kind"
        )
    if _content(task) == _content(used):
        return used
    names = SPLIT_NAMES[:2] if split == "test" else SPLIT_NAMES
    seen = {identity(e) for name in names for e in used.splits.part(name)}
    kept = tuple(e for e in task.splits.part(split) if identity(e) not in seen)
    if not kept:
        raise DataError(f"the run has seen every {split} example of this data; give others")
    found = task.splits.part(split)
    dropped = len(found) - len(kept)
    told = f"{dropped} of {len(found)} {split} texts left out: the run was tuned on them"
    note = (told,) if dropped else ()
    if set(task.labels) != set(used.labels):
        raise DataError(
            f"the run knows the labels {listed(used.labels)}, this data has {listed(task.labels)}; "
            "give data with the same labels"
        )
    return replace(used, splits=replace(used.splits, **{split: kept}), notes=(*task.notes, *note))


def _content(task: Task) -> set[tuple[str, tuple[str, ...]]]:
    return {(identity(e), e.answers) for name in SPLIT_NAMES for e in task.splits.part(name)}
