"""An LLM judge: how probable is it that an answer meets a rubric, by a target's own yes or no."""

from collections.abc import Sequence
from dataclasses import dataclass

from stableprompt.errors import TargetError
from stableprompt.models.targets.interface import TargetLLM
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

    values: list[float]
    """P(yes) against no, the largest over an example's references, 0 to 1."""
    calls: int
    tokens: int


class Judge:
    """Rates generated answers.

    Args:
        target: The LLM that rates.
        rubric: What a good answer is; {reference} and {text} are filled in.
    """

    def __init__(self, target: TargetLLM, rubric: str) -> None:
        self._target = target
        self._rubric = rubric

    def rate(self, examples: Sequence[Example], answers: Sequence[str]) -> Ratings:
        """Rate one answer to each example; an empty one is worth 0 and costs no call."""
        asked = [
            (number, self._question(example, reference, answer))
            for number, (example, answer) in enumerate(zip(examples, answers, strict=True))
            for reference in example.answers
            if answer
        ]
        values = [0.0] * len(examples)
        if not asked:
            return Ratings(values, 0, 0)
        scores = self._target.label_scores(
            [[{"role": "user", "content": question}] for _, question in asked],
            [_WORDS] * len(asked),
        )
        if scores.failed:  # an answer without a rating is worth nobody knows what
            raise TargetError(
                f"the judge {self._target.name!r} failed on {len(scores.failed)} of {len(asked)} "
                f"answers ({next(iter(scores.failed.values()))}); resume the run when it works"
            )
        for (number, _), yes in zip(asked, scores.label_probs[:, 0].tolist(), strict=True):
            values[number] = max(values[number], yes)
        return Ratings(values, len(asked), scores.usage.read + scores.usage.written)

    def _question(self, example: Example, reference: str, answer: str) -> str:
        rubric = fill(self._rubric, {"reference": reference, "text": example.text})
        return fill(_QUESTION, {"text": example.text, "answer": answer, "rubric": rubric})
