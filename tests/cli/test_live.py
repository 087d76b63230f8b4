"""The live view: what a person sees on 80 columns, and that nothing else reaches the terminal."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stableprompt.cli.amounts import sparkline
from stableprompt.cli.live import Bounds, LiveView
from stableprompt.cli.terminal import make_console
from stableprompt.runs.folder import STEPS
from stableprompt.tuning.records import StepRecord
from tests.cli.conftest import assert_fits
from tests.cli.pseudo_terminal import Screen
from tests.cli.test_reporting import RECORD
from tests.cli.test_terminal import HOSTILE, STEERS

QUIET = replace(RECORD, anchor=None)


class Clock:
    """Seconds, set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Shown:
    """A view on a terminal in memory; it is drawn when it is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
        for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("TERM", environment.get("TERM", "xterm-256color"))
        self.output = io.StringIO()
        self.console = make_console()
        self.console.file, self.console.width = self.output, 80
        monkeypatch.setattr(self.console, "_force_terminal", True)
        self.console.is_interactive = True
        self.clock = Clock()
        self.view = LiveView(self.console, self.clock)
        self.view._live.auto_refresh = False

    def lines(self) -> list[str]:
        """What is seen now, of all that was drawn."""
        self.view._live.refresh()
        screen = Screen()
        screen.feed(self.output.getvalue().replace("\n", "\r\n"))
        seen = [line.rstrip() for line in screen.lines]
        assert_fits("\n".join(seen))
        return seen


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    return Shown(monkeypatch)


def test_before_the_loop_it_says_what_is_done_and_for_how_long(shown: Shown) -> None:
    with shown.view as view:
        assert shown.lines()[-1].endswith(" starting, 0 s")
        view.on_phase("loading models")
        shown.clock.now += 75
        assert len(shown.lines()) == 1
        assert shown.lines()[-1].endswith(" loading models, 1 min 15 s")
        spinner = shown.lines()[-1][0]
        shown.clock.now += 0.25
        assert shown.lines()[-1][0] != spinner
    assert shown.lines() == [""]  # nothing is left of it


def test_a_run_is_seven_lines(shown: Shown) -> None:
    shown.view.of_run(Path("none"), lambda: Bounds(400, 2.5, 7200.0))
    with shown.view as view:
        view.on_phase("loading models")
        shown.clock.now += 10
        view.on_start(0, 10)
        assert [line.split()[0] for line in shown.lines()[1:]] == ["steps", "calls", "time"]
        for step, reward in enumerate((0.0, 0.5, 1.0)):
            shown.clock.now += 20
            decided = RECORD.anchor if step == 1 else None
            spent = {"target_calls": 40 * (step + 1), "dollars": 0.25 * (step + 1)}
            view.on_step(replace(RECORD, step=step, mean_reward=reward, anchor=decided, **spent))
        shown.clock.now += 5
        status, steps, *rest = shown.lines()
    assert shown.lines()[-2] == "time    1 min 15 s (limit 2 h 0 min)"  # it goes on no more
    assert status.endswith(" step 4 of 10, 5 s")
    assert steps.startswith("steps   ━") and steps.endswith("  3/10")
    assert rest == [
        "reward  mean +1.000  best +1.500  seed +0.500  ▁▅█",
        "leader  Name the colour",
        "anchor  roll back after step 2; so far 0 update, 1 roll back; KL 0.021",
        "calls   120 of at most 400 (30%); $0.75 of $2.50",
        # 20 s each, seven steps, five seconds of one are over.
        "time    1 min 15 s (limit 2 h 0 min); steps done in about 2 min 15 s",
    ]


def test_selection_and_test_are_seen(shown: Shown) -> None:
    with shown.view as view:
        view.on_start(0, 1)
        view.on_step(replace(QUIET, step=0))
        view.on_phase("choosing the prompt on validation")
        shown.clock.now += 3
        lines = shown.lines()
    assert lines[0].endswith(" choosing the prompt on validation, 3 s")
    assert "steps done" not in lines[-1]


def test_calls_are_seen_while_a_step_waits_for_them(shown: Shown) -> None:
    shown.view.of_run(Path("none"), lambda: Bounds(400, 2.5))
    with shown.view as view:
        view.on_start(0, 2)
        view.on_calls(64, 0.125)
        assert "calls   64 of at most 400 (16%); $0.12 of $2.50" in shown.lines()
        view.on_step(replace(RECORD, step=0, target_calls=70, dollars=0.25))
        assert "calls   70 of at most 400 (18%); $0.25 of $2.50" in shown.lines()
        view.on_phase("choosing the prompt on validation")
        view.on_calls(400, 2.0)
    assert "calls   400 of at most 400 (100%); $2.00 of $2.50" in shown.lines()


def test_what_begins_is_drawn_at_once_however_soon_it_is_over(shown: Shown) -> None:
    def drawn_by(event: str) -> bool:  # without being asked: nothing draws by time here
        return event in shown.output.getvalue()

    with shown.view as view:
        view.on_phase("loading models")
        assert drawn_by(" loading models, 0 s")
        view.on_start(0, 2)
        assert drawn_by(" step 1 of 2, 0 s")
        view.on_step(replace(RECORD, step=0))
        assert drawn_by(" step 2 of 2, 0 s")


def test_what_a_run_does_not_have_is_not_shown(shown: Shown) -> None:
    with shown.view as view:
        view.on_start(0, 2)
        view.on_step(replace(QUIET, step=0, update=None, best_prompt=None, mean_reward=None))
        names = {line.split()[0]: line for line in shown.lines()[1:]}
    assert "anchor" not in names
    assert names["leader"] == "leader  none yet"
    assert names["reward"].startswith("reward  mean -  best +1.500")
    assert names["calls"] == "calls   10 so far"


def test_notes_and_alarms_stay_above_it(shown: Shown) -> None:
    monitor = {"readings": {}, "alarms": ["drift"], "actions": ["raise_kl"]}
    with shown.view as view:
        view.on_start(0, 2)
        view.on_note("something \x1b[2J[bold] was left out")
        view.on_step(replace(QUIET, step=0, monitor=monitor))
        lines = shown.lines()
    assert lines[:2] == [
        "note: something \\u001b[2J[bold] was left out",
        "step 1 monitor: drift: raise kl",
    ]
    assert sum("step 2 of 2" in line for line in lines) == 1  # one view, not one a drawing
    assert not any("step 1 of 2" in line for line in lines)


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_in_a_prompt_steers_the_terminal(shown: Shown, text: str) -> None:
    with shown.view as view:
        view.on_start(0, 3)
        for step in range(2):
            view.on_step(replace(RECORD, step=step, best_prompt=f"{text} 漢字 {text}" * 9))
        lines = shown.lines()
        view.on_phase(text)
        view.on_note(text)
        shown.lines()
    assert sum(line.startswith("leader") for line in lines) == 1
    assert len(lines) == 7
    sent = shown.output.getvalue().replace("\n", "").replace("\r", "")
    for ours in ("\x1b[?25l", "\x1b[?25h", "\x1b[2K", "\x1b[1A"):
        sent = sent.replace(ours, "")
    for style in ("0", "1", "2", "32", "38;5;237"):
        sent = sent.replace(f"\x1b[{style}m", "")
    assert not STEERS.search(sent)


def test_a_resumed_run_shows_what_was_before(shown: Shown, tmp_path: Path) -> None:
    before = [replace(RECORD, step=0, mean_reward=0.0), replace(QUIET, step=1, mean_reward=1.0)]
    lines = [json.dumps({f: getattr(r, f) for f in StepRecord.__slots__}) for r in before]
    (tmp_path / STEPS).write_text("".join(f"{line}\n" for line in lines))
    shown.view.of_run(tmp_path, Bounds)
    with shown.view as view:
        view.on_start(2, 4)
        seen = shown.lines()
        assert seen[0] == "resuming after step 2 of 4"
        assert any(line.endswith("  2/4") for line in seen)
        assert any(line.endswith("seed +0.500  ▁█") for line in seen)
        assert any("roll back after step 1" in line for line in seen)
        assert "steps done" not in seen[-1]  # how long one takes here is not known
        shown.clock.now += 8
        view.on_step(replace(QUIET, step=2))
        assert shown.lines()[-1] == "time    8 s; steps done in about 8 s"


def test_a_step_that_is_late_takes_no_time_of_those_after_it(shown: Shown) -> None:
    with shown.view as view:
        view.on_start(0, 3)
        shown.clock.now += 20
        view.on_step(replace(QUIET, step=0))
        shown.clock.now += 50
        assert shown.lines()[-1].endswith("; steps done in about 20 s")  # the third one's
        view.on_step(replace(QUIET, step=1))  # two in 70 s
        shown.clock.now += 60
        assert shown.lines()[-1].endswith("; a slow last step")  # and not: in about 0 s


def test_asked_to_stop_it_says_so_within_its_lines(shown: Shown) -> None:
    with shown.view as view:
        view.on_start(0, 2)
        height = len(shown.lines())
        view.tell_stopping()
        lines = shown.lines()
    assert len(lines) == height
    assert lines[0].endswith("step 1 of 2, 0 s  (finishing the step; once more to stop at once)")


def test_an_exception_leaves_cursor_and_lines_alone(shown: Shown) -> None:
    def fail() -> None:
        with shown.view as view:
            view.on_start(0, 2)
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        fail()
    output = shown.output.getvalue()
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")
    assert output.endswith("\n") or output.endswith("\x1b[?25h")


def test_a_terminal_without_the_characters_gets_plain_ones(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(shown.console), "encoding", "ascii")
    with shown.view as view:
        view.on_start(0, 3)
        for step in range(2):
            view.on_step(replace(RECORD, step=step, mean_reward=float(step)))
        assert [line for line in shown.lines() if not line.isascii()] == []


@pytest.mark.parametrize(
    ("figures", "width", "line"),
    [
        ([], 5, ""),
        ([0.3], 5, "▁"),
        ([2.0, 2.0], 5, "▁▁"),
        ([-1.0, 0.0, 1.0], 5, "▁▅█"),
        ([0, 0, 7, 7, 3.5, 3.5], 3, "▁█▅"),  # pairs of neighbours
        ([0.0, 1.0] * 6, 3, "▁▁▁"),
    ],
)
def test_a_sparkline_has_a_bar_a_figure_or_a_mean(
    figures: list[Any], width: int, line: str
) -> None:
    assert sparkline(figures, width) == line
