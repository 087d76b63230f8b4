"""One labelled item, and the three kinds of task that it can be an item of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class TaskKind(StrEnum):
    """What the target is asked for."""

    CLASSIFICATION = "classification"
    """One of the labels, which all examples share."""
    MULTIPLE_CHOICE = "multiple_choice"
    """One of the example's own choices."""
    GENERATION = "generation"
    """Free text, compared with one or several references."""


@dataclass(frozen=True, slots=True)
class Example:
    """An input, and what is correct for it.

    Attributes:
        text: The input as the target reads it: all fields in the task's format, choices listed.
        label: What is correct: the label; the right choice; the first reference.
        others: Further answers that are as correct as ``label``.
        choices: What may be answered, multiple choice only.
        fields: The parts of the input by name, for prompts with placeholders.
    """

    text: str
    label: str
    others: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def answers(self) -> tuple[str, ...]:
        """Everything that is correct."""
        return (self.label, *self.others)
