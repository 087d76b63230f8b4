"""Successive halving: many prompts on a part of the examples, the better half on twice as much.

Most finalists are clearly worse than the best on a quarter of the validation split; what they
would cost on the rest pays for more finalists instead (Jamieson and Talwalkar 2016,
arXiv 1502.07943).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from stableprompt.config import TuneConfig
from stableprompt.tasks.example import Example
from stableprompt.tasks.task import Task
from stableprompt.tuning.randomness import derive_random
from stableprompt.tuning.spread import spread

PAPER_FINALISTS: Final = 5
"""So many prompts the paper scores on test, to report the highest."""

_FEWEST = 8  # examples of a first look


def validation_order(task: Task, config: TuneConfig) -> list[Example]:
    """The validation split in the order in which parts of it are looked at, one for a whole run."""
    return spread(task.validation, derive_random(config.seed, "validation-order"))


Look = Callable[[Sequence[str], Sequence[Example]], Mapping[str, float]]
"""What prompts are worth now that they were seen on these examples, too."""


def look_sizes(num_examples: int, rounds: int) -> list[int]:
    """How many examples each look takes: twice as many each time, all of them at last.

    Looks at fewer than eight are left out.

    >>> look_sizes(32, 3), look_sizes(20, 3), look_sizes(5, 3)
    ([8, 16, 32], [10, 20], [5])
    """
    sizes = [num_examples >> left for left in reversed(range(rounds))]
    return [size for size in sizes if size >= min(_FEWEST, num_examples)]


def race(prompts: Sequence[str], examples: Sequence[Example], rounds: int, look: Look) -> list[str]:
    """The prompts that are left for the last look, at all examples; they are not scored there yet.

    Args:
        prompts: All different.
        examples: In the order in which they are looked at.
        rounds: Looks; with one, all prompts are left.
        look: Says what prompts are worth.
    """
    left = list(prompts)
    for size in look_sizes(len(examples), rounds)[:-1]:
        worth = look(left, examples[:size])
        left.sort(key=lambda prompt: (-worth[prompt], prompt))
        left = left[: (len(left) + 1) // 2]
    return left


def looks(num_prompts: int, num_examples: int, rounds: int) -> Iterator[tuple[int, range]]:
    """How many prompts are left for each look, and the places of the examples that it adds.

    >>> list(looks(5, 32, 3))
    [(5, range(0, 8)), (3, range(8, 16)), (2, range(16, 32))]
    """
    before = 0
    for size in look_sizes(num_examples, rounds):
        yield num_prompts, range(before, size)
        before, num_prompts = size, (num_prompts + 1) // 2


def race_cost(num_prompts: int, num_examples: int, rounds: int) -> int:
    """Pairs of prompt and example that a race asks at most, the last look included."""
    return sum(left * len(new) for left, new in looks(num_prompts, num_examples, rounds))


def most_racers(calls: int, num_examples: int, rounds: int) -> int:
    """How many prompts can race for so many calls."""
    low, high = 0, calls // look_sizes(num_examples, rounds)[0] + 1  # each takes a first look
    while high - low > 1:
        middle = (low + high) // 2
        if race_cost(middle, num_examples, rounds) <= calls:
            low = middle
        else:
            high = middle
    return low
