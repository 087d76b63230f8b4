"""What a prompt is worth, from everything that was seen of it and of its like.

Prompts are scored on few examples, those of one step on other ones than those of the next. What
a prompt earned is then mostly luck: with the draw of examples, and with eight answers instead of
all. So rewards are taken apart by one additive model:

    reward of prompt p on example e
        = group mean[step of p] + traits[p] * coefficients + deviation[p] + effect[e] + noise

Deviations, effects, coefficients and the moves of the group mean from step to step are normal
around 0: a policy moves slowly, and examples are drawn alike. The rating of a prompt is the
expected value of what does not depend on the example. What was seen once is drawn towards the
prompts of its step and, as far as traits explained rewards so far, towards its like; luck with
easy examples gains nothing (best linear unbiased prediction, Henderson 1975; the variances by a
two-way analysis of variance, the traits' share of them by their likelihood). The seed prompt is a
group of its own, whose mean takes up what its traits would explain. Pure, no models.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
_SHARES: Final = np.array([0.0, 0.1, 0.25, 0.5, 0.75])
"""Of what differs between the mean rewards of a group's prompts: what traits may explain."""
_FEWEST: Final = 8
"""Of fewer prompts (groups aside) nothing can be said of what explains them."""
_REST: Final = 0.25
"""At least this share of the deviations' variance is left to them."""
_NOTHING: Final = 0.01
"""A smaller share is none: it would only make the equations stiff."""


@dataclass(frozen=True, slots=True)
class Variances:
    """How much rewards differ, and why."""

    noise: float
    deviations: float
    """Between prompts of one group, on average over all examples, as far as traits do not explain
    it."""
    effects: float
    """Between examples."""
    coefficients: float = 0.0
    """Of each trait's coefficient; 0: traits explain nothing."""


_UNKNOWN: Final = Variances(1.0, 0.1, 0.5)
"""Shares of a reward's variance where they cannot be measured: mostly luck, then the example."""


def written_together(groups: Sequence[int], steps: Sequence[int]) -> list[int]:
    """A number for each prompt, the same for those that one policy wrote in one step.

    Args:
        groups: The policy of which step wrote each prompt.
        steps: When it did: the first policy goes on writing.
    """
    pairs = list(zip(groups, steps, strict=True))
    numbers = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
    return [numbers[pair] for pair in pairs]


def variances_of(groups: Sequence[int], seen: Seen, traits: Floats | None = None) -> Variances:
    """Analysis of variance of each group's prompts on the examples of its step, pooled.

    Those are the examples that most of its prompts saw; prompts that did not see all of them are
    left out here (an anchor decision's saw others). Where no group has two prompts with two such
    examples, nothing can be told apart, and ``_UNKNOWN`` is taken.

    Args:
        groups: Group of each prompt, as ``written_together`` makes them; the seed prompt, which
            is the first, is left out.
        seen: What they earned.
        traits: Of each prompt, (P, K), as ``traits_of`` gives them; None: nothing is known of them.
    """
    squares, freedom, sizes = np.zeros(3), np.zeros(3), np.zeros(3)
    tables = list(_tables(groups, seen))
    for _, table in tables:
        height, width = table.shape
        table = table - table.mean()
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
    found = Variances(
        max(noise, least),
        max((of_rows - noise) / width, least),
        max((of_columns - noise) / height, least),
    )
    return found if traits is None else _explained(found, of_rows / width, tables, traits)


def _tables(groups: Sequence[int], seen: Seen) -> Iterator[tuple[list[int], Floats]]:
    """Prompts of each group with what they earned on the examples of its step, (P, N)."""
    members: dict[int, list[int]] = {}
    for prompt in range(1, len(groups)):
        members.setdefault(groups[prompt], []).append(prompt)
    for of_group in members.values():
        times = Counter(example for prompt in of_group for example in seen[prompt])
        common = [example for example, count in times.items() if 2 * count > len(of_group)]
        prompts = [prompt for prompt in of_group if seen[prompt].keys() >= set(common)]
        if len(prompts) >= 2 and len(common) >= 2:
            yield prompts, np.array([[seen[p][e] for e in common] for p in prompts], dtype=float)


def _explained(
    found: Variances, of_means: float, tables: Sequence[tuple[list[int], Floats]], traits: Floats
) -> Variances:
    """Give traits the share of the deviations that they explain, averaged over how likely each is.

    Mean rewards of the prompts of a group differ by their traits and by the rest; the likelihood of
    each share, with the scale of both integrated out, is that of ridge regression as a Gaussian
    process (Rasmussen and Williams 2006, eq. 2.30). Where little was seen no share is much
    likelier than another.

    Args:
        found: As if traits explained nothing.
        of_means: Variance of the mean rewards of a group's prompts, with the noise in it.
        tables: Prompts of each group, and what they earned.
        traits: Of each prompt, (P, K).
    """
    own = [traits[prompts] for prompts, _ in tables]
    design = np.concatenate([rows - rows.mean(axis=0) for rows in own])
    earned = np.concatenate([table.mean(axis=1) - table.mean() for _, table in tables])
    freedom = len(earned) - len(tables)  # each group has a mean of its own
    size = float((design**2).sum()) / len(design)
    if freedom < _FEWEST or size <= _ROUNDING or (earned**2).sum() <= _ROUNDING:
        return found
    left, strengths, _ = np.linalg.svd(design / np.sqrt(size), full_matrices=False)
    along = (left.T @ earned) ** 2
    beside = max(0.0, (earned**2).sum() - along.sum())
    scales = 1 + np.outer(_SHARES / (1 - _SHARES), strengths**2)
    squares = (along / scales).sum(axis=1) + beside
    likelihood = -0.5 * (freedom * np.log(squares) + np.log(scales).sum(axis=1))
    weights = np.exp(likelihood - likelihood.max())
    share = float(_SHARES @ weights / weights.sum())
    if share < _NOTHING:
        return found
    explained = min(share * of_means, (1 - _REST) * found.deviations)
    return replace(found, deviations=found.deviations - explained, coefficients=explained / size)


