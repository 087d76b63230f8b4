"""Limits of a whole run, turned into calls; worked by hand."""

from typing import Any

import pytest

from stableprompt.llm_config import LimitsConfig
from stableprompt.models.targets.interface import Usage
from stableprompt.scoring.ledger import Ledger, Purpose
from stableprompt.scoring.limits import Limits, Unheard


def spent(calls: int = 0, read: int = 0, written: int = 0) -> Ledger:
    ledger = Ledger()
    ledger.add_target(Purpose.TRAINING, Usage(read, written), calls=calls)
    return ledger


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def limits(kept: int = 0, **given: Any) -> Limits:
    return Limits(LimitsConfig(**given), (1.0, 10.0), kept=kept, clock=Clock())


def test_without_a_limit_there_is_any_room() -> None:
    assert not limits().any
    assert limits().room(spent(10**9, 10**9), Purpose.TRAINING) is None


def test_calls_are_counted_and_test_is_kept_free() -> None:
    few = limits(kept=30, max_target_calls=100)
    assert few.any
    assert few.room(spent(), Purpose.TRAINING) == 70
    assert few.room(spent(65), Purpose.VALIDATION) == 5
    assert few.room(spent(65), Purpose.TEST) == 35
    assert few.room(spent(90), Purpose.TRAINING) == 0


def test_tokens_are_those_of_a_call_so_far() -> None:
    few = limits(kept=3, max_tokens=1000)
    assert few.room(spent(), Purpose.TRAINING) is None  # nothing is known yet
    assert few.room(spent(10, 400, 100), Purpose.TEST) == 10  # 50 a call
    assert few.room(spent(10, 400, 100), Purpose.TRAINING) == 7
    assert few.room(spent(10, 1000), Purpose.TEST) == 0


def test_dollars_by_the_price_of_reading_and_writing() -> None:
    few = limits(max_cost=0.01)
    # 10 calls: 1000 tokens read at 1 $, 300 written at 10 $ a million: 0.004 $, 0.0004 a call.
    ledger = spent(10, 1000, 300)
    assert ledger.dollars((1.0, 10.0)) == pytest.approx(0.004)
    assert few.room(ledger, Purpose.TRAINING) == 15


def test_what_a_judge_reads_and_writes_counts_with_the_calls_that_it_rates() -> None:
    prices: dict[str, Any] = {"price": (1.0, 10.0), "judge_price": (2.0, 100.0)}
    ledger = spent(10, 800, 200)
    ledger.add_judge(Usage(900, 100), calls=5)
    # 2000 tokens for 10 calls, 200 each.
    few = Limits(LimitsConfig(max_tokens=4000), **prices)
    assert few.room(ledger, Purpose.TEST) == 10
    # 800 + 200 * 10 for the target, 900 * 2 + 100 * 100 for the judge, of a million: 0.0146 $.
    few = Limits(LimitsConfig(max_cost=0.0438), **prices)
    assert few.dollars(ledger) == pytest.approx(0.0146)
    assert few.room(ledger, Purpose.TEST) == 20


def test_dollars_are_unknown_where_one_price_is() -> None:
    ledger = spent(10, 800, 200)
    assert Limits(LimitsConfig(), (1.0, 1.0)).dollars(ledger) == pytest.approx(0.001)
    ledger.add_judge(Usage(1, 0), calls=1)
    assert Limits(LimitsConfig(), (1.0, 1.0)).dollars(ledger) is None
    assert Limits(LimitsConfig(), None, judge_price=(1.0, 1.0)).dollars(ledger) is None


def test_seconds_are_those_that_calls_take_not_those_of_the_agent() -> None:
    clock = Clock()
    few = Limits(LimitsConfig(max_seconds=60), clock=clock)
    clock.now += 40  # the agent was loaded and wrote; nothing was asked yet
    assert few.seconds == 40
    assert few.room(spent(), Purpose.TRAINING) is None
    clock.now += 2
    few.waited = 2.0
    assert few.room(spent(20), Purpose.TRAINING) == 180  # a tenth of a second a call, 18 s left
    clock.now += 18
    assert few.room(spent(20), Purpose.TRAINING) == 0


def test_a_step_needs_the_time_that_the_agent_takes_for_one() -> None:
    clock = Clock()
    few = Limits(LimitsConfig(max_seconds=60), clock=clock)
    assert few.time_for_step()  # nobody knows yet
    clock.now += 34
    few.waited, few.steps = 4.0, 2  # 15 s a step
    assert few.time_for_step()
    clock.now += 15  # 49: 22.5 s a step, 11 left
    assert not few.time_for_step()
    assert limits(max_tokens=1).time_for_step()


def test_time_goes_on_where_a_run_was_interrupted() -> None:
    clock = Clock()
    few = Limits(LimitsConfig(max_seconds=60), clock=clock)
    few.start_from(40, waited=10)
    clock.now += 5
    assert few.seconds == 45
    assert few.room(spent(20), Purpose.TRAINING) == 30  # half a second a call


def test_the_tightest_limit_counts() -> None:
    few = limits(max_target_calls=100, max_tokens=1000)
    assert few.room(spent(10, 500), Purpose.TEST) == 10
    assert few.room(spent(95, 500), Purpose.TEST) == 5


def test_a_half_and_four_fifths_are_said_once() -> None:
    class Listening(Unheard):
        def __init__(self) -> None:
            self.notes: list[str] = []
            self.costs: list[tuple[int, float | None]] = []

        def on_note(self, note: str) -> None:
            self.notes.append(note)

        def on_calls(self, calls: int, dollars: float | None) -> None:
            self.costs.append((calls, dollars))

    heard = Listening()
    given = LimitsConfig(max_target_calls=100, max_tokens=10_000)
    few = Limits(given, (1e6, 0.0), listener=heard)
    for calls in (10, 49, 50, 60, 79, 80, 99):
        few.watch(spent(calls, read=calls))
    assert heard.costs == [(n, n) for n in (10, 49, 50, 60, 79, 80, 99)]
    assert heard.notes == [
        "50% of limits.max_target_calls used: 50 of 100",
        "80% of limits.max_target_calls used: 80 of 100",
    ]


def test_the_error_says_which_limits_there_are() -> None:
    error = limits(max_cost=0.5, max_tokens=7).reached(spent(1, 3, 2))
    assert "(max_tokens 7, 5 used, max_cost 0.5, 2.3e-05 used)" in str(error)
    assert "resume" in str(error)
