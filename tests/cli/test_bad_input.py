"""Bad input of ``tune`` and ``evaluate``: one line on stderr, exit code 2, nothing written.

What can be known without a model is said before torch is loaded: an import of it takes seconds.
All cases run in one process in which the import of torch fails, so that whoever tries is caught.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import COLUMNS, options, write_rows

# name: (arguments, what the line says)
CASES: dict[str, tuple[list[str], str]] = {
    "no DATA": (["tune"], "DATA is missing; give a file or a name"),
    "missing file": (["tune", "no.csv"], "no such file: no.csv"),
    "missing text column": (["tune", "rows.csv", "--text", "body"], "no column 'body', found 'mes"),
    "missing label column": (
        ["tune", "rows.csv", "--label", "topic"],
        "no column 'topic', found 'message', 'team'",
    ),
    "column not guessed": (["tune", "odd.csv"], "no text column could be guessed from 'a', 'b'"),
    "empty file": (["tune", "empty.csv"], "empty.csv: the file is empty; add examples"),
    "header only": (["tune", "header.csv"], "only a header line"),
    "one class": (["tune", "one.csv"], "only one label, 'red'"),
    "missing labels": (
        ["tune", "gaps.csv"],
        "2 rows (first: 2, 4) with no label in column 'label'",
    ),
    "too few for the splits": (["tune", "few.csv"], "each label needs at least 3 examples"),
    "not UTF-8": (["tune", "latin.csv"], "latin.csv: not UTF-8 text (byte 12 is 0xe9)"),
    "unknown extension": (["tune", "rows.xls"], "the extension .xls is not one of .csv"),
    "unknown task": (["tune", "suport"], "did you mean support?"),
    "columns of a bundled task": (["tune", "support", "--text", "x"], "takes no --text"),
    "empty seed prompt": (["tune", "support", "--seed-prompt", " "], "the seed prompt is empty"),
    "unknown setting": (
        ["tune", "support", "--set", "ppo.lr=1"],
        "setting 'ppo.lr' does not exist; ppo has learning, learning_rate, ",
    ),
    "setting without a value": (["tune", "support", "--set", "steps"], "--set 'steps' must look"),
    "setting out of range": (
        ["tune", "support", "--set", "ppo.clip_range=-1"],
        "setting 'ppo.clip_range': must be more than 0, found -1",
    ),
    "negative seed": (["tune", "support", "--seed", "-1"], "setting 'seed'"),
    "unknown method": (["tune", "support", "--method", "dpo"], "method 'dpo' is unknown; use one"),
    "unknown preset": (["tune", "support", "--preset", "big"], "preset 'big' is unknown; use one"),
    "missing settings file": (["tune", "support", "--config", "no.toml"], "no.toml cannot be read"),
    "settings file that does not parse": (
        ["tune", "support", "--config", "bad.toml"],
        "settings file bad.toml does not parse",
    ),
    "settings file of an unknown kind": (
        ["tune", "support", "--config", "rows.csv"],
        "must end in .toml, .yaml, .yml or .json",
    ),
    "resume with data": (["tune", "support", "--resume", "run"], "give it alone"),
    "resume with steps": (["tune", "--resume", "run", "--steps", "9"], "give it alone"),
    "resume with set": (["tune", "--resume", "run", "--set", "seed=1"], "give it alone"),
    "resume with config": (["tune", "--resume", "run", "--config", "x.toml"], "give it alone"),
    "resume with run-dir": (["tune", "--resume", "run", "--run-dir", "other"], "give it alone"),
    "resume with preset": (["tune", "--resume", "run", "--preset", "paper"], "give it alone"),
    "resume with text": (["tune", "--resume", "run", "--text", "x"], "give it alone"),
    "resume with seed-prompt": (["tune", "--resume", "run", "--seed-prompt", "x"], "give it alone"),
    "resume of no run folder": (["tune", "--resume", "full"], "full is not a run folder"),
    "resume of no folder": (["tune", "--resume", "nowhere"], "nowhere is not a run folder"),
    "resume of a finished run": (["tune", "--resume", "done"], "the run in done is finished"),
    "occupied run folder": (
        ["tune", "support", "--run-dir", "full"],
        "run folder full is not empty and is never overwritten",
    ),
    "run folder that is a file": (
        ["tune", "support", "--run-dir", "rows.csv"],
        "run folder rows.csv is a file",
    ),
    "too few for a step": (
        ["tune", "rows.csv", *COLUMNS, *options("reward.examples_per_step=40")],
        "the train split has 24 examples, a step needs 4",
    ),
    "input format without the text": (
        ["tune", "support", "--set", "target.input_format=nothing"],
        "must contain {text} exactly once",
    ),
    "evaluate nothing": (["evaluate", "support"], "give either --prompt TEXT or --run RUN_DIR"),
    "evaluate both": (
        ["evaluate", "support", "--prompt", "x", "--run", "done"],
        "give either --prompt TEXT or --run RUN_DIR",
    ),
    "evaluate an empty prompt": (["evaluate", "support", "--prompt", " "], "the prompt is empty"),
    "evaluate a missing file": (["evaluate", "no.csv", "--prompt", "x"], "no such file: no.csv"),
    "evaluate with an unknown setting": (
        ["evaluate", "support", "--prompt", "x", "--set", "size=1"],
        "setting 'size' does not exist",
    ),
    "evaluate label words without a word": (
        ["evaluate", "support", "--prompt", "x", "--label-words", "billing"],
        "--label-words 'billing' must look like 0=no",
    ),
    "tune with a word for one label": (
        ["tune", "rows.csv", *COLUMNS, "--label-words", "red=stop"],
        "label_words must name each label once: found words for 'red', but the labels in",
    ),
    "resume with label words": (
        ["tune", "--resume", "run", "--label-words", "red=stop"],
        "give it alone",
    ),
    "evaluate no run folder": (
        ["evaluate", "support", "--run", "full"],
        "full is not a run folder",
    ),
    "evaluate an unfinished run": (["evaluate", "support", "--run", "run"], "result.json"),
}

RUNNER = """
import json, os, sys
sys.modules["torch"] = None
from typer.testing import CliRunner
from stableprompt.cli import app
answers = {}
for name, arguments in json.load(sys.stdin).items():
    before = sorted(os.listdir())
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "80"})
    answers[name] = {
        "code": done.exit_code, "out": done.stdout, "err": done.stderr,
        "torch": isinstance(done.exception, ImportError), "raised": repr(done.exception),
        "written": [file for file in sorted(os.listdir()) if file not in before],
    }
