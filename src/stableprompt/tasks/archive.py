"""A task as plain JSON values, and back; and what of other data a run has not seen."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from stableprompt.tasks.example import Example
from stableprompt.tasks.folding import fold
from stableprompt.tasks.splits import SPLIT_NAMES, SplitName, Splits
from stableprompt.tasks.task import Task
from stableprompt.tasks.verbalizer import Verbalizer


def task_to_dict(task: Task) -> dict[str, Any]:
    """Everything of a task, as JSON values."""
    return {
        "name": task.name,
        "seed_prompt": task.seed_prompt,
        "label_words": dict(task.verbalizer.words),
        "notes": list(task.notes),
        **{
            name: [{"text": e.text, "label": e.label} for e in task.splits.part(name)]
            for name in SPLIT_NAMES
        },
    }


def task_from_dict(content: Mapping[str, Any]) -> Task:
    """Take back what ``task_to_dict`` gave."""
    parts = {name: tuple(Example(**row) for row in content[name]) for name in SPLIT_NAMES}
    return Task(
        name=content["name"],
        splits=Splits(**parts),
        verbalizer=Verbalizer(content["label_words"]),
        seed_prompt=content["seed_prompt"],
        notes=tuple(content["notes"]),
    )


def unseen(task: Task, used: Task) -> Task:
    """The examples that a prompt tuned on ``used`` may be judged on, with its label words.

    The same texts keep the splits that they had in the run. Of other data, every text that the
    run had in train or validation is left out, and the notes say how many.

    Args:
        task: What is to be scored.
        used: The task of the run.

    Raises:
        DataError: a split would be empty.
    """
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
        verbalizer=used.verbalizer if same_labels else task.verbalizer,
        notes=(*task.notes, *note),
    )


def _texts(task: Task, names: Sequence[SplitName]) -> set[str]:
    return {fold(example.text) for name in names for example in task.splits.part(name)}