def ratings_of(
    groups: Sequence[int], seen: Seen, variances: Variances, traits: Floats | None = None
) -> Floats:
    """The rating of every prompt, (P,), in units of reward.

    Henderson's equations for the seed prompt's mean, group means, effects and coefficients; the
    deviations, which are many, are eliminated from them first.

    Args:
        groups: Group of each prompt, from 0; the seed prompt's is not looked at.
        seen: What they earned; at least one prompt on one example.
        variances: As ``variances_of`` found them.
        traits: Of each prompt, (P, K); they count where the variances say so.
    """
    table = _sums(groups, seen)
    # A deviation is (what was earned - what the unknowns say) * weight.
    weights = 1 / (table.numbers + variances.noise / variances.deviations)
    weights[0] = 0  # the seed prompt has a mean of its own
    left = 1 - weights * table.numbers  # what the deviation leaves to the mean, of each reward
    normal, right = _equations(table, weights, left, variances)
    size = len(right)
    if traits is None or not variances.coefficients:
        traits = np.zeros((len(seen), 0))
    else:
        scaled = left[:, None] * traits
        across = table.design.T @ scaled
        own = traits.T @ (table.numbers[:, None] * scaled)
        own[np.diag_indices(len(own))] += variances.noise / variances.coefficients
        normal = np.block([[normal, across], [across.T, own]])
        right = np.concatenate([right, scaled.T @ table.totals])
    unknowns = np.linalg.solve(normal, right)
    expected = unknowns[table.means] + traits @ unknowns[size:]
    effects = table.shown @ unknowns[table.num_groups : size]
    return np.asarray(expected + weights * (table.totals - table.numbers * expected - effects))


@dataclass(frozen=True, slots=True)
class _Sums:
    """What was seen, as sums over the rewards of each prompt and of each example."""

    num_groups: int
    """The seed prompt, which is the first, counted."""
    means: NDArray[np.intp]
    """Which mean each prompt has, (P,)."""
    numbers: Floats
    """Rewards of each prompt, (P,)."""
    totals: Floats
    """Their sum, (P,)."""
    shown: Floats
    """Whether a prompt was scored on an example, (P, N)."""
    earned: Floats
    """Sum over the prompts, (N,)."""

    @property
    def design(self) -> Floats:
        """How often each mean and each effect is in the rewards of a prompt, (P, G + N)."""
        own = self.numbers[:, None] * np.eye(self.num_groups)[self.means]
        return np.concatenate([own, self.shown], axis=1)


def _sums(groups: Sequence[int], seen: Seen) -> _Sums:
    num_examples = 1 + max(example for own in seen for example in own)
    numbers = np.array([len(own) for own in seen], dtype=float)
    rows = np.repeat(np.arange(len(seen)), numbers.astype(int))
    columns = np.fromiter((example for own in seen for example in own), dtype=int)
    rewards = np.fromiter((reward for own in seen for reward in own.values()), dtype=float)
    shown = np.zeros((len(seen), num_examples))
    shown[rows, columns] = 1
    return _Sums(
        num_groups=2 + max(groups),
        means=np.array([0, *(1 + group for group in groups[1:])]),
        numbers=numbers,
        totals=np.array([sum(own.values()) for own in seen], dtype=float),
        shown=shown,
        earned=np.bincount(columns, rewards, num_examples).astype(float),
    )


def _equations(
    table: _Sums, weights: Floats, left: Floats, variances: Variances
) -> tuple[Floats, Floats]:
    """Both sides of the equations for means and effects."""
    num_groups, means, shown = table.num_groups, table.means, table.shown
    # A prompt has one mean, so that most of the equations' table is 0 and is never computed: its
    # size grows with the steps, and the square of that with each prompt would be too much.
    own = np.bincount(means, left * table.numbers, num_groups)
    across = np.zeros((num_groups, shown.shape[1]))
    np.add.at(across, means, left[:, None] * shown)
    effects = np.diag(shown.sum(axis=0)) - (shown * weights[:, None]).T @ shown
    effects[np.diag_indices(len(effects))] += variances.noise / variances.effects
    normal = np.block([[np.diag(own), across], [across.T, effects]])
    stiffness = variances.noise / (_DRIFT * variances.deviations)
    earlier = np.arange(1, num_groups - 1)  # each group's mean, and the next one's
    for one, other, sign in ((0, 0, 1), (1, 1, 1), (0, 1, -1), (1, 0, -1)):
        normal[earlier + one, earlier + other] += sign * stiffness
    # Of a seed prompt that was never scored nothing is known: any mean solves its equation.
    normal[np.diag_indices(len(normal))] += _ROUNDING * normal.trace()
    right = np.concatenate(
        [
            np.bincount(means, left * table.totals, num_groups),
            table.earned - shown.T @ (weights * table.totals),
        ]
    )
    return normal, right