print(json.dumps(answers))
"""


def write_files(folder: Path) -> None:
    write_rows(folder / "rows.csv", 60)
    rows = [f"thing {i}" for i in range(9)]
    files = {
        "rows.xls": "text,label\na,b\n",
        "odd.csv": "a,b\n1,2\n",
        "empty.csv": "",
        "header.csv": "text,label\n",
        "one.csv": "text,label\n" + "".join(f"{row},red\n" for row in rows),
        "gaps.csv": "text,label\na,red\nb,\nc,green\nd, \n",
        "few.csv": "text,label\na,red\nb,green\nc,red\n",
        "bad.toml": "steps = = 3\nmore",
        "full/thesis.txt": "years of work",
        "run/config.json": "{}",
        "run/task.json": "{}",
        "done/config.json": "{}",
        "done/task.json": "{}",
        "done/result.json": "{}",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    (folder / "latin.csv").write_bytes(b"text,label\nc\xe9,red\n")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("bad_input")
    write_files(folder)
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps({name: arguments for name, (arguments, _) in CASES.items()}),
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
    )
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_and_exit_code_2(
    answers: dict[str, dict[str, Any]], name: str
) -> None:
    answer, (_, expected) = answers[name], CASES[name]
    assert not answer["torch"], "torch was imported first"
    assert answer["code"] == 2, answer["raised"]
    assert re.fullmatch(r"stableprompt: [^\n]+\n", answer["err"])
    assert expected in answer["err"]
    assert answer["written"] == []


@pytest.mark.parametrize(
    "name", [name for name, (_, says) in CASES.items() if "setting" in name or "give" in says]
)
def test_bad_settings_are_all_that_is_said(answers: dict[str, dict[str, Any]], name: str) -> None:
    assert answers[name]["out"] == ""


def test_a_real_process_says_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stableprompt", "tune", "no.csv"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"stableprompt: no such file: no\.csv; [^\n]+\n", done.stderr)
