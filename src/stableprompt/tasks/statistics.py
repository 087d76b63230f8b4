"""How good, and how sure: an accuracy with its interval, two prompts on the same examples.

Standard library and numpy only; nothing here knows about prompts or models.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

# 97.5 % quantile of the standard normal distribution: two-sided 95 % intervals.
_Z: Final = 1.959963984540054


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
        difference: Accuracy of the second minus accuracy of the first, -1 to 1.
        low: Lower end of the 95 % interval of the difference.
        high: Upper end of the 95 % interval of the difference.
        p_value: Two-sided exact McNemar test of "both are right equally often".
        n: Number of examples.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int


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
    low, high = np.quantile((counts[:, 0] - counts[:, 1]) / n, [0.025, 0.975])
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
