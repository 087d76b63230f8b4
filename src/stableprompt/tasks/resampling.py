"""Drawing examples again, and swapping two prompts' outcomes: the scores that follow.

A score does not change if two examples with the same outcome change places. So what is drawn is
how often each distinct outcome occurs: its weight. Weights come in chunks of about a million
numbers, so that memory does not grow with the number of draws.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stableprompt.tasks.example import Example
from stableprompt.tasks.metrics.labels import ByLabelCounts, Floats
from stableprompt.tasks.metrics.metric import Metric

Counts = NDArray[np.int64]
WeightedScore = Callable[[Counts], Floats]
"""The scores, (R,), of draws given by their weights, (R, K)."""

_NUMBERS_AT_ONCE: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Results:
    """What a prompt achieved, all three in the order of the examples.

    Attributes:
        examples: The examples.
        predictions: What was answered to each.
        values: What each answer is worth, 0 to 1.
    """

    examples: Sequence[Example]
    predictions: Sequence[str]
    values: Sequence[float]

    def at(self, places: Sequence[int]) -> "Results":
        """The results at these places."""
        return Results(
            [self.examples[i] for i in places],
            [self.predictions[i] for i in places],
            [self.values[i] for i in places],
        )

    def __add__(self, other: "Results") -> "Results":
        return Results(
            [*self.examples, *other.examples],
            [*self.predictions, *other.predictions],
            [*self.values, *other.values],
        )

    def score(self, metric: Metric) -> float:
        """As ``metric.score``, from the values that are known already."""
        return metric.score(self.examples, self.predictions, self.values)

    def outcomes(self, metric: Metric) -> Sequence[Hashable]:
        """For each example what its part in the score depends on."""
        if metric.together is None:
            return self.values
        if isinstance(metric.together, ByLabelCounts):
            labels = [example.label for example in self.examples]
            return list(zip(labels, self.predictions, strict=True))
        return range(len(self.examples))


def distinct(outcomes: Sequence[Hashable]) -> tuple[list[int], Counts]:
    """The place of the first of each distinct outcome, and how often each occurs, (K,)."""
    places: dict[Hashable, list[int]] = {}
    for place, outcome in enumerate(outcomes):
        places.setdefault(outcome, []).append(place)
    counts = np.array([len(same) for same in places.values()], dtype=np.int64)
    return [same[0] for same in places.values()], counts


def weighted_score(metric: Metric, results: Results) -> WeightedScore:
    """A function from weights of the results to scores.

    Means and scores of label counts are matrix products; a metric with another ``together`` is
    called once for each draw, which takes as long as it takes.
    """
    together = metric.together
    if isinstance(together, ByLabelCounts):
        by_label = together.weighted(results.examples, results.predictions)
        return lambda weights: by_label(weights.astype(float))
    if together is None:
        worth = np.asarray(results.values, dtype=float)
        return lambda weights: (weights @ worth) / weights.sum(axis=1)

    def one_by_one(weights: Counts) -> Floats:
        drawn = [results.at(np.repeat(np.arange(len(row)), row).tolist()) for row in weights]
        return np.array([together(each.examples, each.predictions) for each in drawn])

    return one_by_one


def bootstrap(
    score: WeightedScore, counts: Counts, resamples: int, rng: np.random.Generator
) -> Floats:
    """Scores of as many examples as there are, drawn with replacement, (resamples,)."""
    n = counts.sum()
    chunks = _chunks(len(counts), resamples)
    drawn = [score(rng.multinomial(n, counts / n, size=rows)) for rows in chunks]
    return np.concatenate(drawn)


def swapped_differences(
    score: WeightedScore, counts: Counts, draws: int, rng: np.random.Generator
) -> Floats:
    """Differences of two prompts, each example's outcomes swapped with probability 1/2, (draws,).

    Args:
        score: The score of the K distinct outcomes of the first prompt, then of those of the
            second: weights (R, 2K).
        counts: How often each pair of outcomes occurs, (K,).
        draws: Number of draws.
        rng: Where the draws come from.
    """
    differences = []
    for rows in _chunks(2 * len(counts), draws):
        swapped = rng.binomial(counts, 0.5, size=(rows, len(counts)))
        kept = counts - swapped
        first, second = np.hstack([kept, swapped]), np.hstack([swapped, kept])
        differences.append(score(second) - score(first))
    return np.concatenate(differences)


def _chunks(width: int, rows: int) -> Iterator[int]:
    """Numbers of rows that add up to all of them, each a chunk of a bearable size."""
    most = max(1, _NUMBERS_AT_ONCE // width)
    for done in range(0, rows, most):
        yield min(most, rows - done)
