"""Some of the examples, with each answer in its proportion to all of them.

A small model often prefers one answer, whatever the input: what a prompt earns on few examples is
then for a good part luck with how many of them have it. Drawn answer by answer, as strata, that
luck is gone (proportional stratified sampling, Cochran 1977, chapters 5 and 8). Pure.
"""

import random
from collections.abc import Sequence

from stableprompt.tasks.example import Example


def draw_evenly(examples: Sequence[Example], size: int, rng: random.Random) -> list[int]:
    """Which examples to take: each as likely as any other, each answer in its proportion.

    They are laid in a line, answer by answer, and every (N / size)-th is taken, from a random start
    on. So an answer that m of the N have is taken floor(size m / N) times or once more. Where all
    answers differ, any examples may come.

    Args:
        examples: N of them.
        size: How many, at most N.
        rng: Decides.

    Returns:
        Their places, in random order.
    """
    strata: dict[str | int, list[int]] = {}
    for place in rng.sample(range(len(examples)), len(examples)):
        strata.setdefault(_stratum(examples[place]), []).append(place)
    line = [place for members in strata.values() for place in members]
    start = rng.randrange(max(1, len(line)))
    taken = [line[(number * len(line) + start) // size] for number in range(size)]
    rng.shuffle(taken)
    return taken


def spread(examples: Sequence[Example], rng: random.Random) -> list[Example]:
    """All of them in random order; a half, a quarter and so on from the beginning are even draws.

    Each example is as likely at any place as any other.
    """
    if len(examples) < 2:
        return list(examples)
    taken = draw_evenly(examples, len(examples) // 2, rng)
    chosen = set(taken)
    rest = [example for place, example in enumerate(examples) if place not in chosen]
    return [*spread([examples[place] for place in taken], rng), *spread(rest, rng)]


def _stratum(example: Example) -> str | int:
    """What is right: the label, the reference; of choices, which differ, the place."""
    return example.choices.index(example.label) if example.choices else example.label
