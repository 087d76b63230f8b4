"""Metrics of labels and choices: accuracy, and two that give every label the same weight.

The two are functions of three counts for each label, so that a bootstrap can score thousands of
resamples of the examples with one matrix product.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stableprompt.tasks.example import Example, TaskKind
from stableprompt.tasks.metrics.metric import Metric

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """For each label how often it is right, predicted, and both; the same shape, (..., C).

    Attributes:
        support: Examples that have the label.
        predicted: Predictions of the label.
        hits: Predictions of the label that are right.
    """

    support: Floats
    predicted: Floats
    hits: Floats


@dataclass(frozen=True, slots=True)
class ByLabelCounts:
    """A score of all predictions together that depends on nothing but the counts of each label.

    Attributes:
        from_counts: The scores, (...), of counts, (..., C).
    """

    from_counts: Callable[[LabelCounts], Floats]

    def __call__(self, examples: Sequence[Example], predictions: Sequence[str]) -> float:
        """The score of the predictions, 0 to 1."""
        one_each = np.ones(len(examples))
        return float(self.weighted(examples, predictions)(one_each))

    def weighted(
        self, examples: Sequence[Example], predictions: Sequence[str]
    ) -> Callable[[Floats], Floats]:
        """A function from weights of the examples, (..., N), to scores, (...).

        A weight says how often an example counts. The prediction "" is no label: it makes its
        example wrong and is counted for nothing else.
        """
        pairs = list(zip([e.label for e in examples], predictions, strict=True))
        names = sorted({name for pair in pairs for name in pair if name})
        label_of = np.array([[label == name for name in names] for label, _ in pairs], dtype=float)
        guess_of = np.array([[guess == name for name in names] for _, guess in pairs], dtype=float)
        hit_of = label_of * guess_of  # all three (N, C)

        def score(weights: Floats) -> Floats:
            counts = LabelCounts(weights @ label_of, weights @ guess_of, weights @ hit_of)
            return self.from_counts(counts)

        return score


def balanced_accuracy(counts: LabelCounts) -> Floats:
    """Mean recall, hits/support, over the labels that occur among the examples."""
    return _mean_ratio(counts.hits, counts.support)


def macro_f1(counts: LabelCounts) -> Floats:
    """Mean F1, 2·hits/(support + predicted), over the labels that occur at all.

    A label occurs if an example has it or a prediction names it; one with support and no hit has
    F1 0 (as ``sklearn.metrics.f1_score(average="macro", zero_division=0)``, but that "" as a
    prediction is no label).
    """
    return _mean_ratio(2 * counts.hits, counts.support + counts.predicted)


def _mean_ratio(above: Floats, below: Floats) -> Floats:
    """Mean of above/below over the last axis, where below is not 0; 0 if it is 0 everywhere."""
    occurs = below > 0
    ratios = np.divide(above, below, out=np.zeros_like(below), where=occurs)
    mean: Floats = ratios.sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1)
    return mean


def is_answer(example: Example, prediction: str) -> float:
    """1 if the prediction is one of the correct answers, letter by letter; "" never is."""
    return float(prediction != "" and prediction in example.answers)


_CLASSIFICATION: Final = frozenset({TaskKind.CLASSIFICATION})
_CHOSEN: Final = frozenset({TaskKind.CLASSIFICATION, TaskKind.MULTIPLE_CHOICE})

LABEL_METRICS: Final = (
    Metric("accuracy", is_answer, _CHOSEN),
    # BIG-bench's: the target_score of the choice, which is accuracy as soon as scores are 0 or 1.
    Metric("multiple_choice_grade", is_answer, _CHOSEN),
    Metric("balanced_accuracy", is_answer, _CLASSIFICATION, ByLabelCounts(balanced_accuracy)),
    Metric("macro_f1", is_answer, _CLASSIFICATION, ByLabelCounts(macro_f1)),
)
