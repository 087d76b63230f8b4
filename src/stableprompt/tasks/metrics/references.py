"""From one reference to several, and the comparisons that more than one metric needs."""

from collections import Counter
from collections.abc import Callable, Sequence

from stableprompt.tasks.example import Example
from stableprompt.tasks.metrics.metric import ValueFunction

Comparison = Callable[[str, str], float]
"""What a prediction (second) is worth against one reference (first), 0 to 1."""


def best_of_answers(compare: Comparison) -> ValueFunction:
    """The value against the reference that suits the prediction best."""

    def value(example: Example, prediction: str) -> float:
        return float(max(compare(answer, prediction) for answer in example.answers))

    return value


def tokens_f1(reference: Sequence[str], prediction: Sequence[str]) -> float:
    """Harmonic mean of precision and recall over tokens: 2·common / (both lengths).

    Two empty sequences are equal: 1.
    """
    if not reference and not prediction:
        return 1.0
    common = sum((Counter(reference) & Counter(prediction)).values())
    return 2 * common / (len(reference) + len(prediction))
