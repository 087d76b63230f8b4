"""The budget of target calls: costs worked by hand, and that no run ever spends more."""

import json
from pathlib import Path
from typing import Any

import pytest

from stableprompt import build
from stableprompt.config import METHODS, TuneConfig
from stableprompt.errors import ConfigError
from stableprompt.models.targets.interface import Usage
from stableprompt.scoring.ledger import Ledger, Purpose
from stableprompt.tuning.budget import Budget, require_enough_budget, spent
from stableprompt.tuning.records import Silence, TuneResult
from tests.fakes.word_agent import ScriptedTarget, make_task
from tests.tuning.conftest import Run, tiny_config

TASK = make_task()  # 18 validation examples
WRITERS = [method for method in METHODS if method not in ("few-shot", "seed")]


def ledger_of(**calls: int) -> Ledger:
    ledger = Ledger()
    for purpose, count in calls.items():
        ledger.add_target(Purpose(purpose), Usage(), calls=count)
    return ledger


def test_training_and_validation_count_and_the_test_does_not() -> None:
    ledger = ledger_of(training=10, validation=5, test=1000)
    assert spent(ledger) == 15
    assert Budget(tiny_config(budget=100), 18).left(ledger) == 85


def test_without_a_limit_everything_is_affordable_and_nothing_can_be_left() -> None:
    budget = Budget(tiny_config(), 18)
    assert not budget.limited
    assert budget.affords_step(ledger_of(training=10**9))
    assert budget.affords_decision(ledger_of(training=10**9))
    with pytest.raises(ValueError, match="without a budget"):
        budget.left(Ledger())


# A step of the tiny run scores 6 prompts and the seed prompt on 6 examples: 42 calls; a decision,
# after every second, 2 * 3 prompts on 18: 108 more. The selection reads the seed prompt on 18, and
# three finalists in two looks, 3 * 9 + 2 * 9: 63 in all; with one look 18 + 3 * 18 = 72.
STEP, DECISION, SELECTION = 42, 108, 63


def test_a_step_is_affordable_if_the_selection_is_after_it() -> None:
    budget = Budget(tiny_config(budget=1000), 18)
    assert budget.affords_step(ledger_of(training=1000 - STEP - SELECTION))
    assert not budget.affords_step(ledger_of(training=1001 - STEP - SELECTION))


@pytest.mark.parametrize(
    ("max_examples", "cost"), [(None, DECISION), (18, DECISION), (50, DECISION), (10, 2 * 3 * 10)]
)
def test_so_is_a_decision(max_examples: int | None, cost: int) -> None:
    budget = Budget(tiny_config(budget=1000, anchor={"max_examples": max_examples}), 18)
    assert budget.affords_decision(ledger_of(training=1000 - cost - SELECTION))
    assert not budget.affords_decision(ledger_of(training=1001 - cost - SELECTION))
    assert budget.affords_step(ledger_of(training=1001 - cost - SELECTION))


@pytest.mark.parametrize(
    ("settings", "selection"),
    [
        ({"selection": {"rounds": 1}}, 72),
        # Five sets of demonstrations in two looks: 5 * 9 + 3 * 9 = 72 more.
        ({"selection": {"num_demonstrations": 2, "demonstration_sets": 5}}, 63 + 72),
        ({"selection": {"num_demonstrations": 0, "demonstration_sets": 5}}, 63),
        ({"selection": {"num_finalists": 1}}, 36),
    ],
)
def test_what_is_kept_free_for_the_selection(settings: dict[str, Any], selection: int) -> None:
    budget = Budget(tiny_config(budget=1000, **settings), 18)
    assert budget.affords_step(ledger_of(training=1000 - STEP - selection))
    assert not budget.affords_step(ledger_of(training=1001 - STEP - selection))


def test_replayed_prompts_cost_nothing() -> None:
    budget = Budget(tiny_config(budget=1000, ppo={"replay": 50}), 18)
    assert budget.affords_step(ledger_of(training=1000 - STEP - SELECTION))


@pytest.mark.parametrize(
    ("settings", "enough"),
    [
        ({}, STEP + SELECTION),
        ({"anchor": {"update_period": 1}}, STEP + SELECTION),  # a decision can be left out
        ({"method": "few-shot", "steps": 0}, 36),  # the seed prompt, and one set of demonstrations
        ({"method": "seed", "steps": 0}, 36),
    ],
)
def test_a_budget_that_is_too_small_for_anything_is_refused(
    settings: dict[str, Any], enough: int
) -> None:
    require_enough_budget(TASK, tiny_config(budget=enough, **settings))
    with pytest.raises(ConfigError, match=f"take up to {enough}; raise it") as caught:
        require_enough_budget(TASK, tiny_config(budget=enough - 1, **settings))
    assert str(caught.value).startswith(f"a budget of {enough - 1} target calls is too small")
    require_enough_budget(TASK, tiny_config(**settings))


