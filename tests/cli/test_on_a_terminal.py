"""The program on a real pseudo-terminal: what a person sees, and in what state it is left."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

from stableprompt.cli import terminal
from stableprompt.cli.live import PER_SECOND
from stableprompt.cli.terminal import can_redraw
from tests.cli.conftest import COLUMNS, SMALL, assert_fits, options, write_rows
from tests.cli.pseudo_terminal import run_on_terminal

SLOW = """
import time

def answer(messages):
    time.sleep(0.4)
    return "red"
"""


@pytest.fixture
def arguments(tmp_path: Path, model: Path) -> list[str]:
    """Of a run with a target that takes its time."""
    write_rows(tmp_path / "rows.csv", 30)
    (tmp_path / "slow.py").write_text(SLOW)
    models = ("--agent", str(model), "--target", "slow:answer")
    return ["tune", "rows.csv", *COLUMNS, *models, *options(*SMALL), "--run-dir", "run"]


def test_a_whole_run(arguments: list[str], tmp_path: Path) -> None:
    seen = run_on_terminal(arguments, tmp_path)
    assert seen.code == 0, seen.output
    for frame in seen.frames:
        assert_fits("\n".join(frame))
        assert sum(line.startswith("steps ") for line in frame) <= 1  # no view is torn
        assert sum(" loading models, " in line for line in frame) <= 1
    drawn = {line for frame in seen.frames for line in frame}
    for part in ("starting, ", "step 1 of 2, 1 s", "step 2 of 2, ", "choosing the prompt", "1/2"):
        assert any(part in line for line in drawn), part
    last = [line.rstrip() for line in seen.screen.lines]
    assert seen.screen.cursor_shown
    assert not any("step 2 of 2" in line for line in last)
    assert any(line.startswith("steps ") and line.endswith("  2/2") for line in last)
    assert sum(line.startswith("│best prompt") for line in last) == 1
    assert "step   1/2" not in seen.output  # the plain line
    # Every drawing of the view begins by deleting its first line; each event draws it as well.
    seconds = json.loads((tmp_path / "run" / "timing.json").read_text())["seconds"]
    drawings = sum("step" in frame[-1] or "time" in frame[-1] for frame in seen.frames)
    assert drawings <= (seconds + 2) * PER_SECOND + 20


@pytest.mark.parametrize(
    ("number", "code", "at"),
    [(signal.SIGINT, 130, " step 1 of 2, "), (signal.SIGTERM, 143, " loading models")],
)
def test_a_signal_leaves_the_terminal_as_it_was(
    arguments: list[str], tmp_path: Path, number: signal.Signals, code: int, at: str
) -> None:
    sent: list[int] = []

    def watch(output: str, pid: int) -> None:
        if at in output and not sent:
            sent.append(pid)
            os.kill(pid, number)

    seen = run_on_terminal(arguments, tmp_path, watch=watch)
    assert seen.code == code, seen.output
    assert seen.screen.cursor_shown
    last = [line.rstrip() for line in seen.screen.lines if line.strip()]
    assert_fits("\n".join(last))
    assert last[-1].startswith("interrupted")
    for frame in seen.frames:
        assert sum(line.startswith("steps ") for line in frame) <= 1
    if number == signal.SIGINT:  # in a step, which was finished
        assert last[-1] == "interrupted; continue with: stableprompt tune --resume run"
        stopping = r"step 1 of 2, [^(]*\(finishing the step; once more to stop at once\)"
        assert re.search(stopping, seen.output)
        assert len((tmp_path / "run" / "steps.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("variables", "redraws"),
    [
        ({}, True),
        ({"TERM": "dumb"}, False),
        ({"TERM": "unknown"}, False),
        ({"CI": "true"}, False),
        ({"CI": ""}, True),
        ({"NO_COLOR": "1"}, False),
    ],
)
def test_a_view_is_for_terminals_that_can_show_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], redraws: bool
) -> None:
    for name, value in {"TERM": "xterm", "CI": "", "NO_COLOR": "", **variables}.items():
        monkeypatch.setenv(name, value)
    assert not can_redraw()  # pytest's stdout
    monkeypatch.setattr(terminal, "_is_terminal", lambda stream: True)
    assert can_redraw() == redraws
