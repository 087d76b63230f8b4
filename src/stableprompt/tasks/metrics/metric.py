"""What a metric is: a value for each example, and one score for all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stableprompt.tasks.example import Example, TaskKind

ValueFunction = Callable[[Example, str], float]
"""What one prediction is worth for its example, 0 to 1."""
ScoreFunction = Callable[[Sequence[Example], Sequence[str]], float]
"""One score of all predictions together, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One way to score a prompt.

    Attributes:
        name: As in settings and results.
        value: What one prediction is worth. Predictions are labels of a classification task
            (not their words), choices of a multiple-choice task, or generated text; "" where the
            target gave no answer or a tie.
        kinds: The kinds of task that it can score.
        together: For a metric that is no mean over examples (macro F1, say): the score of all
            predictions together. None: the score is the mean of the values.
    """

    name: str
    value: ValueFunction
    kinds: frozenset[TaskKind]
    together: ScoreFunction | None = None

    def score(
        self,
        examples: Sequence[Example],
        predictions: Sequence[str],
        values: Sequence[float] | None = None,
    ) -> float:
        """The score of the predictions, 0 to 1; values are what they are worth, if known."""
        if self.together is not None:
            return self.together(examples, predictions)
        if values is None:
            values = [self.value(e, p) for e, p in zip(examples, predictions, strict=True)]
        return sum(values) / len(values)