def test_it_is_refused_before_anything_is_loaded_or_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def load_models(config: TuneConfig, function: Any = None, ranks: Any = None) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(build, "load_models", load_models)
    with pytest.raises(ConfigError, match="too small"):
        build.start_run(TASK, tiny_config(budget=5), tmp_path / "run", Silence())
    assert not (tmp_path / "run").exists()


# --- whole runs, counted by what the target was really asked ---


def asked(target: ScriptedTarget) -> int:
    """Questions but for those about test texts."""
    test = {example.text for example in TASK.test}
    return sum(text not in test for _, text in target.seen)


def num_steps(result: TuneResult) -> int:
    return len((result.run_dir / "steps.jsonl").read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("more", [0, 60, 400], ids=["least", "little", "much"])
@pytest.mark.parametrize("method", WRITERS)
def test_no_run_spends_more_than_its_budget(
    run: Run, target: ScriptedTarget, method: str, more: int
) -> None:
    budget = STEP + 72 + more  # the paper's selection is in one look
    result = run(
        method=method, steps=50, budget=budget, anchor={"update_period": 2}, ppo={"replay": 2}
    )
    assert asked(target) <= budget
    assert spent_by(result) == asked(target)
    assert 1 <= num_steps(result) < 50
    if more:  # and it makes use of what it has: no further step could have been paid for
        assert asked(target) > more


def spent_by(result: TuneResult) -> int:
    calls: dict[str, int] = result.cost["target_calls"]
    return calls["training"] + calls["validation"]


@pytest.mark.parametrize("method", ["few-shot", "seed"])
@pytest.mark.parametrize("budget", [36, 100, 400])
def test_no_method_without_steps_does_either(
    run: Run, target: ScriptedTarget, method: str, budget: int
) -> None:
    result = run(method=method, steps=0, budget=budget)
    assert spent_by(result) == asked(target) <= budget
    if method == "seed":
        assert asked(target) == 18


@pytest.mark.parametrize("budget", [200, 500])
def test_nor_does_a_run_that_tries_demonstrations_at_the_end(
    run: Run, target: ScriptedTarget, budget: int
) -> None:
    few = {"num_demonstrations": 2, "demonstration_sets": 4}
    result = run(steps=50, budget=budget, selection=few)
    assert spent_by(result) == asked(target) <= budget
    assert num_steps(result) >= 1


def test_what_steps_leave_over_pays_for_more_finalists(run: Run, target: ScriptedTarget) -> None:
    few = run("few", method="best-of-n", steps=2)
    many = run("many", method="best-of-n", steps=2, budget=2000)
    assert many.candidates["unique"] == few.candidates["unique"]
    assert few.candidates["compared_on_validation"] == 3  # seed prompt, and two of three finalists
    assert many.candidates["compared_on_validation"] > 3


def test_a_budget_that_is_never_reached_changes_no_step(run: Run) -> None:
    def steps(name: str, **settings: Any) -> list[dict[str, Any]]:
        folder = run(name, **settings).run_dir
        lines = (folder / "steps.jsonl").read_text(encoding="utf-8").splitlines()
        return [{**json.loads(line), "seconds": None} for line in lines]

    assert steps("free") == steps("limited", budget=10_000)


def read_steps(result: TuneResult) -> list[dict[str, Any]]:
    text = (result.run_dir / "steps.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_a_decision_that_cannot_be_paid_for_is_skipped_and_the_steps_go_on(run: Run) -> None:
    # Enough for four steps that ask everything anew, and the selection: after the second step at
    # most 2 * 42 less, which is no decision but a step.
    skipped = run("skipped", budget=4 * STEP + SELECTION)
    steps = read_steps(skipped)
    assert [step["anchor"] for step in steps] == [None] * 4
    assert skipped.anchor_decisions == {}
    paid = run("paid", budget=4 * STEP + 2 * DECISION + SELECTION)
    assert [step["anchor"] is not None for step in read_steps(paid)] == [False, True, False, True]
    assert sum(paid.anchor_decisions.values()) == 2
