"""What the target made of a prompt, example by example."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class PromptScore:
    """What the target made of one prompt on given examples, those without an answer left out."""

    score: float
    """By the task's metric, 0-1."""
    softmax_difference: float | None
    """Mean over the examples, in [-1, 1]; None where the target gives no probabilities, or answers
    are generated."""
    reward: float
    """The two, weighted (eq. 13)."""
    values: tuple[float, ...]
    """What each example is worth, 0-1; for right or wrong 1 or 0."""
    rewards: tuple[float, ...]
    """What each example earns: its value and its softmax difference, weighted as in the reward."""
    predictions: tuple[str, ...]
    """Label, choice or generated answer of each example; "" for a tie, no answer, or one that names
    no label."""
    left_out: tuple[int, ...] = ()
    """Which of the examples that were asked, by number, have no answer: calls failed for good, or a
    limit was reached. They are in none of the above."""

    def answered(self, asked: Sequence[_T]) -> list[_T]:
        """Of what was asked, in its order, what the figures are about."""
        return [one for number, one in enumerate(asked) if number not in self.left_out]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Answers to some examples and what they are worth."""

    predictions: tuple[str, ...]
    values: tuple[float, ...]

    def only(self, rows: Sequence[int]) -> "Outcomes":
        """Some of them, in this order."""
        return Outcomes(
            tuple(self.predictions[row] for row in rows), tuple(self.values[row] for row in rows)
        )


def in_common(
    scores: Sequence[PromptScore], asked: Sequence[_T]
) -> tuple[list[_T], list[Outcomes]]:
    """What all of these prompts were answered on, and their outcomes there: for paired figures.

    Args:
        scores: Of prompts that were asked about the same examples.
        asked: These examples.
    """
    missing = {number for score in scores for number in score.left_out}
    kept = [number for number in range(len(asked)) if number not in missing]
    found = []
    for score in scores:
        place = {number: at for at, number in enumerate(score.answered(range(len(asked))))}
        found.append(
            Outcomes(
                tuple(score.predictions[place[number]] for number in kept),
                tuple(score.values[place[number]] for number in kept),
            )
        )
    return [asked[number] for number in kept], found
