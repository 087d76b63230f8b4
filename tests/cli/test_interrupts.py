"""Ctrl-C and SIGTERM: the first finishes the step, the second does not."""

import gc
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from stableprompt.cli.interrupts import Interrupts
from stableprompt.scoring.scorer import Scorer
from stableprompt.tuning.records import Silence
from tests.cli.conftest import COLUMNS, SMALL, Invoke, options

BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_in_a_step_only_asks(
    number: signal.Signals, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with Interrupts() as interrupts:
        observer = interrupts.watched(Silence())
        observer.on_start(0, 3)
        assert not observer.stop_asked()
        signal.raise_signal(number)
        assert observer.stop_asked()
        assert capfd.readouterr().err == "\nfinishing the step; once more to stop at once\n"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert interrupts.exit_code == code


@pytest.mark.parametrize("number", BOTH)
def test_where_no_step_is_under_way_it_stops_at_once(number: signal.Signals) -> None:
    with Interrupts() as interrupts:
        observer = interrupts.watched(Silence())
        observer.on_phase("loading models")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    with Interrupts() as interrupts:
        observer = interrupts.watched(Silence())
        observer.on_start(0, 3)
        observer.on_phase("choosing the prompt on validation")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    with Interrupts() as interrupts:
        interrupts.watched(Silence()).on_start(3, 3)  # all steps are done
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def test_one_that_comes_between_the_last_step_and_what_follows_is_not_lost() -> None:
    with Interrupts() as interrupts:
        observer = interrupts.watched(Silence())
        observer.on_start(0, 3)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            observer.on_phase("choosing the prompt on validation")


def test_the_third_ends_a_process_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    with Interrupts():
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
    assert codes == [143]


def test_what_it_finds_half_made_does_not_complain(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)

    class HalfMade:
        def __init__(self) -> None:
            self.me = self  # until the collector comes
            signal.raise_signal(signal.SIGTERM)
            self.name = "whole"

        def __del__(self) -> None:
            assert self.name

    with Interrupts(), pytest.raises(KeyboardInterrupt):
        HalfMade()
    gc.collect()
    assert capfd.readouterr() == ("", "")


class ScreenOfNotes:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def tell_stopping(self) -> None:
        self.told.append("stopping")

    def leave(self) -> None:
        self.told.append("leave")


def test_a_screen_says_it_itself_and_is_left_before_the_process_is(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    screen = ScreenOfNotes()
    monkeypatch.setattr(os, "_exit", lambda code: screen.told.append(f"exit {code}"))
    with Interrupts(screen) as interrupts:
        interrupts.watched(Silence()).on_start(0, 3)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):  # os._exit would not have come back
            signal.raise_signal(signal.SIGINT)
    assert screen.told == ["stopping", "leave", "exit 130"]
    assert capfd.readouterr().err == ""


def test_afterwards_signals_do_what_they_did_before() -> None:
    before = [signal.getsignal(number) for number in BOTH]
    with Interrupts():
        assert [signal.getsignal(number) for number in BOTH] != before
    assert [signal.getsignal(number) for number in BOTH] == before


def test_a_run_ends_after_its_step_and_says_how_to_go_on(
    invoke: Invoke, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, times = Scorer.score_each, []

    def signalled(*arguments: Any) -> Any:
        times.append(1)
        if len(times) == 1:  # in the middle of the first of two steps
            signal.raise_signal(signal.SIGTERM)
        return honest(*arguments)

    monkeypatch.setattr(Scorer, "score_each", signalled)
    models = ("--agent", model, "--target", model)
    done = invoke("tune", "rows.csv", *COLUMNS, *models, *options(*SMALL), "--run-dir", "my run")
    assert done.exit_code == 143, done.output
    assert done.stderr == "interrupted; continue with: stableprompt tune --resume 'my run'\n"
    assert "step   1/2" in done.stdout
    assert len(Path("my run", "steps.jsonl").read_text().splitlines()) == 1
    assert Path("my run", "checkpoints", "step-000001").is_dir()
    assert not Path("my run", "result.json").exists()
    assert not list(Path("my run").glob(".*.holder"))
