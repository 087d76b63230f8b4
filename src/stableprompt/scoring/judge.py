"""An LLM judge: how probable is it that an answer meets a rubric, by a target's own yes or no."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stableprompt.errors import TargetError
from stableprompt.models.targets.interface import TargetLLM, Usage
from stableprompt.scoring.memo import PairMemo
from stableprompt.tasks.example import Example
from stableprompt.tasks.placeholders import fill

_QUESTION = """\
Input:
{text}

Answer to rate:
{answer}

Requirement: {rubric}

Does the answer meet the requirement? Reply with yes or no."""

_WORDS = ("yes", "no")
DEFAULT_RUBRIC = "The answer says the same as this reference: {reference}"


@dataclass(frozen=True, slots=True)
class Ratings:
    """What a judge made of N answers, and what it cost."""

    values: list[float | None]
    """P(yes) against no, the largest over an example's references, 0 to 1; None where it was not to
    be asked and is not known."""
    calls: int
    usage: Usage


class Judge:
    """Rates generated answers.

    Args:
        target: The LLM that rates.
        rubric: What a good answer is; {reference} and {text} are filled in.

    Attributes:
        target: Who rates.
    """

    def __init__(self, target: TargetLLM, rubric: str) -> None:
        self.target = target
        self._rubric = rubric

    def rate(
        self,
        examples: Sequence[Example],
        answers: Sequence[str],
        memo: PairMemo | None = None,
        *,
        ask: bool = True,
    ) -> Ratings:
        """Rate one answer to each example; an empty one is worth 0 and costs no call.

        Args:
            examples: What was asked.
            answers: What was answered.
            memo: Ratings that are known already cost no call either.
            ask: Whether those that are not known are asked for.

        Raises:
            TargetError: it fails for good on one of them.
        """
        asked = [
            (number, self._question(example, reference, answer))
            for number, (example, answer) in enumerate(zip(examples, answers, strict=True))
            for reference in example.answers
            if answer
        ]
        calls, usage = 0, Usage(0, 0)

        def send(numbers: list[int]) -> Iterator[tuple[int, float]]:
            nonlocal calls, usage
            if not ask:
                return iter(())
            scores = self.target.label_scores(
                [[{"role": "user", "content": asked[n][1]}] for n in numbers],
                [_WORDS] * len(numbers),
            )
            if scores.failed:  # an answer without a rating is worth nobody knows what
                raise TargetError(
                    f"the judge {self.target.name!r} failed on {len(scores.failed)} of "
                    f"{len(numbers)} answers ({next(iter(scores.failed.values()))}); resume the "
                    "run when it works"
                )
            calls, usage = len(numbers), scores.usage
            return zip(numbers, scores.label_probs[:, 0].tolist(), strict=True)

        ratings = (memo or PairMemo()).ask([{"judge": question} for _, question in asked], send)
        found: list[list[float | None]] = [[] for _ in examples]
        for (number, _), yes in zip(asked, ratings, strict=True):
            found[number].append(yes)
        return Ratings([_highest(own) for own in found], calls, usage)

    def _question(self, example: Example, reference: str, answer: str) -> str:
        rubric = fill(self._rubric, {"reference": reference, "text": example.text})
        return fill(_QUESTION, {"text": example.text, "answer": answer, "rubric": rubric})


def _highest(ratings: Sequence[float | None]) -> float | None:
    known = [rating for rating in ratings if rating is not None]
    return max(known, default=0.0) if len(known) == len(ratings) else None
