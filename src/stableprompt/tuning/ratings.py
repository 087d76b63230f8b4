"""What a prompt is worth, from everything that was seen of it and of its like.

Prompts are scored on few examples, those of one step on other ones than those of the next. What
a prompt earned is then mostly luck: with the draw of examples, and with eight answers instead of
all. So rewards are taken apart by one additive model:

    reward of prompt p on example e = group mean[step of p] + deviation[p] + effect[e] + noise

Deviations, effects and the moves of the group mean from step to step are normal around 0: a
policy moves slowly, and examples are drawn alike. The rating of a prompt is the expected value of
group mean + deviation. What was seen once is drawn towards the prompts of its step, and luck with
easy examples gains nothing (best linear unbiased prediction, Henderson 1975; the variances by a
two-way analysis of variance). The seed prompt is a group of its own. Pure, no models.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Seen = Sequence[Mapping[int, float]]
"""For each prompt, the seed prompt first: number of an example -> what was earned on it."""

_DRIFT: Final = 0.25
"""Variance of a move of the group mean, as a share of the variance of deviations."""
_LEAST: Final = 1e-4
"""No variance is taken for less than this share of the noise, or of 1 where there is none."""
_ROUNDING: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Variances:
    """How much rewards differ, and why."""

    noise: float
    deviations: float
    """Between prompts of one group, on average over all examples."""
    effects: float
    """Between examples."""


_UNKNOWN: Final = Variances(1.0, 0.1, 0.5)
"""Shares of a reward's variance where they cannot be measured: mostly luck, then the example."""


def variances_of(groups: Sequence[int], seen: Seen) -> Variances:
    """Analysis of variance of each group's prompts on the examples of its step, pooled.

    Those are the examples that most of its prompts saw; prompts that did not see all of them are
    left out here (an anchor decision's saw others). Where no group has two prompts with two such
    examples, nothing can be told apart, and ``_UNKNOWN`` is taken.

    Args:
        groups: Group of each prompt; the seed prompt, the first, is left out.
        seen: What they earned.
    """
    members: dict[int, list[int]] = {}
    for prompt in range(1, len(groups)):
        members.setdefault(groups[prompt], []).append(prompt)
    squares, freedom, sizes = np.zeros(3), np.zeros(3), np.zeros(3)
    for of_group in members.values():
        times = Counter(example for prompt in of_group for example in seen[prompt])
        common = [example for example, count in times.items() if 2 * count > len(of_group)]
        prompts = [prompt for prompt in of_group if seen[prompt].keys() >= set(common)]
        height, width = len(prompts), len(common)
        if height < 2 or width < 2:
            continue
        table = np.array([[seen[p][e] for e in common] for p in prompts], dtype=float)
        table -= table.mean()
        rows, columns = table.mean(axis=1), table.mean(axis=0)
        rest = table - rows[:, None] - columns
        squares += (rest**2).sum(), width * (rows**2).sum(), height * (columns**2).sum()
        own = np.array([(height - 1) * (width - 1), height - 1, width - 1], dtype=float)
        freedom += own
        sizes += own * (1, width, height)
    if not freedom.all():
        return _UNKNOWN
    noise, of_rows, of_columns = squares / freedom
    _, width, height = sizes / freedom
    least = _LEAST * noise if noise > _ROUNDING else _LEAST
    return Variances(
        max(noise, least),
        max((of_rows - noise) / width, least),
        max((of_columns - noise) / height, least),
    )


def ratings_of(groups: Sequence[int], seen: Seen, variances: Variances) -> Floats:
    """The rating of every prompt, (P,), in units of reward.

    Henderson's equations for the seed prompt's mean, group means and effects; the deviations,
    which are many, are eliminated from them first.

    Args:
        groups: Group of each prompt, from 0; the seed prompt's is not looked at.
        seen: What they earned; at least one prompt on one example.
        variances: As ``variances_of`` found them.
    """
    num_groups = 2 + max(groups)  # the seed prompt is the first
    num_examples = 1 + max(example for own in seen for example in own)
    means = np.array([0, *(1 + group for group in groups[1:])])
    numbers = np.array([len(own) for own in seen], dtype=float)
    totals = np.array([sum(own.values()) for own in seen], dtype=float)
    rows = np.repeat(np.arange(len(seen)), numbers.astype(int))
    columns = np.fromiter((example for own in seen for example in own), dtype=int)
    rewards = np.fromiter((reward for own in seen for reward in own.values()), dtype=float)
    shown = np.zeros((len(seen), num_examples))  # whether a prompt was scored on an example
    shown[rows, columns] = 1
    # A deviation is (what was earned - what the unknowns say) * weight.
    weights = 1 / (numbers + variances.noise / variances.deviations)
    weights[0] = 0  # the seed prompt has a mean of its own
    left = 1 - weights * numbers  # what the deviation leaves to the mean, of each reward
    # A prompt has one mean, so that most of the equations' table is 0 and is never computed: its
    # size grows with the steps, and the square of that with each prompt would be too much.
    own = np.bincount(means, left * numbers, num_groups)
    across = np.zeros((num_groups, num_examples))
    np.add.at(across, means, left[:, None] * shown)
    effects = np.diag(shown.sum(axis=0)) - (shown * weights[:, None]).T @ shown
    effects[np.diag_indices(num_examples)] += variances.noise / variances.effects
    normal = np.block([[np.diag(own), across], [across.T, effects]])
    stiffness = variances.noise / (_DRIFT * variances.deviations)
    earlier = np.arange(1, num_groups - 1)  # each group's mean, and the next one's
    for one, other, sign in ((0, 0, 1), (1, 1, 1), (0, 1, -1), (1, 0, -1)):
        normal[earlier + one, earlier + other] += sign * stiffness
    # Of a seed prompt that was never scored nothing is known: any mean solves its equation.
    normal[np.diag_indices(len(normal))] += _ROUNDING * normal.trace()
    right = np.concatenate(
        [
            np.bincount(means, left * totals, num_groups),
            np.bincount(columns, rewards, num_examples) - shown.T @ (weights * totals),
        ]
    )
    unknowns = np.linalg.solve(normal, right)
    mean, effect = unknowns[:num_groups][means], unknowns[num_groups:]
    return np.asarray(mean + weights * (totals - numbers * mean - shown @ effect))
