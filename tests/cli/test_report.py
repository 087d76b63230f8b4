"""``stableprompt report``, and the page that every run leaves behind."""

import json
import shlex
from pathlib import Path

import pytest

from stableprompt.cli.settings_file import read_settings
from stableprompt.config import make_config
from stableprompt.reporting import writing
from stableprompt.reporting.reading import read_run
from stableprompt.reporting.settings import command_of
from stableprompt.runs.folder import CONFIG, PROMPTS, RESULT, STEPS, TASK, TEST
from tests.cli.conftest import COLUMNS, SMALL, Invoke, assert_fits, invoke_app, options
from tests.cli.test_listing import run_without_torch
from tests.reporting import folders


def test_it_needs_no_torch(tmp_path: Path) -> None:
    run = folders.finished(tmp_path / "run")
    for arguments, said in (
        (["report", "--help"], "RUN_DIR"),
        (["watch", "--help"], "RUN_DIR"),
        (["report", str(run)], f"report: {run / 'report.html'}"),
    ):
        done = run_without_torch(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert said in done.stdout
    assert "<!doctype html>" in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["report", "watch"])
def test_help_fits(command: str) -> None:
    assert_fits(invoke_app(command, "--help").stdout)


def test_several_runs_go_into_the_folder_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [folders.finished(tmp_path / name) for name in ("a", "b")]
    monkeypatch.chdir(tmp_path)
    done = invoke_app("report", *runs)
    assert (done.exit_code, done.stdout) == (0, "report: report.html\n")
    assert "2 runs" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert invoke_app("report", *runs).exit_code == 0  # its own page is replaced


def test_a_file_of_the_users_is_never_replaced(tmp_path: Path) -> None:
    run = folders.finished(tmp_path / "run")
    own = tmp_path / "own.html"
    own.write_text("mine", encoding="utf-8")
    done = invoke_app("report", run, "--out", own)
    assert done.exit_code == 2
    assert "is no report; name another file with --out" in done.stderr
    assert own.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("out", ["absent/report.html", "run"])
def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path, out: str) -> None:
    done = invoke_app("report", folders.finished(tmp_path / "run"), "--out", tmp_path / out)
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert "--out" in done.stderr


def test_what_is_no_run_folder_is_one_line(tmp_path: Path) -> None:
    for command in ("report", "watch"):
        done = invoke_app(command, tmp_path)
        assert done.exit_code == 2
        assert "is not a run folder" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def tune(invoke: Invoke, model: Path) -> str:
    models = ("--agent", model, "--target", model, "--run-dir", "r")
    done = invoke("tune", "rows.csv", *COLUMNS, *models, *options(*SMALL))
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_a_run_leaves_its_page_behind(invoke: Invoke, model: Path) -> None:
    tune(invoke, model)
    html = Path("r/report.html").read_text(encoding="utf-8")
    assert "Course of the run" in html
    assert "unfinished" not in html.split("<main")[1].split("<section")[1]


def test_the_command_on_the_page_makes_the_same_run_again(invoke: Invoke, model: Path) -> None:
    models = ("--agent", model, "--target", model, "--run-dir", "r")
    given = ("--limit", "test=6", "--seed-prompt", "Which?", "--metric", "macro_f1")
    assert invoke("tune", "rows.csv", *COLUMNS, *models, *given, *options(*SMALL)).exit_code == 0
    program, *command = shlex.split(str(command_of(read_run(Path("r")))))
    done = invoke(*command, "--run-dir", "again")
    assert (program, done.exit_code) == ("stableprompt", 0), done.stderr
    for name in (CONFIG, TASK, PROMPTS, TEST, RESULT):
        assert Path("again", name).read_bytes() == Path("r", name).read_bytes()


def test_every_key_that_a_run_writes_is_defined(invoke: Invoke, model: Path) -> None:
    tune(invoke, model)
    defined = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    lines = [Path("r", name).read_text(encoding="utf-8").split("\n") for name in (STEPS, PROMPTS)]
    rows = [json.loads(line) for part in lines for line in part if line]
    result = json.loads(Path("r", RESULT).read_text(encoding="utf-8"))
    inner = ("update", "anchor", "monitor", "setting", "cost", "template", "layout")
    rows += [result, *(row[name] for row in (*rows, result) for name in inner if row.get(name))]
    keys = {key for row in rows for key in row} - {"candidates"}  # by its entries
    assert {key for key in keys if f"`{key}`" not in defined} == set()


def test_a_page_that_cannot_be_made_costs_no_result(
    invoke: Invoke, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(writing, "page", fail)
    said = " ".join(tune(invoke, model).split())
    assert "report.html was not written (ZeroDivisionError: a mistake); the result stands" in said
    assert Path("r", RESULT).is_file()
    assert not Path("r/report.html").exists()


def test_the_settings_of_a_run_can_be_given_again(tmp_path: Path) -> None:
    config = make_config({"steps": 7, "target": {"separator": " # "}}).model_dump(mode="json")
    run = folders.finished(tmp_path / "run", config=config)
    assert make_config(read_settings(run / "config.json")).model_dump(mode="json") == config
