"""Examples in an order in which every part from the beginning has answers in their proportions.

A small model often prefers one answer, whatever the input: what a prompt earns on few examples is
then for a good part luck with how many of them have it. Drawn answer by answer, as strata, that
luck is gone (proportional stratified sampling, Cochran 1977, chapter 5). Pure.
"""

import random
from collections.abc import Sequence

from stableprompt.tasks.example import Example


def spread(examples: Sequence[Example], rng: random.Random) -> list[Example]:
    """All examples in random order, those of each answer evenly over the whole of it.

    Each of the m examples of an answer has one of m equal parts of the order to itself, all with
    the same random shift. So the first n hold an answer as often as its share of n, up to less
    than one example more or less for each answer that there is; every example is as likely at
    any place as every other one of its answer. Where all answers differ, the order is any order.

    Args:
        examples: Of one split.
        rng: Decides.
    """
    strata: dict[str | int, list[Example]] = {}
    for example in examples:
        strata.setdefault(_stratum(example), []).append(example)
    placed: list[tuple[float, int, Example]] = []
    for members in strata.values():
        rng.shuffle(members)
        shift = rng.random()
        placed += [
            ((number + shift) / len(members), len(placed) + number, example)
            for number, example in enumerate(members)
        ]
    return [example for *_, example in sorted(placed, key=lambda place: place[:2])]


def _stratum(example: Example) -> str | int:
    """What is right: the label, the reference; of choices, which differ, the place."""
    return example.choices.index(example.label) if example.choices else example.label
