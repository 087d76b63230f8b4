"""Few examples that stand for all: with each answer in its proportion.

A small model often prefers one answer, whatever the input: what a prompt earns on few examples is
then for a good part luck with how many of them have it. Drawn answer by answer, as strata, that
luck is gone (proportional stratified sampling, Cochran 1977, chapter 5). Pure.
"""

import random
from collections.abc import Sequence

from stableprompt.tasks.example import Example
from stableprompt.tasks.splits import draw_evenly


def answer_of(example: Example) -> str:
    """The stratum: the label or reference that is right; of choices, which differ, the place."""
    if example.choices:
        return f"choice {example.choices.index(example.label)}"
    return example.label


def spread(examples: Sequence[Example], rng: random.Random) -> list[Example]:
    """All of them in random order; a half, a quarter and so on from the beginning are even draws.

    Each example is as likely at any place as any other.
    """
    if len(examples) < 2:
        return list(examples)
    taken = draw_evenly(examples, len(examples) // 2, rng, answer_of)
    chosen = set(taken)
    rest = [example for place, example in enumerate(examples) if place not in chosen]
    return [*spread([examples[place] for place in taken], rng), *spread(rest, rng)]
