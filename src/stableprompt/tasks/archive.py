"""A task as plain JSON values, and back: what the run folder keeps of the data."""

from collections.abc import Mapping
from typing import Any

from stableprompt.tasks.example import Example
from stableprompt.tasks.splits import SPLIT_NAMES, Splits
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
