"""What a prompt must not hold, as plain data: of a task while tuning, of a writer in use."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from stableprompt.tasks.example import Example, TaskKind
from stableprompt.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Rules:
    """What the guards need to know of a task."""

    seed_prompt: str
    """Its placeholders must be kept; its own words are no copy."""
    fields: tuple[str, ...]
    """Placeholders that are filled in."""
    not_to_copy: tuple[str, ...]
    """Texts of examples."""
    answers: tuple[str, ...]
    """What must not be stated: label words, choices, or references."""
    closed: bool
    """Whether these are all that can be answered."""

    @classmethod
    def of(cls, task: Task) -> Self:
        """While tuning: nothing of the training examples."""
        return cls(
            task.seed_prompt,
            tuple(task.fields),
            tuple(_rare_texts(task, task.train)),
            _answers(task, task.train),
            task.kind is not TaskKind.GENERATION,
        )

    @classmethod
    def in_use(cls, task: Task, demonstrations: Sequence[Example]) -> Self:
        """Of a writer, which knows its demonstrations and no other example."""
        return cls(
            task.seed_prompt,
            tuple(task.fields),
            tuple(_rare_texts(task, demonstrations)),
            _answers(task, demonstrations),
            task.kind is not TaskKind.GENERATION,
        )

    def words(self, example: Example) -> tuple[str, ...]:
        """What may be answered to an input; nothing where the answer is free."""
        return example.choices or (self.answers if self.closed else ())


def _rare_texts(task: Task, examples: Sequence[Example]) -> list[str]:
    """Fields of the examples, and references, that only one of the training examples has.

    What several share gives no example away: it names the subject, or what may be answered.
    """
    free = task.kind is TaskKind.GENERATION

    def texts(example: Example) -> set[str]:
        return {*example.fields.values(), *(example.answers if free else ())}

    counts = Counter(text for example in task.train for text in texts(example))
    return [t for e in examples for t in sorted(texts(e)) if counts[t] == 1]


def _answers(task: Task, examples: Sequence[Example]) -> tuple[str, ...]:
    if task.kind is TaskKind.GENERATION:
        return tuple(dict.fromkeys(answer for e in examples for answer in e.answers))
    return tuple(dict.fromkeys(word for e in examples for word in task.answer_words(e)))
