"""The budget is a hard limit, a pair is paid for once, the best prompt is remembered."""

from dataclasses import replace
from typing import Any

import pytest

from stableprompt.errors import ConfigError, ModelError
from stableprompt.scoring.ledger import Purpose
from stableprompt.studies.peers.problem import (
    BudgetSpent,
    Failure,
    Standstill,
    require,
    within_budget,
)
from stableprompt.studies.peers.registry import PEERS
from stableprompt.tasks.task import Task
from tests.fakes.word_agent import make_task
from tests.studies.peers.scripted import Scene

# The scripted target is right (p > 0.5) from 3 liked words of 7 on: 0.2 + 0.7 * 3 / 7 = 0.5.
GOOD = "please kindly sort"
BAD = "sort one text"


def test_each_new_pair_costs_one_call() -> None:
    scene = Scene(budget=20)
    scene.problem.score(BAD, scene.task.train[:5])
    assert scene.problem.calls_left == 15
    assert len(scene.target.read) == scene.ledger.total_calls == 5


def test_a_pair_that_was_asked_before_costs_nothing() -> None:
    scene = Scene(budget=20)
    first = scene.problem.score(BAD, scene.task.train[:5])
    again = scene.problem.score(BAD, scene.task.train[2:7])
    assert scene.problem.calls_left == 20 - 7
    assert len(scene.target.read) == 7
    assert again.values[:3] == first.values[2:]


def test_a_pair_that_stands_twice_in_a_request_is_paid_for_once() -> None:
    scene = Scene(budget=20)
    scored = scene.problem.score(BAD, [scene.task.train[0]] * 3)
    assert len(scored.values) == 3
    assert scene.problem.calls_left == 19


def test_the_last_call_is_made_and_the_next_refused() -> None:
    scene = Scene(budget=5)
    scene.problem.score(BAD, scene.task.train[:5])
    with pytest.raises(BudgetSpent):
        scene.problem.score(BAD, scene.task.train[5:6])
    assert scene.ledger.total_calls == 5


def test_a_request_beyond_the_budget_is_refused_whole() -> None:
    scene = Scene(budget=5)
    with pytest.raises(BudgetSpent):
        scene.problem.score(BAD, scene.task.train[:6])
    assert (scene.problem.calls_left, scene.target.read) == (5, [])
    scene.problem.score(BAD, scene.task.train[:5])  # what fits is still answered


def test_what_was_asked_is_answered_after_the_budget_is_spent() -> None:
    scene = Scene(budget=5)
    first = scene.problem.score(BAD, scene.task.train[:5])
    assert scene.problem.score(BAD, scene.task.train[:5]) == first


def test_packages_that_catch_every_exception_do_not_catch_the_end() -> None:
    scene = Scene(budget=1)
    with within_budget():
        for _ in range(10):
            try:
                scene.problem.score(BAD, scene.task.train)
            except Exception:  # as promptolution and dspy do
                continue
        raise AssertionError("the loop went on")


def test_the_seed_prompt_is_best_until_a_better_one_has_seen_the_whole_validation_split() -> None:
    scene = Scene()
    problem, validation = scene.problem, scene.task.validation
    assert (problem.best, problem.best_score) == (scene.task.seed_prompt, None)
    problem.score(GOOD, validation[1:])
    problem.score(GOOD, scene.task.train)
    assert (problem.best, problem.best_score) == (scene.task.seed_prompt, None)
    problem.score(BAD, validation)
    assert (problem.best, problem.best_score) == (BAD, 0.0)
    problem.score(GOOD, validation[::-1])
    assert (problem.best, problem.best_score) == (GOOD, 1.0)


def test_of_equal_prompts_the_first_stays_best() -> None:
    scene = Scene()
    scene.problem.score(GOOD, scene.task.validation)
    scene.problem.score("please kindly", scene.task.validation)
    assert scene.problem.best == GOOD


def test_calls_are_entered_by_split() -> None:
    scene = Scene()
    scene.problem.score(GOOD, scene.task.train[:3])
    scene.problem.score(GOOD, scene.task.validation[:4])
    assert scene.ledger.target_calls[Purpose.TRAINING] == 3
    assert scene.ledger.target_calls[Purpose.VALIDATION] == 4


def test_predictions_are_in_label_words() -> None:
    labels = ("RED", "GREEN")
    rows = [{"text": f"{'rg'[i % 2]} thing {i}", "label": labels[i % 2]} for i in range(60)]
    task = Task.from_records(
        rows, name="colours", seed_prompt=BAD, label_words={"RED": "r", "GREEN": "g"}
    )
    scene = Scene(task=task)
    scored = scene.problem.score(GOOD, task.validation)
    assert scored.predictions == tuple(task.shown_answer(example) for example in task.validation)
    assert set(scored.predictions) == {"r", "g"}


def test_examples_that_spell_a_placeholder_are_no_demonstrations() -> None:
    task = make_task()
    first = replace(task.train[0], text="red {text}")
    task = replace(task, splits=replace(task.splits, train=(first, *task.train[1:])))
    assert Scene(task=task).problem.demonstrable == task.train[1:]


def test_an_error_of_the_agent_comes_through_a_package_that_swallows_errors() -> None:
    def write(message: str) -> str:
        raise ModelError("out of memory")

    scene = Scene(write=write)
    with pytest.raises(ModelError, match="out of memory"), within_budget():
        try:
            scene.problem.write("hello")
        except Exception:
            raise AssertionError("swallowed") from None


def test_an_error_of_the_target_comes_through_as_well() -> None:
    scene = Scene()

    def fail(*_: Any) -> Any:
        raise ModelError("not finite")

    target: Any = scene.target
    target.label_scores = fail
    with pytest.raises(Failure):
        scene.problem.score(GOOD, scene.task.train)
    with pytest.raises(ModelError, match="not finite"), within_budget():
        scene.problem.score(BAD, scene.task.train)


def test_a_search_stands_still_after_so_many_rounds_without_a_call() -> None:
    scene = Scene()
    is_over = Standstill(scene.problem, rounds=3)
    assert [is_over(), is_over()] == [False, False]
    scene.problem.score(BAD, scene.task.train[:1])
    assert [is_over() for _ in range(4)] == [False, False, False, True]


def test_a_search_is_over_when_no_call_is_left() -> None:
    scene = Scene(budget=1)
    is_over = Standstill(scene.problem, rounds=3)
    scene.problem.score(BAD, scene.task.train[:1])
    assert is_over()


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 target call, found 0"):
        Scene(budget=0)


def test_a_package_that_is_absent_is_named_with_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"'no_such_peer'.*pip install 'stableprompt\[peers\]'"):
        require("no_such_peer")


def test_the_names_of_the_peers() -> None:
    assert list(PEERS) == ["gepa", "miprov2", "capo"]
