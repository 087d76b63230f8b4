"""Monitors: each reading by hand, each alarm on both sides of its threshold, each answer."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from stableprompt.config import MonitorConfig, PPOConfig
from stableprompt.models.adapters import Role
from stableprompt.scoring.ledger import Purpose
from stableprompt.tasks.prompt_checks import PromptFault
from stableprompt.tuning.candidates import Candidate
from stableprompt.tuning.monitor import Action, Alarm, Finding, Monitor, readings_of
from stableprompt.tuning.update import UpdateStats

STATS = UpdateStats(
    policy_loss=0.0,
    value_loss=0.3,
    anchor_kl=0.1,
    step_kl=0.05,
    clip_fraction=0.1,
    gradient_norm=0.5,
    entropy=2.0,
    explained_variance=0.2,
    learning_rate=1e-3,
    kl_coef=0.05,
    undone=0,
    update_kl=None,
)


def stats(**fields: Any) -> UpdateStats:
    return replace(STATS, **fields)


def step_of(
    *prompts: str,
    rewards: Sequence[float] = (),
    faults: Sequence[PromptFault | None] = (),
    surprises: Sequence[float] = (),
    seed_reward: float | None = 0.25,
) -> list[Candidate]:
    """The prompts of one step; healthy ones, where nothing else is said."""
    prompts = prompts or ("a", "b", "c", "d")
    size = len(prompts)
    return [
        Candidate(
            step=0,
            writer=Role.POLICY,
            scored_on=Purpose.TRAINING,
            prompt=prompt,
            fault=(faults or [None] * size)[n],
            reward=(rewards or [float(n) for n in range(size)])[n],
            score=None,
            softmax_difference=None,
            seed_reward=seed_reward,
            surprise=(surprises or [0.0] * size)[n],
            num_words=1,
            instruction=True,
        )
        for n, prompt in enumerate(prompts)
    ]


def monitor(**settings: Any) -> Monitor:
    return Monitor(MonitorConfig(**settings))


def alarms_of(
    steps: Sequence[tuple[list[Candidate], UpdateStats | None]], **settings: Any
) -> tuple[Alarm, ...]:
    """The alarms of the last of these steps; nothing is done about earlier ones."""
    watching = monitor(act=False, **settings)
    found: tuple[Alarm, ...] = ()
    for candidates, update in steps:
        found = watching.watch(candidates, update).alarms
    return found


HEALTHY = (step_of(), STATS)


# --- readings ---


def test_readings_worked_by_hand() -> None:
    candidates = step_of(
        "a",
        "b",
        "a",
        "",
        "c",
        rewards=[1.0, 0.5, 1.0, -0.5, 0.0],
        faults=[None, None, None, PromptFault.TRUNCATED, PromptFault.COPY],
        surprises=[1.0, 2.0, 1.0, math.inf, -math.inf],
        seed_reward=0.25,
    )
    found = readings_of(candidates, STATS, [])
    # Mean 2 / 5 = 0.4; deviations 0.6, 0.1, 0.6, -0.9, -0.4: squares 1.7, by 5 is 0.34.
    assert found.gain == pytest.approx(0.15)
    assert found.reward_sd == pytest.approx(math.sqrt(0.34))
    assert found.gain_sd is None
    assert found.unique_share == 4 / 5
    assert found.refused_share == 2 / 5
    assert found.truncated_share == 1 / 5
    assert found.surprise == pytest.approx((1 + 2 + 1 + 10 - 10) / 5)
    assert (found.entropy, found.anchor_kl, found.step_kl) == (2.0, 0.1, 0.05)
    assert (found.clip_fraction, found.gradient_norm) == (0.1, 0.5)
    assert (found.value_loss, found.explained_variance) == (0.3, 0.2)


def test_a_step_without_update_has_no_readings_of_one() -> None:
    found = readings_of(step_of(), None, [])
    assert found.entropy is found.anchor_kl is found.step_kl is found.clip_fraction is None
    assert found.gradient_norm is found.value_loss is found.explained_variance is None


def test_gains_vary_between_the_last_five_steps() -> None:
    earlier = []
    for gain in (9.0, 0.1, 0.2, 0.3, 0.4):
        candidates = step_of("a", "b", rewards=[gain, gain], seed_reward=0.0)
        earlier.append(readings_of(candidates, None, earlier))
    assert earlier[1].gain_sd == pytest.approx(8.9 / math.sqrt(2))
    last = readings_of(step_of("a", "b", rewards=[0.5, 0.5], seed_reward=0.0), None, earlier)
    # 0.1 ... 0.5: squares 0.04 + 0.01 + 0 + 0.01 + 0.04 = 0.1, by 4.
    assert last.gain_sd == pytest.approx(math.sqrt(0.1 / 4))


@pytest.mark.parametrize(
    ("fields", "moved"),
    [
        ({"update_kl": None, "step_kl": 0.2}, 0.2),
        ({"update_kl": 0.3, "step_kl": 0.2}, 0.3),
        ({"update_kl": 0.1, "step_kl": 0.2}, 0.2),
        # What was undone moved nothing; what stayed did.
        ({"update_kl": 0.1, "step_kl": 0.9, "undone": 2}, 0.1),
        ({"update_kl": 0.0, "step_kl": 0.9, "undone": 6}, 0.0),
    ],
)
def test_an_update_is_as_far_as_the_one_that_stayed(fields: dict[str, Any], moved: float) -> None:
    assert readings_of(step_of(), stats(**fields), []).step_kl == moved


# --- alarms: at the threshold none, beyond it one ---


def test_a_healthy_run_raises_no_alarm() -> None:
    assert alarms_of([HEALTHY] * 8) == ()


def twice(candidates: list[Candidate], update: UpdateStats | None = STATS) -> list[Any]:
    return [HEALTHY, (candidates, update), (candidates, update)]


def few(unique: int) -> list[Candidate]:
    """Ten prompts, so many of them different."""
    return step_of(*[f"p{n % unique}" for n in range(10)])


def refused(count: int) -> list[Candidate]:
    faults = [PromptFault.BABBLE] * count + [None] * (10 - count)
    return step_of(*[f"p{n}" for n in range(10)], faults=faults)


@pytest.mark.parametrize(
    ("candidates", "collapsed"),
    [(few(3), False), (few(2), True), (refused(8), False), (refused(9), True)],
)
def test_collapse_is_few_different_prompts_or_hardly_any_admitted(
    candidates: list[Candidate], collapsed: bool
) -> None:
    expected = (Alarm.COLLAPSE,) if collapsed else ()
    assert alarms_of(twice(candidates)) == expected


@pytest.mark.parametrize(("entropy", "collapsed"), [(0.4, False), (0.399, True)])
def test_collapse_is_an_entropy_below_a_fifth_of_the_first(entropy: float, collapsed: bool) -> None:
    expected = (Alarm.COLLAPSE,) if collapsed else ()
    assert alarms_of(twice(step_of(), stats(entropy=entropy))) == expected


def test_one_step_is_no_collapse() -> None:
    assert alarms_of([HEALTHY, (few(1), STATS)]) == ()
    assert alarms_of([HEALTHY, *[(few(1), STATS)] * 2]) == (Alarm.COLLAPSE,)
    assert alarms_of([HEALTHY, (few(1), STATS), HEALTHY, (few(1), STATS)]) == ()


def test_an_agent_that_was_so_from_the_start_has_not_collapsed() -> None:
    # It has yet to learn: rolled back each time, it never could.
    assert alarms_of([(few(1), STATS)] * 2) == ()
    watching, found = watched([(few(1), STATS)] * 2)
    assert (found[-1].actions, watching.collapsed) == ((), False)


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({"min_unique_share": 0.9}, {}),
        ({"max_refused_share": 0.2}, {}),
        ({"min_entropy_share": 0.6}, {"entropy": 1.0}),
    ],
)
def test_the_thresholds_of_collapse_are_the_settings(
    settings: dict[str, float], fields: dict[str, Any]
) -> None:
    candidates = step_of("a", "b", "c", "a", faults=[None, None, None, PromptFault.EMPTY])
    assert alarms_of(twice(candidates, stats(**fields))) == ()
    assert alarms_of(twice(candidates, stats(**fields)), **settings) == (Alarm.COLLAPSE,)


@pytest.mark.parametrize(
    ("fields", "diverged"),
    [
        ({"step_kl": 0.3}, False),
        ({"step_kl": 0.301}, True),
        ({"step_kl": 0.1, "update_kl": 0.301}, True),
        ({"clip_fraction": 0.5}, False),
        ({"clip_fraction": 0.501}, True),
        ({"undone": 1, "update_kl": 0.01}, True),
        ({"gradient_norm": 10.0}, False),  # 20 times the median, 0.5
        ({"gradient_norm": 10.01}, True),
    ],
)
def test_divergence_is_an_update_that_went_much_too_far(
    fields: dict[str, Any], diverged: bool
) -> None:
    expected = (Alarm.DIVERGENCE,) if diverged else ()
    assert alarms_of([HEALTHY, HEALTHY, HEALTHY, (step_of(), stats(**fields))]) == expected


def test_a_gradient_is_compared_with_the_median_of_three_earlier_ones_at_least() -> None:
    steep = (step_of(), stats(gradient_norm=99.0))
    assert alarms_of([HEALTHY, HEALTHY, steep]) == ()
    nothing = (step_of(), stats(gradient_norm=0.0))  # steps that moved nothing are left out
    assert alarms_of([HEALTHY, HEALTHY, nothing, steep]) == ()
    norms = [(step_of(), stats(gradient_norm=norm)) for norm in (0.1, 1.0, 50.0)]
    assert alarms_of([*norms, (step_of(), stats(gradient_norm=20.0))]) == ()
    assert alarms_of([*norms, (step_of(), stats(gradient_norm=20.1))]) == (Alarm.DIVERGENCE,)


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({"max_step_kl": 0.04}, {}),
        ({"max_clip_fraction": 0.09}, {}),
        ({"max_gradient_ratio": 1.5}, {"gradient_norm": 0.76}),
    ],
)
def test_the_thresholds_of_divergence_are_the_settings(
    settings: dict[str, float], fields: dict[str, Any]
) -> None:
    steps = [HEALTHY, HEALTHY, HEALTHY, (step_of(), stats(**fields))]
    assert alarms_of(steps) == ()
    assert alarms_of(steps, **settings) == (Alarm.DIVERGENCE,)


@pytest.mark.parametrize(("anchor_kl", "drifted"), [(1.0, False), (1.001, True)])
def test_drift_is_far_from_the_anchor(anchor_kl: float, drifted: bool) -> None:
    steps = [HEALTHY, (step_of(), stats(anchor_kl=anchor_kl))]
    assert alarms_of(steps) == ((Alarm.DRIFT,) if drifted else ())
    assert alarms_of(steps, max_anchor_kl=2.0) == ()


@pytest.mark.parametrize(("surprise", "drifted"), [(1.5, False), (1.501, True)])
def test_drift_is_far_from_the_plainness_of_the_first_step(surprise: float, drifted: bool) -> None:
    first = (step_of(surprises=[0.0, 1.0, 0.5, 0.5]), None)  # 0.5
    now = (step_of(surprises=[surprise] * 4), None)
    assert alarms_of([first, now]) == ((Alarm.DRIFT,) if drifted else ())
    assert alarms_of([first, now], max_surprise_rise=3.0) == ()
    assert alarms_of([now, now]) == ()  # it was so from the start


def gains(*each: float) -> list[Any]:
    """Steps with these gains, of rewards that differ within each."""
    return [
        (step_of("a", "b", rewards=[gain - 0.5, gain + 0.5], seed_reward=0.0), STATS)
        for gain in each
    ]


def test_forgetting_is_a_mean_gain_far_below_the_best_before() -> None:
    # The best three before the last three: 0.3, 0.6, 0.6 with mean 0.5. Later: mean 0.3.
    assert alarms_of(gains(0.0, 0.3, 0.6, 0.6, 0.3, 0.3, 0.3), max_drop=0.2001) == ()
    assert alarms_of(gains(0.0, 0.3, 0.6, 0.6, 0.3, 0.3, 0.3), max_drop=0.1999) == (
        Alarm.FORGETTING,
    )


def test_forgetting_needs_six_steps_and_no_step_counts_on_both_sides() -> None:
    assert alarms_of(gains(9.0, 9.0, 9.0, 0.0, 0.0)) == ()
    assert alarms_of(gains(9.0, 9.0, 9.0, 0.0, 0.0, 0.0)) == (Alarm.FORGETTING,)
    # Means of three: 3, 6, 6 and 3 now. The 6s share steps with what is now.
    assert alarms_of(gains(0.0, 0.0, 9.0, 9.0, 0.0, 0.0)) == ()


def test_nothing_to_learn_is_equal_rewards_or_no_gradient_three_steps_in_a_row() -> None:
    equal = (step_of("a", "b", rewards=[0.1, 0.1]), STATS)
    still = (step_of(), stats(gradient_norm=0.9e-7))
    assert alarms_of([equal, equal]) == ()
    for steps in ([equal] * 3, [still] * 3, [HEALTHY, equal, still, equal]):
        assert alarms_of(steps) == (Alarm.NOTHING_TO_LEARN,)
    assert alarms_of([equal, HEALTHY, equal, equal]) == ()
    assert alarms_of([(step_of(), stats(gradient_norm=1e-7))] * 3) == ()
    frozen = (step_of(), None)
    assert alarms_of([frozen] * 3) == ()


def test_values_are_blind_where_they_foresee_worse_than_a_constant_three_times() -> None:
    blind = (step_of(), stats(explained_variance=-1.001))
    assert alarms_of([blind] * 2) == ()
    assert alarms_of([blind] * 3) == (Alarm.BLIND_VALUES,)
    assert alarms_of([(step_of(), stats(explained_variance=-1.0))] * 3) == ()
    assert alarms_of([(step_of(), stats(explained_variance=None))] * 3) == ()
    assert alarms_of([blind, HEALTHY, blind, blind]) == ()


def test_several_alarms_at_once_are_all_told() -> None:
    broken = stats(anchor_kl=5.0, step_kl=5.0, explained_variance=-9.0)
    same = step_of(*["a"] * 10, rewards=[0.1] * 10)
    assert alarms_of([HEALTHY, *[(same, broken)] * 3]) == (
        Alarm.COLLAPSE,
        Alarm.DIVERGENCE,
        Alarm.DRIFT,
        Alarm.NOTHING_TO_LEARN,
        Alarm.BLIND_VALUES,
    )


# --- answers ---


def watched(steps: Sequence[Any], **settings: Any) -> tuple[Monitor, list[Finding]]:
    watching = monitor(**settings)
    return watching, [watching.watch(candidates, update) for candidates, update in steps]


FORGOT = gains(9.0, 9.0, 9.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("steps", "actions", "kl_scale", "rate_scale"),
    [
        ([HEALTHY, *[(few(1), STATS)] * 2], (Action.ROLL_BACK, Action.RAISE_KL), 2, 1),
        ([HEALTHY, (step_of(), stats(step_kl=9.0))], (Action.LOWER_RATE,), 1, 0.5),
        ([HEALTHY, (step_of(), stats(anchor_kl=9.0))], (Action.RAISE_KL,), 2, 1),
        (FORGOT, (Action.ROLL_BACK, Action.LOWER_RATE), 1, 0.5),
        ([(step_of("a", "b", rewards=[0.1, 0.1]), STATS)] * 3, (), 1, 1),
        ([(step_of(), stats(explained_variance=-9.0))] * 3, (), 1, 1),
        ([HEALTHY] * 4, (), 1, 1),
    ],
    ids=["collapse", "divergence", "drift", "forgetting", "nothing", "blind", "healthy"],
)
def test_each_alarm_has_its_answer(
    steps: list[Any], actions: tuple[Action, ...], kl_scale: float, rate_scale: float
) -> None:
    watching, found = watched(steps)
    assert found[-1].actions == actions
    assert [one.actions for one in found[:-1]] == [()] * (len(found) - 1)
    assert (watching.kl_scale, watching.rate_scale) == (kl_scale, rate_scale)


def test_two_alarms_with_one_answer_are_answered_once() -> None:
    # Collapse and drift both raise the KL coefficient.
    update = stats(anchor_kl=9.0, entropy=0.1)
    watching, found = watched([HEALTHY, (few(1), STATS), (few(1), update)])
    assert found[-1].alarms == (Alarm.COLLAPSE, Alarm.DRIFT)
    assert found[-1].actions == (Action.ROLL_BACK, Action.RAISE_KL)
    assert watching.kl_scale == 2


def test_answers_have_an_end() -> None:
    update = stats(anchor_kl=9.0, step_kl=9.0)
    watching = monitor()
    scales = []
    for _ in range(8):
        watching.watch(step_of(), update)
        scales.append((watching.kl_scale, watching.rate_scale))
    halves = [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 64, 1 / 64]
    assert scales == list(zip([2, 4, 8, 16, 16, 16, 16, 16], halves, strict=True))


def test_the_settings_of_an_update_are_scaled_and_nothing_else_of_them() -> None:
    watching = monitor()
    given = PPOConfig(learning_rate=0.08, kl_coef=0.3, clip_range=0.1)
    assert watching.settings(given) == given
    watching.kl_scale, watching.rate_scale = 4.0, 0.25
    assert watching.settings(given) == PPOConfig(learning_rate=0.02, kl_coef=1.2, clip_range=0.1)


def test_without_acting_alarms_are_told_and_nothing_is_done() -> None:
    update = stats(anchor_kl=9.0, step_kl=9.0)
    watching, found = watched([HEALTHY, *[(few(1), update)] * 4], act=False)
    assert found[-1].alarms[:3] == (Alarm.COLLAPSE, Alarm.DIVERGENCE, Alarm.DRIFT)
    assert [one.actions for one in found] == [()] * 5
    assert (watching.kl_scale, watching.rate_scale, len(watching.history)) == (1, 1, 5)


def test_where_nothing_is_learned_nothing_can_be_done() -> None:
    watching, found = watched([HEALTHY, *[(few(1), None)] * 2])
    assert found[-1].alarms == (Alarm.COLLAPSE,)
    assert found[-1].actions == ()
    assert watching.kl_scale == 1


def test_after_a_roll_back_it_is_measured_anew_from_the_first_step() -> None:
    watching, found = watched(FORGOT)
    assert Action.ROLL_BACK in found[-1].actions
    assert (watching.history, watching.first) == ([], found[0].readings)
    # Otherwise the same drop would be found again, and the policy never leave the anchor.
    for candidates, update in gains(0.0, 0.0):
        assert watching.watch(candidates, update).alarms == ()


def test_after_a_roll_back_one_step_is_no_collapse_either() -> None:
    watching, found = watched([HEALTHY, (few(1), STATS), (few(1), STATS)])
    assert found[-1].alarms == (Alarm.COLLAPSE,)
    assert watching.watch(few(1), STATS).alarms == ()
    assert watching.watch(few(1), STATS).alarms == (Alarm.COLLAPSE,)


def test_after_a_roll_back_the_first_step_is_still_that_of_the_run() -> None:
    odd = step_of(surprises=[1.5] * 4)
    _, found = watched([HEALTHY, (few(1), STATS), (few(1), STATS), (odd, STATS)])
    assert Action.ROLL_BACK in found[2].actions
    assert found[3].alarms == (Alarm.DRIFT,)  # 1.5 above the first; not 0 above itself


def test_what_was_changed_goes_back_step_by_step_while_nothing_is_wrong() -> None:
    far = (step_of(), stats(anchor_kl=9.0, step_kl=9.0))
    scales = []
    watching = monitor()
    for candidates, update in [far, far, *[HEALTHY] * 5, far, HEALTHY]:
        watching.watch(candidates, update)
        scales.append((watching.kl_scale, watching.rate_scale))
    root = 2**0.5
    expected = [2, 4, 4 / root, 2, 2 / root, 1, 1, 2, root]
    assert [kl for kl, _ in scales] == pytest.approx(expected)
    assert [1 / rate for _, rate in scales] == pytest.approx(expected)


def test_forgetting_goes_by_the_ratings_where_there_are_some() -> None:
    # By the draw of examples it fell from 9 to 0, by the ratings it has not: and the other way.
    for levels, alarms in (([1.0] * 6, ()), ([9.0] * 3 + [0.0] * 3, (Alarm.FORGETTING,))):
        watching = monitor(act=False)
        seen = gains(9.0, 9.0, 9.0, 0.0, 0.0, 0.0) if not alarms else gains(*[1.0] * 6)
        for (candidates, update), level in zip(seen, levels, strict=True):
            found = watching.watch(candidates, update, level)
        assert found.alarms == alarms
        assert found.readings.level == levels[-1]


def test_steps_with_an_alarm_are_counted() -> None:
    update = stats(anchor_kl=9.0)
    watching, _ = watched([HEALTHY, (step_of(), update), HEALTHY, (step_of(), update)])
    assert watching.alarms == {"drift": 2}


@pytest.mark.parametrize(
    ("steps", "collapsed"),
    [
        ([], False),
        ([HEALTHY] * 3, False),
        ([(few(1), None)], False),  # it was so from the start
        ([HEALTHY, (few(1), None), (few(1), None)], True),
        ([(few(1), None), HEALTHY, HEALTHY], False),
        ([HEALTHY, (few(1), None)], False),  # half is not most
        ([(few(1), None)] * 3 + [HEALTHY] * 3, False),
    ],
)
def test_a_run_ends_collapsed_if_most_of_its_last_three_steps_are(
    steps: list[Any], collapsed: bool
) -> None:
    assert watched(steps, act=False)[0].collapsed is collapsed


# --- checkpoints ---


def test_a_monitor_comes_back_from_a_checkpoint_as_it_was() -> None:
    steps = [HEALTHY, (step_of(), stats(anchor_kl=9.0, step_kl=9.0)), (step_of(), None)]
    watching, _ = watched(steps)
    state = json.loads(json.dumps(watching.to_dict(), allow_nan=False))
    taken = monitor()
    taken.restore(state)
    assert taken == watching
    assert taken.to_dict() == watching.to_dict()
    assert (taken.kl_scale, taken.rate_scale) == pytest.approx((2**0.5, 0.5**0.5))
    for candidates, update in gains(9.0, 9.0, 9.0, 0.0, 0.0, 0.0):
        assert taken.watch(candidates, update) == watching.watch(candidates, update)
    assert taken == watching


def test_steps_that_admit_no_prompt_are_counted_in_a_row() -> None:
    monitor = Monitor(MonitorConfig(max_refused_steps=2))
    refused = step_of(faults=[PromptFault.TRUNCATED] * 4)
    found = []
    for candidates in (refused, step_of(), refused, refused):
        monitor.watch(candidates, stats())
        found.append((monitor.refused_in_a_row, monitor.writes_nothing))
    assert found == [(1, False), (0, False), (1, False), (2, True)]
    monitor.answer([Action.ROLL_BACK])  # does not make them unseen
    other = Monitor(MonitorConfig(max_refused_steps=2))
    other.restore(json.loads(json.dumps(monitor.to_dict())))
    assert other.writes_nothing
