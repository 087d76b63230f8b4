"""From messages to one score: by kind, by metric, with every call counted."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from stableprompt.config import RewardConfig, TargetConfig
from stableprompt.errors import ModelError
from stableprompt.models.targets.interface import Answers, LabelScores
from stableprompt.scoring.judge import Judge
from stableprompt.scoring.ledger import Ledger, Purpose
from stableprompt.scoring.scorer import PromptScore, Scorer
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import TargetTemplate


class Scripted:
    """Gives the probabilities, or the answers, that it was made with; remembers what it read."""

    name = "scripted"

    def __init__(self, rows: Sequence[Sequence[float]] = (), answers: Sequence[str] = ()) -> None:
        self.rows, self.answers = rows, answers
        self.read: list[list[dict[str, str]]] = []
        self.words: list[tuple[str, ...]] = []
        self.max_tokens = 0

    def label_scores(
        self, conversations: Sequence[Sequence[dict[str, str]]], words: Sequence[Sequence[str]]
    ) -> LabelScores:
        self.read += [list(c) for c in conversations]
        self.words += [tuple(given) for given in words]
        return LabelScores(torch.tensor(self.rows), num_tokens=7)

    def generate(
        self, conversations: Sequence[Sequence[dict[str, str]]], max_tokens: int
    ) -> Answers:
        self.read += [list(c) for c in conversations]
        self.max_tokens = max_tokens
        texts = self.answers or [c[-1]["content"] for c in conversations]  # an echo
        return Answers(tuple(texts), num_tokens=9)

    def num_tokens(self, text: str) -> int:
        return len(text.split())

    def markup(self) -> list[str]:
        return []

    def fits(self, conversation: Sequence[dict[str, str]], room: int) -> bool:
        return True


def make_scorer(task: Task, target: Any, **options: Any) -> Scorer:
    answers = TargetConfig(**{"max_answer_tokens": 5, **options.pop("answers", {})})
    return Scorer(
        target,
        options.pop("template", TargetTemplate("system", input_format="{text}")),
        task,
        Ledger(),
        answers=answers,
        reward=RewardConfig(accuracy_weight=2.0, softmax_weight=0.5),
        **options,
    )


SPLITS = ("train", "validation", "test")


def make_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows in each split, told apart by a number."""
    return [
        {**row, "text": f"{row['text']} {split}", "split": split}
        for split in SPLITS
        for row in rows
    ]


def classification(**options: Any) -> Task:
    rows = make_rows(
        [{"text": text, "label": label} for text, label in zip("abcd", "xxyy", strict=True)]
    )
    return Task.from_records(rows, label_words={"x": "no", "y": "yes"}, **options)


def multiple_choice(**options: Any) -> Task:
    rows = make_rows(
        [
            {"text": "q1", "choices": ["red", "blue"], "label": 1},
            {"text": "q2", "choices": ["one", "two", "three"], "label": [0, 2]},
        ]
    )
    return Task.from_records(rows, **options)


def generation(**options: Any) -> Task:
    rows = make_rows([{"text": "6 + 1", "label": ["seven", "7"]}, {"text": "2", "label": ["two"]}])
    return Task.from_records(rows, kind="generation", **options)


PROBS = [[0.75, 0.25], [0.25, 0.75], [0.5, 0.5], [0.0, 1.0]]


def test_classification_by_hand() -> None:
    task, target = classification(), Scripted(PROBS)
    scorer = make_scorer(task, target)
    score = scorer.score("Sort.", task.test, Purpose.TEST)
    # Right, wrong, a tie, right; differences 0.5, -0.5, 0 and 1 have the mean 0.25.
    assert score == PromptScore(
        score=0.5,
        softmax_difference=0.25,
        reward=2.0 * 0.5 + 0.5 * 0.25,
        values=(1.0, 0.0, 0.0, 1.0),
        predictions=("x", "y", "", "y"),
    )
    assert target.words == [("no", "yes")] * 4
    assert target.read[0] == [
        {"role": "system", "content": "Sort."},
        {"role": "user", "content": "a test"},
    ]
    assert scorer.ledger.target_calls == {"training": 0, "validation": 0, "test": 4}
    assert scorer.ledger.target_tokens["test"] == 7


