"""Calls that failed for good: which prompt or example is left out for it, and what is asked."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from stableprompt.config import RewardConfig, TargetConfig
from stableprompt.errors import TargetError
from stableprompt.llm_config import LimitsConfig
from stableprompt.models.targets.interface import Answers, LabelScores, Usage
from stableprompt.scoring.ledger import Ledger, Purpose
from stableprompt.scoring.limits import Limits
from stableprompt.scoring.scorer import Scorer
from stableprompt.tasks.example import Example
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import TargetTemplate
from tests.fakes.target_stub import TargetStub

ROWS = [{"text": f"text {n}", "label": ("red", "green")[n % 2]} for n in range(40)]
LABELLED = Task.from_records(ROWS, name="t", seed_prompt="seed")
WRITTEN = Task.from_records(ROWS, name="t", seed_prompt="seed", kind="generation")


class Refusing(TargetStub):
    """Says red to all but to pairs of prompt and text that it fails to answer."""

    def __init__(self, failing: set[tuple[str, str]], at_once: int | None = None) -> None:
        self.failing, self.at_once = failing, at_once
        self.asked: list[tuple[str, str]] = []

    def _failed(self, conversations: Sequence[Any]) -> dict[int, str]:
        pairs = [(system["content"], user["content"]) for system, user in conversations]
        self.asked += pairs
        return {n: "400" for n, pair in enumerate(pairs) if pair in self.failing}

    def label_scores(self, conversations: Sequence[Any], words: Sequence[Any]) -> LabelScores:
        failed = self._failed(conversations)
        rows = [
            [0.0 if n in failed else float(w == "red") for w in own] for n, own in enumerate(words)
        ]
        return LabelScores(torch.tensor(rows), Usage(read=1), failed)

    def generate(self, conversations: Sequence[Any], max_tokens: int) -> Answers:
        failed = self._failed(conversations)
        texts = tuple("" if n in failed else "red" for n in range(len(conversations)))
        return Answers(texts, Usage(read=1), failed)


def scorer_of(target: Refusing, task: Task) -> Scorer:
    return Scorer(
        target,
        TargetTemplate("system", input_format="{text}"),
        task,
        Ledger(),
        answers=TargetConfig(max_answer_tokens=5),
        reward=RewardConfig(softmax_weight=0.0),
    )


@pytest.fixture(params=[LABELLED, WRITTEN], ids=["labels", "free answers"])
def task(request: pytest.FixtureRequest) -> Task:
    assert isinstance(request.param, Task)
    return request.param


def some(task: Task, count: int = 6) -> list[Example]:
    return list(task.train[:count])


def reds(examples: Sequence[Example]) -> float:
    return sum("red" in e.answers for e in examples) / len(examples)


def test_an_example_that_one_prompt_is_not_answered_on_is_left_out_for_all(task: Task) -> None:
    examples = some(task)
    target = Refusing({("b", examples[2].text)})
    scores = scorer_of(target, task).score_all(["a", "b", "c"], examples, Purpose.TRAINING)
    kept = [e for e in examples if e != examples[2]]
    assert [score.left_out for score in scores] == [(2,)] * 3
    assert {score.score for score in scores} == {reds(kept)}
    assert {len(score.values) for score in scores} == {5}


def test_a_prompt_that_is_answered_on_less_than_half_is_left_out_alone(task: Task) -> None:
    examples = some(task)
    failing = {("b", e.text) for e in examples[:4]} | {("c", e.text) for e in examples[4:5]}
    scorer = scorer_of(Refusing(failing), task)
    found = scorer.score_each([(p, examples) for p in "abc"], Purpose.TRAINING)
    assert found[1] is None
    # What b has no answer to is answered with the others; c takes its own with it.
    assert [score.left_out for score in found if score is not None] == [(4,), (4,)]
    assert scorer.ledger.failed["training"] == 5
    assert scorer.ledger.target_calls["training"] == 13
    with pytest.raises(TargetError, match="answered a prompt on"):
        scorer.score_all(["a", "b"], examples, Purpose.TRAINING)


def test_half_is_enough(task: Task) -> None:
    examples = some(task)
    failing = {("b", e.text) for e in examples[:3]}
    found = scorer_of(Refusing(failing), task).score_all(["a", "b"], examples, Purpose.TRAINING)
    assert [score.left_out for score in found] == [(0, 1, 2)] * 2


def test_of_prompts_for_one_example_each_only_the_refused_one_is_left_out(task: Task) -> None:
    one, other = some(task, 2)
    target = Refusing({("b", one.text)})
    asked = [("a", [one]), ("b", [one]), ("c", [other])]
    found = scorer_of(target, task).score_each(asked, Purpose.TRAINING)
    assert [score is None for score in found] == [False, True, False]


def test_what_failed_is_not_sent_again_in_the_same_plan(task: Task) -> None:
    examples = some(task)
    bad = examples[0].text
    target = Refusing({(prompt, bad) for prompt in "abcdef"}, at_once=8)
    scorer = scorer_of(target, task)
    scores = scorer.score_all(list("abcdef"), examples, Purpose.TRAINING)
    # Eight at once: a on all six, b on two; the others are spared the first example.
    assert [prompt for prompt, text in target.asked if text == bad] == ["a", "b"]
    assert [score.left_out for score in scores] == [(0,)] * 6
    assert scorer.ledger.failed["training"] == 2
    assert scorer.ledger.target_calls["training"] == 6 * 5
    # In the next one it is: it may work then.
    target.failing.clear()
    [again] = scorer.score_all(["a"], examples, Purpose.TRAINING)
    assert again.left_out == ()
    assert target.asked.count(("a", bad)) == 2


def test_a_refused_prompt_spares_no_example_to_the_others(task: Task) -> None:
    examples = some(task)
    target = Refusing({("a", e.text) for e in examples}, at_once=8)
    found = scorer_of(target, task).score_each([(p, examples) for p in "ab"], Purpose.TRAINING)
    assert found[0] is None
    assert found[1] is not None
    assert found[1].left_out == ()


def test_what_of_test_was_read_needs_no_room_any_more() -> None:
    limits = Limits(LimitsConfig(max_target_calls=100), kept=30)
    ledger = Ledger()
    ledger.add_target(Purpose.TEST, Usage(), calls=20)
    assert limits.room(ledger, Purpose.VALIDATION) == 100 - 20 - 10
    ledger.add_target(Purpose.TEST, Usage(), calls=20)
    assert limits.room(ledger, Purpose.VALIDATION) == 60
