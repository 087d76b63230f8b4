"""What a prompt must beat: the score of one answer to every example, or of the input itself."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from stableprompt.tasks.example import Example
from stableprompt.tasks.metrics.metric import Metric

MOST_REFERENCES: Final = 20
MOST_CHOICES: Final = 100
MOST_TRIED: Final = 200
"""With more examples, all constants are tried on so many, and the best few on all."""
NUM_BEST: Final = 3


def trivial_score(
    metric: Metric,
    examples: Sequence[Example],
    labels: Sequence[str] = (),
    known: Sequence[Example] | None = None,
) -> float:
    """The score of the best trivial answer.

    Tried are the labels if there are any; else the choices, at most the 100 that are right most
    often (enough for accuracy, whose best constant is the first of them); else the 20 most
    frequent references, all of these in one answer, and repeating the input (``echo_score``).
    Ties go by first appearance.

    Args:
        metric: What the answers are scored by.
        examples: The examples that are answered.
        labels: The labels of a classification task.
        known: Where the references are taken from; the examples themselves by default, which of
            few examples with references of their own makes the best answer look better than it is.

    Raises:
        ValueError: there are no examples.
    """
    if not examples:
        raise ValueError("a score on 0 examples is undefined: give at least one")
    constants, echo = list(labels) or _choices(examples), 0.0
    if not constants:
        constants = _best_references(metric, examples, known or examples)
        echo = echo_score(metric, examples)
    return max(echo, *(metric.score(examples, [one] * len(examples)) for one in constants))


def echo_score(metric: Metric, examples: Sequence[Example], most: int = MOST_TRIED) -> float:
    """What a target scores that repeats its input, or always the same field of it.

    Args:
        metric: What the answers are scored by.
        examples: At least one.
        most: Only so many are tried: inputs can be long, and metrics of text slow.
    """
    few = examples[:most]
    shared = [name for name in few[0].fields if all(name in e.fields for e in few)]
    given = [[e.text for e in few], *([e.fields[name] for e in few] for name in shared)]
    return max(metric.score(few, answers) for answers in given)


def _choices(examples: Sequence[Example]) -> list[str]:
    times_right = Counter({choice: 0 for example in examples for choice in example.choices})
    times_right.update(
        answer for example in examples if example.choices for answer in set(example.answers)
    )
    return [choice for choice, _ in times_right.most_common(MOST_CHOICES)]


def _best_references(
    metric: Metric, examples: Sequence[Example], known: Sequence[Example]
) -> list[str]:
    """Metrics of text can be slow: only the best few are tried on very many examples."""
    constants = _references(known)
    if len(examples) <= MOST_TRIED:
        return constants
    few = examples[:MOST_TRIED]
    constants.sort(key=lambda constant: -metric.score(few, [constant] * len(few)))
    return constants[:NUM_BEST]


def _references(examples: Sequence[Example]) -> list[str]:
    counts = Counter(answer for example in examples for answer in dict.fromkeys(example.answers))
    frequent = [reference for reference, _ in counts.most_common(MOST_REFERENCES)]
    # All of them in one answer: some metrics only ask whether a reference is in it.
    return [*frequent, " ".join(frequent)]