def test_a_metric_of_all_predictions_together() -> None:
    task = classification(metric="balanced_accuracy")
    score = make_scorer(task, Scripted(PROBS[:3])).score("Sort.", task.test[:3], Purpose.TRAINING)
    # Recall of x is 1 of 2, of y 0 of 1.
    assert score.score == 0.25
    assert score.values == (1.0, 0.0, 0.0)


def test_multiple_choice_asks_for_letters_and_any_right_choice_counts() -> None:
    task = multiple_choice()
    target = Scripted([[0.75, 0.25, 0.0], [0.25, 0.125, 0.625]])
    score = make_scorer(task, target).score("Answer.", task.test, Purpose.TEST)
    assert target.words == [("A", "B"), ("A", "B", "C")]
    assert target.read[1][1]["content"] == "q2 test\nA. one\nB. two\nC. three"
    assert score.predictions == ("A", "C")
    assert score.values == (0.0, 1.0)
    # 0.25 - 0.75 and max(0.25, 0.625) - 0.125
    assert score.softmax_difference == pytest.approx((-0.5 + 0.5) / 2, abs=1e-7)


def test_or_for_the_choices_themselves() -> None:
    task = multiple_choice(choice_style="text")
    target = Scripted([[0.25, 0.75, 0.0], [0.0, 1.0, 0.0]])
    score = make_scorer(task, target).score("Answer.", task.test, Purpose.TEST)
    assert target.words == [("red", "blue"), ("one", "two", "three")]
    assert score.predictions == ("blue", "two")
    assert score.values == (1.0, 0.0)


def test_generation_by_hand() -> None:
    task, target = generation(), Scripted(answers=["The 7.", "three"])
    scorer = make_scorer(task, target)
    score = scorer.score("Add.", task.test, Purpose.VALIDATION)
    assert score == PromptScore(0.5, None, 2.0 * 0.5, (1.0, 0.0), ("The 7.", "three"))
    assert target.max_tokens == 5
    assert scorer.ledger.target_calls["validation"] == 2
    assert scorer.ledger.target_tokens["validation"] == 9


def test_the_part_of_a_generated_answer_that_counts() -> None:
    task, target = generation(), Scripted(answers=["Hm.\nSo: seven\nyes", "two"])
    scorer = make_scorer(task, target, answers={"answer_after": "So:", "answer_lines": "first"})
    assert scorer.score("Add.", task.test, Purpose.TEST).predictions == ("seven", "")


def test_a_custom_metric() -> None:
    def half(example: Any, prediction: str) -> float:
        return 0.5 if prediction == example.label else 0.0

    task = generation(metric=half)
    score = make_scorer(task, Scripted(answers=["seven", "2"])).score("A.", task.test, Purpose.TEST)
    assert score.values == (0.5, 0.0)
    assert score.score == 0.25


@pytest.mark.parametrize("prompt", ["Input: 6 + 1 Output: seven", "Output: two", "seven two 7"])
def test_a_prompt_that_holds_the_answer_scores_nothing_by_itself(prompt: str) -> None:
    task = generation()

    class Silent(Scripted):
        """Answers nothing, whatever it reads."""

        def generate(
            self, conversations: Sequence[Sequence[dict[str, str]]], max_tokens: int
        ) -> Answers:
            return Answers(("",) * len(conversations), num_tokens=0)

    assert make_scorer(task, Silent()).score(prompt, task.test, Purpose.TEST).score == 0.0


def test_a_judge_gives_the_values_and_its_calls_are_counted() -> None:
    task = generation(metric="judge")
    rater = Scripted([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]])  # two references, then one
    scorer = make_scorer(task, Scripted(answers=["7", "2"]), judge=Judge(rater, "{reference}"))
    score = scorer.score("Add.", task.test, Purpose.TEST)
    assert score.values == (0.75, 0.25)
    assert score.score == 0.5
    assert (scorer.ledger.judge_calls, scorer.ledger.judge_tokens) == (3, 7)


def test_probabilities_that_are_no_numbers_stop_the_run() -> None:
    task = classification()
    target = Scripted([[float("nan"), 0.0]] * 4)
    with pytest.raises(ModelError, match="'scripted' gave probabilities that are not finite"):
        make_scorer(task, target).score("Sort.", task.test, Purpose.TEST)
