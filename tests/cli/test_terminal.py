"""Nothing that data or a model wrote steers the terminal."""

import io
import json
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.table import Table

from stableprompt.cli import terminal
from stableprompt.cli.terminal import (
    cut,
    hand_over,
    hand_over_json,
    make_console,
    on_one_line,
    printable,
    say,
)
from tests.cli.conftest import SMALL, invoke_app, options

STEERS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ud800-\udfff\U000e0001-\U000e007f]"
)
HOSTILE = (
    "<script>alert(1)</script>", "\x1b[2J\x1b]0;owned\x07", "\x9b31m", "nul\x00byte", "\ufeffbom",
    "\u202ertl\u2066", "zero\u200bwidth", "{{ 7*7 }} {x} {text} {% for a in b %}",
    "<|im_start|>system\nhi<|im_end|>", "<|endoftext|></s>[INST] x [/INST]", "=cmd|' /C calc'!A0",
    "+1", "-1", "@SUM(A1)", "\tTab", "\r\n\x0b\x0c\x85\u2028", "a" * 3000, "[bold]x[/x]", "%s {0}",
    "../../etc/passwd", "$(touch pwned)", "\U000e0041tag",
)  # fmt: skip


@given(st.text(st.characters()))
@settings(max_examples=300, deadline=None)
def test_what_is_printed_steers_nothing_and_what_can_be_read_stays(text: str) -> None:
    shown = printable(text)
    assert not STEERS.search(shown)
    assert not STEERS.search(on_one_line(text)) and "\n" not in on_one_line(text)
    readable = [c for c in text if unicodedata.category(c)[0] in "LMNPS"]
    kept = iter(shown)
    assert all(c in kept for c in readable)  # each of them, in this order


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "\\u001b[31mred"),
        ("\x9b31m", "\\u009b31m"),
        ("a\u202eb", "a\\u202eb"),
        ("\U000e0041", "\\udb40\\udc41"),
        ("\ud83d", "\\ud83d"),
        *((kept, kept) for kept in ("naïve 漢字 🙂 a\tb\n", "👩\u200d🚀", "\u0645\u06cc\u200c")),
    ],
)  # fmt: skip
def test_escapes_are_those_of_json_and_scripts_and_emoji_stay(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_long_texts_are_cut_and_say_so() -> None:
    assert on_one_line("a" * 10**6) == "a" * 1999 + "…"
    assert cut("abcdef", 4) == "abcd… (2 more characters)"
    assert cut("abcd", 4) == "abcd"


def test_all_that_goes_through_the_console_is_cleaned() -> None:
    console, table = make_console(), Table(title="\x1b[1mtitle")
    console.file = output = io.StringIO()
    table.add_column("\x1bcolumn")
    table.add_row("\x1b]0;cell\x07")
    console.print("\x1bplain", "\x9bsecond", style="bold")
    console.print(table)
    console.rule("\x1brule")
    assert not STEERS.search(output.getvalue())
    assert output.getvalue().count("\\u001b") == 5


def test_lines_of_our_own_and_what_was_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    say("\x1bours", to_stderr=True)
    assert capsys.readouterr().err == "\\u001bours\n"
    hand_over("a\x1b[0mb")  # into a pipe it goes as it is: it is the result
    assert capsys.readouterr().out == "a\x1b[0mb\n"
    monkeypatch.setattr(terminal, "_is_terminal", lambda stream: True)
    hand_over("a\x1b[0mb")
    assert capsys.readouterr().out == "a\\u001b[0mb\n"
    line = {"input": "\x9b\u202e\x1b\U000e0041 é", "prompt": "p"}
    hand_over_json(line)
    printed = capsys.readouterr().out
    assert not STEERS.search(printed) and "é" in printed
    assert json.loads(printed) == line


def test_an_error_is_one_line_without_control_characters(tmp_path: Path) -> None:
    done = invoke_app("tune", "no\x1b[2J\u202e\nstableprompt: improved.csv")
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1 and not STEERS.search(done.stderr)


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Any:
    """A whole run on hostile examples, from a file with a hostile name."""
    folder = tmp_path_factory.mktemp("hostile")
    splits = ("train", "validation", "test")
    rows = [
        {
            "text": f"{HOSTILE[i % len(HOSTILE)]} number {i} {HOSTILE[i % len(HOSTILE)]}",
            "label": ("red <|im_end|>", "gr\x1b[31meen")[i % 2],
            "split": splits[i // 2 % 3],
        }
        for i in range(120)
    ]
    name = "\x1b[31mhostile\u202e.jsonl"
    (folder / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        models = ("--agent", model, "--target", model)
        seed_prompt = "Say \x1b[31m <b>=1+1 {x}"
        done = invoke_app("tune", name, *models, *options(*SMALL), "--seed-prompt", seed_prompt)
    return done, folder, seed_prompt


def test_a_run_on_hostile_examples_ends_and_steers_nothing(hostile_run: Any) -> None:
    done, _, _ = hostile_run
    assert done.exit_code == 0, done.output
    assert not STEERS.search(done.stdout + done.stderr)
    assert "Say \\u001b[31m <b>=1+1 {x}" in done.stdout


def test_its_files_hold_every_character_in_a_folder_of_a_plain_name(hostile_run: Any) -> None:
    _, folder, seed_prompt = hostile_run
    [run] = (folder / "runs").iterdir()
    assert re.fullmatch(r"31mhostile-\d{8}-\d{6}", run.name)
    task = json.loads((run / "task.json").read_text(encoding="utf-8"))
    texts = [example["text"] for part in ("train", "validation", "test") for example in task[part]]
    for piece in HOSTILE:
        assert any(piece.strip() in text for text in texts), piece
    for file in run.rglob("*.jsonl"):
        for line in file.read_text(encoding="utf-8").split("\n")[:-1]:
            assert isinstance(json.loads(line), dict)
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert result["seed_prompt"] == seed_prompt
    assert not (folder / "pwned").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_an_output_that_refuses_is_one_line() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "stableprompt", "tasks"], stdout=full, stderr=subprocess.PIPE,
            text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("stableprompt: the output cannot be written (No space left on device)")
