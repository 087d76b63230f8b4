"""How good, and how sure: a score with its interval, two prompts on the same examples.

Accuracies and other means of zeros and ones have exact or closed forms; everything else is
resampled (``resampling.py``). Nothing here knows about prompts or models.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from stableprompt.tasks.example import Example
from stableprompt.tasks.metrics.metric import Metric
from stableprompt.tasks.resampling import (
    Results,
    bootstrap,
    distinct,
    swapped_differences,
    weighted_score,
)

# 97.5 % quantile of the standard normal distribution: two-sided 95 % intervals.
_Z: Final = 1.959963984540054
_ENDS: Final = (0.025, 0.975)

SWAP_DRAWS: Final = 10_000
"""Draws of the randomisation test."""
# Two differences of scores that differ by no more than this are equal: sums of floats round.
_ROUNDING: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Estimate:
    """A score with its 95 % interval.

    Attributes:
        score: The score on the n examples, 0 to 1.
        low: Lower end of the interval.
        high: Upper end of the interval.
        n: Number of examples.
        metric: What was measured, for example "accuracy".
    """

    score: float
    low: float
    high: float
    n: int
    metric: str


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Two prompts on the same examples.

    Attributes:
        difference: Score of the second minus score of the first, -1 to 1.
        low: Lower end of the 95 % interval of the difference.
        high: Upper end of the 95 % interval of the difference.
        p_value: Two-sided, of "both are equally good".
        n: Number of examples.
        test: Where the p value is from: "mcnemar" (exact) or "randomisation".
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int
    test: str = "mcnemar"


class Outcome(Protocol):
    """What a prompt achieved on the examples, in their order."""

    @property
    def predictions(self) -> Sequence[str]:
        """What was answered."""
        ...

    @property
    def values(self) -> Sequence[float]:
        """What each answer is worth, 0 to 1."""
        ...


def accuracy_estimate(correct: Sequence[bool]) -> Estimate:
    """Share of correct examples with the Wilson score interval at 95 %.

    With p the share, n the count and z = 1.96::

        (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)

    Wilson (1927), "Probable inference, the law of succession, and statistical
    inference", JASA 22. It stays inside [0, 1] and has a width at 0 and n correct too.

    Args:
        correct: For each example, whether it was answered correctly.

    Raises:
        ValueError: there are no examples.
    """
    n = len(correct)
    if n == 0:
        raise ValueError("accuracy of 0 examples is undefined: give at least one")
    share = sum(map(bool, correct)) / n
    z2_n = _Z * _Z / n
    centre = share + z2_n / 2
    margin = _Z * math.sqrt(share * (1 - share) / n + z2_n / (4 * n))
    # The interval touches the share at 0 and 1; rounding must not push it past either.
    low = max(0.0, min(share, (centre - margin) / (1 + z2_n)))
    high = min(1.0, max(share, (centre + margin) / (1 + z2_n)))
    return Estimate(share, low, high, n, "accuracy")


def estimate(
    metric: Metric,
    examples: Sequence[Example],
    predictions: Sequence[str],
    values: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> Estimate:
    """The score of a prompt with its 95 % interval.

    A mean of values that are all 0 or 1 is a share and gets the Wilson interval
    (``accuracy_estimate``). Any other score gets the percentile bootstrap over
    examples (Efron and Tibshirani 1993, chapter 13): the 2.5 % and 97.5 %
    quantiles of the score of n examples drawn with replacement, moved where
    needed so that they hold the score itself. With few examples it is too
    narrow, with one it has no width.

    Args:
        metric: What is measured.
        examples: The examples.
        predictions: What the target answered to each.
        values: What ``metric.value`` gave for each.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap draws.

    Raises:
        ValueError: the lengths differ or there are no examples.
    """
    results = _checked(examples, predictions, values)
    if metric.together is None and _zeros_and_ones(values):
        return replace(accuracy_estimate([v == 1 for v in values]), metric=metric.name)
    score = results.score(metric)
    places, counts = distinct(results.outcomes(metric))
    weighted = weighted_score(metric, results.at(places))
    drawn = bootstrap(weighted, counts, resamples, np.random.default_rng(seed))
    return Estimate(score, *_interval(drawn, score), len(examples), metric.name)


def paired(
    metric: Metric,
    examples: Sequence[Example],
    first: Outcome,
    second: Outcome,
    *,
    seed: int = 0,
    resamples: int = 10_000,
) -> PairedComparison:
    """Compare two prompts on the same examples by any metric.

    Means of values that are all 0 or 1 are compared by ``paired_comparison``.
    Otherwise the interval is the percentile bootstrap as in ``estimate``, both
    prompts on the same draw of examples. The p value is the approximate
    randomisation test (Noreen 1989, "Computer-intensive methods for testing
    hypotheses"): if both prompts are equally good, their outcomes can be
    swapped on any example. With d the difference of scores, d* the difference
    after each example is swapped with probability 1/2, and 10,000 draws of d*::

        p = (#{|d*| >= |d|} + 1) / (draws + 1)

    Args:
        metric: What is measured.
        examples: The examples.
        first: What the first prompt achieved on them.
        second: What the second prompt achieved on them.
        seed: Seed of the bootstrap and of the test, which draw independently.
        resamples: Number of bootstrap draws.

    Raises:
        ValueError: the lengths differ or there are no examples.
    """
    one = _checked(examples, first.predictions, first.values)
    other = _checked(examples, second.predictions, second.values)
    n = len(examples)
    if metric.together is None and _zeros_and_ones([*one.values, *other.values]):
        was, now = ([v == 1 for v in results.values] for results in (one, other))
        return paired_comparison(was, now, seed=seed, resamples=resamples)

    difference = other.score(metric) - one.score(metric)
    pairs = list(zip(one.outcomes(metric), other.outcomes(metric), strict=True))
    places, counts = distinct(pairs)
    one, other = one.at(places), other.at(places)
    for_interval, for_test = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(2))
    of_one, of_other = weighted_score(metric, one), weighted_score(metric, other)
    drawn = bootstrap(lambda w: of_other(w) - of_one(w), counts, resamples, for_interval)
    swapped = swapped_differences(weighted_score(metric, one + other), counts, SWAP_DRAWS, for_test)
    as_far = int(np.count_nonzero(np.abs(swapped) >= abs(difference) - _ROUNDING))
    p_value = (as_far + 1) / (SWAP_DRAWS + 1)
    return PairedComparison(difference, *_interval(drawn, difference), p_value, n, "randomisation")


def _checked(
    examples: Sequence[Example], predictions: Sequence[str], values: Sequence[float]
) -> Results:
    n = len(examples)
    if not n == len(predictions) == len(values):
        raise ValueError(
            "a score needs a prediction and a value for each example: "
            f"found {n} examples, {len(predictions)} predictions and {len(values)} values"
        )
    if n == 0:
        raise ValueError("a score on 0 examples is undefined: give at least one")
    return Results(examples, predictions, values)


def _zeros_and_ones(values: Sequence[float]) -> bool:
    return all(value in (0, 1) for value in values)


def _interval(drawn: NDArray[np.float64], score: float) -> tuple[float, float]:
    """The 95 % percentile interval, moved where needed so that it holds the score."""
    low, high = np.quantile(drawn, _ENDS)
    return min(float(low), score), max(float(high), score)


def paired_comparison(
    first_correct: Sequence[bool],
    second_correct: Sequence[bool],
    *,
    seed: int = 0,
    resamples: int = 10_000,
) -> PairedComparison:
    """Compare two prompts that were scored on the same examples in the same order.

    The interval is the 95 % percentile bootstrap over examples (Efron and
    Tibshirani 1993, chapter 13). An example counts +1 (only the second is
    right), -1 (only the first) or 0, so drawing n examples with replacement is
    one multinomial draw of these three counts: the same distribution, at a
    cost that does not grow with n.

    The p value is the exact McNemar test (McNemar 1947; exact form in Fleiss,
    "Statistical methods for rates and proportions"): with b and c the two
    discordant counts, m = b + c and k = min(b, c)::

        p = min(1, 2 · sum_{i=0..k} C(m, i) / 2^m),  p = 1 if m = 0

    Args:
        first_correct: For each example, whether the first prompt got it right.
        second_correct: The same for the second prompt.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap draws.

    Raises:
        ValueError: the lengths differ or there are no examples.
    """
    n = len(first_correct)
    if n != len(second_correct):
        raise ValueError(
            f"a paired comparison needs the same examples: found {n} and {len(second_correct)}"
        )
    if n == 0:
        raise ValueError("a comparison on 0 examples is undefined: give at least one")
    pairs = [(bool(a), bool(b)) for a, b in zip(first_correct, second_correct, strict=True)]
    gained, lost = pairs.count((False, True)), pairs.count((True, False))

    rng = np.random.default_rng(seed)
    shares = [gained / n, lost / n, (n - gained - lost) / n]
    counts = rng.multinomial(n, shares, size=resamples)  # (resamples, 3)
    low, high = np.quantile((counts[:, 0] - counts[:, 1]) / n, _ENDS)
    return PairedComparison(
        (gained - lost) / n, float(low), float(high), _mcnemar_p(gained, lost), n
    )


def _mcnemar_p(gained: int, lost: int) -> float:
    """Whole numbers throughout: exact, and no overflow however many examples there are."""
    discordant = gained + lost
    term, tail = 1, 0  # term is C(discordant, i)
    for i in range(min(gained, lost) + 1):
        tail += term
        term = term * (discordant - i) // (i + 1)
    return min(1.0, 2 * tail / (1 << discordant))
