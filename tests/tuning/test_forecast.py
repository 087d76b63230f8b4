"""A run on paper: bounds that no real run exceeds, and expectations worked by hand."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from stableprompt.config import METHODS, TuneConfig
from stableprompt.errors import ConfigError
from stableprompt.models.targets.interface import Usage
from stableprompt.tasks.task import Task
from stableprompt.tuning.budget import require_enough_budget
from stableprompt.tuning.collect import draw_examples
from stableprompt.tuning.forecast import Most, Pair, PaperRun, Pattern, Phase, most_calls
from stableprompt.tuning.records import TuneResult
from tests.fakes.word_agent import make_task
from tests.tuning.conftest import Run, tiny_config

TASK = make_task()  # 24 training examples, 18 of validation, 18 of test
STEPLESS = ("few-shot", "seed")
ON = {"max_surprise": 1.5, "require_instruction": True}
FREE: dict[str, Any] = {}
VARIANTS: dict[str, dict[str, Any]] = {
    "free": FREE,
    "budget": {"budget": 300},
    "calls": {"limits": {"max_target_calls": 400}},
    "few calls": {"limits": {"max_target_calls": 100}},
    "both": {"budget": 150, "limits": {"max_target_calls": 260}},
    "demonstrations": {"selection": {"num_demonstrations": 2, "demonstration_sets": 6}},
    "everything": {"selection": {"paper_protocol": True, "learning_curve": True, "rounds": 1}},
    "little to draw from": {"reward": {"examples_per_step": 12}, "anchor": {"update_period": 1}},
    "per input": {"per_input": {"mode": "auto", "prompts": 3}},
    "per input on a budget": {"per_input": {"mode": "auto", "prompts": 3}, "budget": 200},
}


def settings_of(method: str, variant: str) -> dict[str, Any]:
    steps = 0 if method in STEPLESS else 4
    return {"method": method, "steps": steps, **VARIANTS[variant]}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("method", METHODS)
def test_no_run_makes_more_calls_than_the_bound(run: Run, method: str, variant: str) -> None:
    settings = settings_of(method, variant)
    made = run(**settings).cost["target_calls"]
    most = most_calls(TASK, tiny_config(**settings))
    assert made["training"] <= most.phases[Phase.TRAINING]
    assert made["validation"] <= most.phases[Phase.DECISIONS] + most.phases[Phase.SELECTION]
    assert made["test"] <= most.phases[Phase.TEST]
    assert made["curve"] <= most.phases[Phase.CURVE]
    assert sum(made.values()) <= most.total <= sum(most.phases.values())


# --- the bound, by hand ---


def bound(**settings: Any) -> Most:
    return most_calls(TASK, tiny_config(**settings))


def calls_of(most: Most) -> list[int]:
    return [most.phases[phase] for phase in Phase]


def num_drawn(config: TuneConfig) -> int:
    """Different training examples of all steps."""
    steps = range(config.steps)
    return len(
        {e.text for step in steps for e in draw_examples(TASK, config, step).reward_examples}
    )


def test_each_phase_of_an_unlimited_run() -> None:
    # 4 steps of 6 prompts on 6 examples; a decision after every second, 2 * 3 prompts on 18; the
    # seed prompt on 18, and 3 finalists in two looks, 3 * 9 + 2 * 9; test with the seed prompt, the
    # chosen one and, as the guards are off, a readable one.
    seeds = num_drawn(tiny_config())
    assert 6 < seeds < 24  # examples are drawn again
    most = bound()
    assert calls_of(most) == [4 * 36 + seeds, 2 * 108, 63, 3 * 18, 0]
    assert most.total == sum(calls_of(most))


def test_without_steps_nothing_is_trained() -> None:
    assert calls_of(bound(method="seed", steps=0)) == [0, 0, 18, 18, 0]
    # 32 sets of demonstrations in two looks, 32 * 9 + 16 * 9; on test the best of them.
    assert calls_of(bound(method="few-shot", steps=0)) == [0, 0, 18 + 432, 36, 0]


def test_a_readable_prompt_is_read_on_test_only_where_guards_are_off() -> None:
    assert bound(guards=ON).phases[Phase.TEST] == 2 * 18
    assert bound(guards={**ON, "max_surprise": None}).phases[Phase.TEST] == 3 * 18
    assert bound(guards={**ON, "require_instruction": False}).phases[Phase.TEST] == 3 * 18


def test_the_papers_five_and_the_curve_come_on_top() -> None:
    most = bound(guards=ON, selection={"paper_protocol": True, "learning_curve": True})
    assert calls_of(most)[3:] == [7 * 18, 4 * 18]


def test_a_prompt_for_each_input() -> None:
    # 6 prompts on an input each, and the seed prompt on each of 6 / 3 inputs; a decision writes two
    # for each of 18; so does the trial; test is read again with the best one and with them.
    found = bound(guards=ON, per_input={"mode": "auto", "prompts": 3})
    seeds = num_drawn(tiny_config(per_input={"mode": "auto", "prompts": 3}))
    assert calls_of(found) == [4 * 6 + seeds, 2 * 36, 63 + 36, 4 * 18, 0]


def test_a_budget_bounds_all_but_test_and_leaves_room_for_the_selection() -> None:
    # 200 - 63 that are kept free. What steps leave over may pay for more finalists: of 24 prompts
    # of steps and 12 of decisions at most.
    most = bound(budget=200)
    assert calls_of(most) == [137, 137, 200, 54, 0]
    assert most.total == 200 + 54
    assert bound(budget=10**6).phases[Phase.SELECTION] == 18 + 36 * 9 + 18 * 9
    assert bound(budget=10**6).total < 10**6
    # With demonstrations, which come last, no more than 3 finalists: 18 + 45; then 6 * 9 + 3 * 9.
    shown = {"num_demonstrations": 2, "demonstration_sets": 6}
    assert bound(budget=10**6, selection=shown).phases[Phase.SELECTION] == 18 + 45 + 81
    # Of prompts for single inputs 24 of steps and 2 * 36 of decisions, and the trial of 36.
    each = {"mode": "auto", "prompts": 3}
    most = bound(budget=10**6, per_input=each)
    assert most.phases[Phase.SELECTION] == 18 + 96 * 9 + 48 * 9 + 36


def test_without_steps_a_budget_pays_for_the_trial_of_a_writer_or_is_refused() -> None:
    # The seed prompt, one to compare it with, and a prompt a side for each of 18.
    given: dict[str, Any] = {
        "method": "seed",
        "steps": 0,
        "per_input": {"mode": "auto", "prompts": 3},
    }
    require_enough_budget(TASK, tiny_config(**given, budget=72))
    with pytest.raises(ConfigError, match="take up to 72"):
        require_enough_budget(TASK, tiny_config(**given, budget=71))


def test_max_target_calls_bounds_the_whole() -> None:
    # 3 * 18 are kept free for test, and 63 for the selection.
    most = bound(limits={"max_target_calls": 200})
    assert calls_of(most) == [200 - 54 - 63, 200 - 54 - 63, 63, 54, 0]
    assert most.total == 200
    assert bound(limits={"max_target_calls": 20}).total == 20


# --- the run, by hand ---


def pattern(num_prompts: int = 6, *, written: int = 6, **changes: Any) -> Pattern:
    """Each token of a call is one that is read; an answer takes a second."""

    def count(pairs: Sequence[Pair]) -> Usage:
        return Usage(len(pairs) * 10, len(pairs))

    given: dict[str, Any] = {
        "prompts": tuple(f"prompt {number}" for number in range(num_prompts)),
        "num_written": written,
        "num_different": num_prompts,
        "step_seconds": 100.0,
        "decision_seconds": 30.0,
        "count": count,
        "answer_seconds": lambda usage, calls: float(calls),
    }
    return Pattern(**{**given, **changes})


def on_paper(
    task: Task = TASK, *, like: Pattern | None = None, price: Any = None, **settings: Any
) -> PaperRun:
    return PaperRun(task, tiny_config(**settings), like or pattern(), price).go()


def expected(paper: PaperRun) -> list[int]:
    return [paper.calls[phase] for phase in Phase]


def test_where_nothing_is_refused_and_nothing_repeats_all_is_asked() -> None:
    settings: dict[str, Any] = {"guards": ON}
    assert expected(on_paper(**settings)) == calls_of(bound(**settings))


def test_prompts_for_single_inputs_are_asked_about_one_input_each() -> None:
    settings: dict[str, Any] = {"per_input": {"mode": "auto", "prompts": 3}, "guards": ON}
    # However few examples a decision may look at: a prompt for one input is one call.
    paper = on_paper(**settings, anchor={"max_examples": 5})
    assert expected(paper) == calls_of(bound(**settings))
    half = on_paper(like=pattern(3), **settings)
    seeds = num_drawn(tiny_config(**settings))
    assert expected(half) == [4 * 3 + seeds, 36, 63 + 18, 4 * 18, 0]


def test_what_is_refused_costs_nothing() -> None:
    paper = on_paper(like=pattern(3), guards=ON)  # half of what is written
    seeds = num_drawn(tiny_config())
    assert expected(paper) == [4 * 3 * 6 + seeds, 108, 63, 36, 0]


def test_where_all_is_refused_the_seed_prompt_is_left() -> None:
    paper = on_paper(like=pattern(0))
    assert expected(paper) == [num_drawn(tiny_config()), 0, 18, 18, 0]


def test_fewer_finalists_than_are_wanted_race() -> None:
    # One prompt of one step: 18 for it, 18 for the seed prompt.
    paper = on_paper(like=pattern(1), steps=1, anchor={"kind": "fixed"}, guards=ON)
    assert expected(paper) == [6 + 6, 0, 36, 36, 0]


def test_tokens_and_seconds_follow_from_the_calls() -> None:
    paper = on_paper(guards=ON)
    calls = sum(expected(paper))
    assert paper.ledger.total_calls == calls
    assert paper.ledger.total_tokens == 11 * calls
    assert all(paper.usage[p] == Usage(10 * n, n) for p, n in paper.calls.items())
    assert paper.target_seconds == calls
    assert paper.seconds == calls + 4 * 100 + 2 * 30


def test_the_ledger_has_the_purposes_of_a_real_one() -> None:
    training, decisions, selection, test, curve = expected(
        paper := on_paper(steps=5, selection={"learning_curve": True})
    )
    assert paper.ledger.target_calls == {
        "training": training,
        "validation": decisions + selection,
        "test": test,
        "curve": curve,
    }
    # After 5 steps 1 + 1/2 + ... + 1/5 prompts have led, one of them is known: 77/60 * 18 = 23.1.
    assert curve == 23


def test_steps_end_where_the_budget_does() -> None:
    # A step may cost 42, the selection 63. After two steps of 36 and the new seeds no more than
    # 36 + 63 is left of 180.
    config = tiny_config(method="best-of-n", budget=180)
    paper = on_paper(method="best-of-n", budget=180)
    assert paper.num_steps == 2
    # What is left pays for more finalists: 9 for each, and 9 for half of them.
    spent = paper.calls[Phase.TRAINING] + paper.calls[Phase.SELECTION]
    assert 180 - 18 < spent <= 180
    assert num_steps_of(config, per_step=36) == 2


def num_steps_of(config: TuneConfig, *, per_step: int) -> int:
    """By adding up: the seed prompt costs its new examples, and a step must fit with 42 + 63."""
    assert config.budget is not None
    spent, seen, steps = 0, set[str](), 0
    while config.budget - spent >= 42 + 63:
        drawn = {e.text for e in draw_examples(TASK, config, steps).reward_examples}
        spent += per_step + len(drawn - seen)
        seen |= drawn
        steps += 1
    return steps


@pytest.mark.parametrize(
    ("limits", "enough"),
    [
        # 4 * 6 * 6 + seeds in training, 2 * 108, 63, and 54 kept for test.
        ({"max_target_calls": 4 * 42 + 216 + 63 + 54}, True),
        ({"max_target_calls": 42 + 63 + 53}, False),  # no step, though the seed prompt is tested
        ({"max_target_calls": 18 + 53}, False),
        ({"max_tokens": 11 * 1000}, True),
        ({"max_tokens": 11 * 90}, False),
        ({"max_cost": 1.0}, True),
        ({"max_cost": 0.001}, False),  # 90 calls of 10 and 1 token at a dollar a million
        ({"max_seconds": 2000.0}, True),
        ({"max_seconds": 170.0}, False),
    ],
)
def test_a_limit_that_does_not_pay_for_selection_and_test(
    limits: dict[str, Any], enough: bool
) -> None:
    paper = on_paper(limits=limits, price=(1.0, 1.0))
    assert paper.cut_short is not enough
    assert (paper.num_steps == 4) is enough


def test_a_limit_that_stops_the_steps_alone_is_none_that_cuts_short() -> None:
    paper = on_paper(method="best-of-n", limits={"max_target_calls": 2 * 42 + 63 + 54})
    assert 0 < paper.num_steps < 4
    assert not paper.cut_short


def test_a_limit_without_room_for_all_finalists_cuts_short() -> None:
    # No step; then 32 sets race for 432.
    settings: dict[str, Any] = {"method": "few-shot", "steps": 0}
    assert not on_paper(**settings, limits={"max_target_calls": 18 + 432 + 54}).cut_short
    assert on_paper(**settings, limits={"max_target_calls": 18 + 431 + 54}).cut_short
    # Finalists that there cannot be are not missed.
    assert not on_paper(method="seed", steps=0, limits={"max_target_calls": 18 + 54}).cut_short


@pytest.mark.parametrize(("seconds", "steps"), [(300.0, 3), (299.0, 2), (99.0, 1), (1e6, 4)])
def test_a_step_begins_where_the_agent_has_the_time_for_it(seconds: float, steps: int) -> None:
    # 100 s each for the agent, and none for the target; before the first step nothing is known.
    like = pattern(answer_seconds=lambda usage, calls: 0.0)
    paper = on_paper(like=like, method="best-of-n", limits={"max_seconds": seconds})
    assert paper.num_steps == steps


@pytest.mark.parametrize(("seconds", "steps"), [(42 + 159, 2), (42 + 158, 1)])
def test_and_where_calls_have_theirs(seconds: float, steps: int) -> None:
    # A second a call, and none for the agent: behind the first 42 of them a step of 42 and the
    # selection of 63, with 54 kept for test.
    like = pattern(step_seconds=0.0)
    paper = on_paper(like=like, method="best-of-n", limits={"max_seconds": float(seconds)})
    assert paper.num_steps == steps


def test_no_more_is_asked_than_a_limit_allows() -> None:
    # 54 are kept for test: 6 for the seed prompt on validation, and test with it alone.
    paper = on_paper(limits={"max_target_calls": 60})
    assert expected(paper) == [0, 0, 6, 18, 0]
    assert paper.ledger.total_tokens == 24 * 11
    assert paper.cut_short
    assert on_paper(method="seed", steps=0, limits={"max_target_calls": 18 + 53}).cut_short


def test_a_budget_that_pays_for_some_finalists_is_meant_so() -> None:
    paper = on_paper(method="few-shot", steps=0, budget=100)
    assert paper.calls[Phase.SELECTION] < 18 + 432
    assert not paper.cut_short


def test_limits_that_are_not_reached_change_nothing() -> None:
    free = on_paper(guards=ON)
    limited = on_paper(guards=ON, budget=10_000, limits={"max_target_calls": 10_000})
    assert expected(free)[:2] == expected(limited)[:2]
    assert expected(limited)[2] > expected(free)[2]  # a budget pays for more finalists


def test_without_a_decision_that_can_be_paid_for_steps_go_on() -> None:
    # As in test_budget: four steps and the selection, no decision.
    paper = on_paper(budget=4 * 42 + 63)
    assert (paper.num_steps, paper.calls[Phase.DECISIONS]) == (4, 0)


def test_demonstrations_that_are_drawn_twice_race_once() -> None:
    few = make_task(size=12)  # 4 training examples, of which one is shown
    shown = {"num_demonstrations": 1, "demonstration_sets": 40}
    paper = on_paper(few, method="few-shot", steps=0, selection=shown)
    n = len(few.validation)  # at most 8: one look
    assert n <= 8
    assert paper.calls[Phase.SELECTION] == n + len(few.train) * n


def test_tokens_of_a_long_run_are_those_of_its_first_steps() -> None:
    counted: list[int] = []

    def count(pairs: Sequence[Pair]) -> Usage:
        counted.append(len(pairs))
        return Usage(7 * len(pairs))

    paper = on_paper(like=pattern(count=count), method="best-of-n", steps=40)
    assert len(counted) < 20
    assert paper.usage[Phase.TRAINING].read == 7 * paper.calls[Phase.TRAINING]


def test_the_examples_of_a_large_split_are_counted_in_part() -> None:
    large = make_task(size=3000)
    counted: list[int] = []

    def count(pairs: Sequence[Pair]) -> Usage:
        counted.append(len(pairs))
        return Usage(7 * len(pairs))

    paper = on_paper(large, like=pattern(count=count), method="seed", steps=0)
    assert max(counted) <= 256
    assert paper.calls[Phase.TEST] == len(large.test) == 900
    assert paper.usage[Phase.TEST].read == 7 * 900


# --- against real runs ---


def read_steps(result: TuneResult) -> list[dict[str, Any]]:
    text = (result.run_dir / "steps.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("seed", [1, 33])
@pytest.mark.parametrize("budget", [None, 200, 333, 1000])
def test_best_of_n_is_exact_where_nothing_is_refused_and_nothing_repeats(
    run: Run, budget: int | None, seed: int
) -> None:
    settings: dict[str, Any] = {"method": "best-of-n", "steps": 4, "budget": budget, "seed": seed}
    result = run(**settings)
    steps = read_steps(result)
    assert result.candidates["refused"] == {}
    assert result.candidates["unique"] == 6 * len(steps) + 1
    paper = on_paper(**settings)
    made = result.cost["target_calls"]
    assert paper.num_steps == len(steps)
    assert paper.calls[Phase.TRAINING] == made["training"]
    assert paper.calls[Phase.SELECTION] == made["validation"]
    different = {result.seed_prompt, result.prompt, result.readable_prompt}
    assert made["test"] == len(different) * 18
    assert paper.calls[Phase.TEST] == 3 * 18


@pytest.mark.parametrize("method", STEPLESS)
@pytest.mark.parametrize("budget", [None, 36, 100, 400])
def test_methods_without_steps_are_exact(run: Run, method: str, budget: int | None) -> None:
    settings: dict[str, Any] = {"method": method, "steps": 0, "budget": budget}
    result = run(**settings)
    made, paper = result.cost["target_calls"], on_paper(**settings)
    assert made["training"] == paper.calls[Phase.TRAINING] == 0
    assert made["validation"] == paper.calls[Phase.SELECTION]
    # Test is exact but for one thing: whether a set is better than the seed prompt.
    found = 1 if result.prompt == result.seed_prompt else 2
    assert made["test"] == found * 18
    assert paper.calls[Phase.TEST] == (18 if method == "seed" else 36)
