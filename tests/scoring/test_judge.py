"""The judge asks a target for yes or no, and what it says is the value."""

from collections.abc import Sequence

import pytest
import torch

from stableprompt.models.targets.interface import Answers, LabelScores, Usage
from stableprompt.scoring.judge import Judge
from stableprompt.tasks.example import Example
from tests.fakes.target_stub import TargetStub


class Rater(TargetStub):
    """Says yes with 0.75 where the reference stands in the answer, else with 0.25."""

    name = "rater"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def label_scores(
        self, conversations: Sequence[Sequence[dict[str, str]]], words: Sequence[Sequence[str]]
    ) -> LabelScores:
        assert {tuple(given) for given in words} == {("yes", "no")}
        rows = []
        for [message] in conversations:
            self.asked.append(message["content"])
            answer = message["content"].partition("rate:\n")[2].partition("\n")[0]
            reference = message["content"].partition("Says ")[2].partition("!")[0]
            rows.append([0.75, 0.25] if reference in answer else [0.25, 0.75])
        return LabelScores(torch.tensor(rows), Usage(read=10 * len(rows)))

    def generate(self, conversations: Sequence[object], max_tokens: int) -> Answers:
        raise AssertionError("a judge reads probabilities")

    def num_tokens(self, text: str) -> int:
        return 1

    def markup(self) -> list[str]:
        return []

    def fits(self, conversation: object, room: int) -> bool:
        return True


EXAMPLES = [Example("q1 {answer}", "six", ("6", "VI")), Example("q2", "blue"), Example("q3", "red")]


def test_the_value_is_the_probability_of_yes_for_the_best_reference() -> None:
    rater = Rater()
    ratings = Judge(rater, "Says {reference}! ({text})").rate(EXAMPLES, ["it is 6", "no", ""])
    # "6" of three references is in the answer; "blue" is not; an empty answer is not asked about.
    assert ratings.values == [0.75, 0.25, 0.0]
    assert (ratings.calls, ratings.usage) == (4, Usage(40))
    assert len(rater.asked) == 4


def test_what_the_judge_reads() -> None:
    rater = Rater()
    Judge(rater, "Says {reference}! ({text})").rate(EXAMPLES[:1], ["{rubric} {text}"])
    assert rater.asked[0] == (
        "Input:\nq1 {answer}\n\n"
        "Answer to rate:\n{rubric} {text}\n\n"
        "Requirement: Says six! (q1 {answer})\n\n"
        "Does the answer meet the requirement? Reply with yes or no."
    )


@pytest.mark.parametrize("answers", [["", ""], []])
def test_without_an_answer_nothing_is_asked(answers: list[str]) -> None:
    rater = Rater()
    ratings = Judge(rater, "x").rate(EXAMPLES[: len(answers)], answers)
    assert ratings.values == [0.0] * len(answers)
    assert (ratings.calls, ratings.usage, rater.asked) == (0, Usage(), [])
