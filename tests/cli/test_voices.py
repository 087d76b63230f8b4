"""``--quiet``, ``--json`` and ``-v``: what a program reads, and what goes to stderr instead."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from stableprompt import build
from stableprompt.cli.reporting import verdict
from stableprompt.cli.voices import Json, Quiet
from stableprompt.tuning.records import StepRecord
from tests.cli.conftest import COLUMNS, SMALL, Invoke, invoke_app, options, write_rows
from tests.cli.test_reporting import RESULT
from tests.cli.test_terminal import STEERS

TALKING = """
def answer(messages):
    print("said by a function of the user's own")
    return "red"
"""
TIRED = """
asked = []

def answer(messages):
    asked.append(messages)
    if len(asked) > 20:
        raise RuntimeError("no more")
    return "red"
"""
HOSTILE_PROMPT = "Sort \x1b[31mred\x1b[0m from \u202egreen"


def tune(model: Path, *more: object) -> list[object]:
    models = ("--agent", model, "--target", "talking:answer")
    return ["tune", "rows.csv", *COLUMNS, *models, *options(*SMALL), "--run-dir", "run", *more]


def told(folder: Path, model: Path, *more: str) -> Result:
    """A whole run, with a function that prints and a seed prompt that would steer a terminal."""
    write_rows(folder / "rows.csv", 60)
    with (folder / "rows.csv").open("a") as file:
        file.write("colour 1 [bold]x[/bold] [/x],red\n")  # once more: a note
    (folder / "talking.py").write_text(TALKING)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        return invoke_app(*tune(model, "--seed-prompt", HOSTILE_PROMPT, *more))


@pytest.fixture(scope="module")
def as_json(tmp_path_factory: pytest.TempPathFactory, model: Path) -> tuple[Result, Path]:
    folder = tmp_path_factory.mktemp("json")
    return told(folder, model, "--json"), folder / "run"


def events(done: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_line_of_json_is_an_event(as_json: tuple[Result, Path]) -> None:
    done, _ = as_json
    assert done.exit_code == 0, done.output
    names = [event["event"] for event in events(done) if event["event"] != "note"]
    assert names == ["phase", "start", "step", "step", "phase", "phase", "result"]
    assert not STEERS.search(done.stdout)
    assert "duplicate" in next(e["note"] for e in events(done) if e["event"] == "note")
    assert "said by a function" not in done.stdout
    assert "said by a function" in done.stderr


def test_steps_are_those_of_the_run_folder(as_json: tuple[Result, Path]) -> None:
    done, run = as_json
    lines = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    steps = [event for event in events(done) if event["event"] == "step"]
    assert [{k: v for k, v in s.items() if k != "event"} for s in steps] == lines
    assert set(lines[0]) == set(StepRecord.__slots__)
    [start] = [event for event in events(done) if event["event"] == "start"]
    assert start == {"event": "start", "run_dir": "run", "first_step": 0, "steps": 2}


def test_the_result_is_that_of_the_run_folder(as_json: tuple[Result, Path]) -> None:
    done, run = as_json
    last = events(done)[-1]
    kept = json.loads((run / "result.json").read_text())
    own = {name: last.pop(name) for name in ("event", "verdict", "seconds", "run_dir")}
    assert len(last) > 15
    assert last == {name: kept[name] for name in last}
    assert last["seed_prompt"] == HOSTILE_PROMPT
    assert own["verdict"].startswith("no improvement")  # the answer is always the same
    assert own["run_dir"] == "run"
    assert own["seconds"] == json.loads((run / "timing.json").read_text())["seconds"]


def test_quiet_prints_the_prompt_and_one_line_on_stderr(tmp_path: Path, model: Path) -> None:
    done = told(tmp_path, model, "--quiet", "--set", "steps=0")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{HOSTILE_PROMPT}\n"  # into a pipe as it is, to the character
    own = [line for line in done.stderr.splitlines() if "said by a function" not in line]
    assert own == [
        "run: no improvement found: nothing that was seen is better than the seed prompt"
    ]


def test_a_score_is_told_in_the_same_ways(invoke: Invoke, model: Path) -> None:
    asked = ("evaluate", "rows.csv", *COLUMNS, "--prompt", "Sort it.", "--target", model)
    plain, quiet, as_json = (invoke(*asked, *how) for how in ((), ("--quiet",), ("--json",)))
    assert (plain.exit_code, quiet.exit_code, as_json.exit_code) == (0, 0, 0), plain.output
    told = events(as_json)[-1]
    score, n = told["score"], told["n"]
    assert told["event"] == "score" and told["low"] < score < told["high"]
    assert (told["split"], told["metric"], n) == ("test", "accuracy", 18)
    assert re.fullmatch(r"[\d.]+\n", quiet.stdout)
    assert float(quiet.stdout) == pytest.approx(score, abs=1e-6)
    assert f"accuracy on test: {score:.3f} [" in plain.stdout
    assert f"majority class: {told['trivial_score']:.3f}" in plain.stdout


def test_an_error_that_says_resume_says_with_which_command(tmp_path: Path, model: Path) -> None:
    write_rows(tmp_path / "rows.csv", 60)
    (tmp_path / "tired.py").write_text(TIRED)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.syspath_prepend(tmp_path)
        models = ("--agent", model, "--target", "tired:answer")
        more = (*options(*SMALL), "--set", "target.api.attempts=1", "--run-dir", "run")
        done = invoke_app("tune", "rows.csv", *COLUMNS, *models, *more, "--quiet")
    assert (done.exit_code, done.stdout) == (2, "")
    [told] = [line for line in done.stderr.splitlines() if line.startswith("stableprompt: ")]
    assert "resume the run" in told
    assert told.endswith("; continue with: stableprompt tune --resume run")


def test_both_at_once_are_refused(invoke: Invoke) -> None:
    done = invoke("tune", "support", "--quiet", "--json")
    assert done.exit_code == 2
    assert done.stderr.startswith("stableprompt: --quiet and --json are two ways")


@pytest.mark.parametrize("how", ["--quiet", "--json"])
def test_errors_are_one_line_on_stderr(invoke: Invoke, how: str) -> None:
    done = invoke("tune", "no.csv", how)
    assert (done.exit_code, done.stdout) == (2, "")
    assert re.fullmatch(r"stableprompt: no such file: no.csv; .*\n", done.stderr)


@pytest.mark.parametrize("how", ["--quiet", "--json"])
def test_interrupted_it_says_how_to_go_on_on_stderr(
    invoke: Invoke, model: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    def interrupted(*given: object) -> None:
        raise KeyboardInterrupt

    Path("talking.py").write_text(TALKING)
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.setattr(build, "load_models", interrupted)
    done = invoke(*tune(model, how))
    assert done.exit_code == 130
    assert done.stderr == "interrupted\n"
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] in ([], ["phase"])


def test_what_programs_read_comes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    Quiet().finish(RESULT)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("Better\n", f"runs/x: {verdict(RESULT)}\n")
    with Json().telling(Path("run"), dict) as observer:  # type: ignore[arg-type]
        sys.stdout.write("anything else\n")
        observer.on_note("n\x1b")
        assert not observer.stop_asked()
    said = capsys.readouterr()
    assert (said.out, said.err) == ('{"event": "note", "note": "n\\u001b"}\n', "anything else\n")


# --- estimates ---


@pytest.mark.parametrize("command", [["estimate"], ["tune", "--dry-run"]])
def test_an_estimate_says_on_stderr_what_takes_so_long(
    invoke: Invoke, model: Path, command: list[str]
) -> None:
    models = ("--agent", model, "--target", model)
    asked = [*command, "rows.csv", *COLUMNS, *models, *options(*SMALL)]
    plain = invoke(*asked)
    assert plain.exit_code == 0, plain.output
    first, *rest = plain.stderr.splitlines()
    assert first.startswith("estimating: ")
    assert rest == ["loading models ...", "trying one step ..."]
    assert "loading models" not in plain.stdout
    assert "Estimate" in plain.stdout
    quiet = invoke(*asked, "--quiet")
    assert quiet.stderr == ""
    assert quiet.stdout.startswith("Estimate")
    *_, found = events(invoke(*asked, "--json"))
    assert found["event"] == "estimate"
    assert found["calls"] == sum(phase["calls"] for phase in found["phases"].values()) > 0


# --- traces ---


@pytest.mark.parametrize("arguments", [["-v", "tasks", "no"], ["tasks", "no", "--verbose"]])
def test_the_trace_of_an_error_is_shown_where_it_is_asked_for(arguments: list[str]) -> None:
    done = invoke_app(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    first, second, *_, last = done.stderr.splitlines()
    assert first.startswith("stableprompt: no file and no task 'no'")
    assert second == "Traceback (most recent call last):"
    assert last.startswith("stableprompt.errors.DataError: ")
    assert len(invoke_app("tasks", "no").stderr.splitlines()) == 1


def test_a_trace_steers_nothing() -> None:
    done = invoke_app("tasks", "no\x1b[2J\u202e", "-v")
    assert "Traceback" in done.stderr
    assert not STEERS.search(done.stderr)


@pytest.mark.parametrize("command", ["tune", "estimate", "write", "evaluate", "report", "watch",
                                     "export", "compare", "tasks", "doctor"])  # fmt: skip
def test_every_command_takes_it(command: str) -> None:
    shown = invoke_app(command, "--help").stdout
    assert "--verbose" in shown
    assert "-v" in shown


BUG = """
import sys
from stableprompt.cli import main, task_list

def broken(*given):
    raise {error}

task_list.print_list = broken
sys.argv = ["stableprompt", "tasks", *sys.argv[1:]]
main()
"""


def test_what_nobody_foresaw_is_one_line_that_says_so() -> None:
    def run(error: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", BUG.format(error=error), *more]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    plain = run("RuntimeError('odd \\x1b[2J\\nthing')")
    assert (plain.returncode, plain.stdout) == (1, "")
    [line] = plain.stderr.splitlines()
    assert line.startswith("stableprompt: unexpected RuntimeError: odd \\u001b[2J thing (-v shows")
    verbose = run("RuntimeError('odd')", "-v")
    assert verbose.returncode == 1
    assert verbose.stderr.startswith("Traceback (most recent call last):")
    assert verbose.stderr.splitlines()[-1].startswith("stableprompt: unexpected RuntimeError: odd")
    assert run("KeyboardInterrupt").returncode == 130
    assert run("__import__('typer').Exit(7)").returncode == 7
    pipe = run("BrokenPipeError(32, 'gone')")
    assert (pipe.returncode, pipe.stderr) == (1, "")
