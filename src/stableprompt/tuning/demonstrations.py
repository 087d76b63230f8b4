"""Few-shot: training examples written into the prompt, by a seeded random search on validation."""

from collections.abc import Iterator, Sequence

from stableprompt.config import TuneConfig
from stableprompt.tasks.example import Example
from stableprompt.tasks.placeholders import WHOLE_INPUT, placeholders
from stableprompt.tasks.task import Task
from stableprompt.tuning.randomness import derive_random


def with_demonstrations(prompt: str, task: Task, shown: Sequence[Example]) -> str:
    """The prompt with examples and their right answers, as one text.

    They stand behind the instruction; before it where the prompt places the input itself, which
    must come last.
    """
    block = "\n\n".join(as_demonstration(e, task) for e in shown)
    if placeholders(prompt) & _placed(task):
        return f"{block}\n\n{prompt}"
    return f"{prompt}\n\n{block}"


def as_demonstration(example: Example, task: Task) -> str:
    """One example with its right answer, as it stands in a prompt."""
    return f"Input: {example.text}\nOutput: {task.shown_answer(example)}"


def draw_demonstrations(prompt: str, task: Task, config: TuneConfig) -> Iterator[str]:
    """The prompt with each of the random sets that are to be tried.

    An example that spells a placeholder is never shown: the target's input would be put there.
    """
    pool = [
        e for e in task.train if not placeholders(f"{e.text}{task.shown_answer(e)}") & _placed(task)
    ]
    size = min(config.selection.num_demonstrations, len(pool))
    for number in range(config.selection.demonstration_sets if size else 0):
        rng = derive_random(config.seed, "demonstrations", number)
        yield with_demonstrations(prompt, task, rng.sample(pool, size))


def _placed(task: Task) -> set[str]:
    return {WHOLE_INPUT, *task.fields}
