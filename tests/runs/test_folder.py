"""The run folder: what is never touched, what is written in one piece, what is cut back."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from stableprompt.errors import RunError
from stableprompt.runs.folder import (
    CONFIG,
    PAIRS,
    PROMPTS,
    RESULT,
    STEPS,
    TASK,
    RunFolder,
    default_run_dir,
)

UMLAUTS = {"prompt": "Größe nennen — 答え ✓ \u2028 end", "quote": 'a "b"\n\tc'}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run")


# --- making and opening ---


def test_a_new_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "a" / "b")
    assert folder.path == tmp_path / "a" / "b"
    assert [path.name for path in folder.path.iterdir()] == ["checkpoints"]
    assert folder.checkpoints == folder.path / "checkpoints"


def test_an_empty_folder_is_free(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    RunFolder.require_free(tmp_path / "run")
    assert RunFolder.create(tmp_path / "run").checkpoints.is_dir()


@pytest.mark.parametrize("name", ["thesis.txt", ".hidden"])
@pytest.mark.parametrize("make", [RunFolder.create, RunFolder.require_free])
def test_a_folder_that_holds_anything_is_refused_and_left_alone(
    tmp_path: Path, make: Any, name: str
) -> None:
    (tmp_path / name).write_text("years of work")
    with pytest.raises(RunError, match="is not empty and is never overwritten"):
        make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "years of work"


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(RunError, match="is a file"):
        RunFolder.create(tmp_path / "run")
    with pytest.raises(RunError, match="cannot be made"):
        RunFolder.create(tmp_path / "run" / "below")
    assert (tmp_path / "run").read_text() == "x"


def test_what_is_free_is_only_looked_at(tmp_path: Path) -> None:
    RunFolder.require_free(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("present", [[], [CONFIG], [TASK]])
def test_a_folder_without_config_and_task_is_no_run_folder(
    tmp_path: Path, present: list[str]
) -> None:
    for name in present:
        (tmp_path / name).write_text("{}")
    with pytest.raises(RunError, match="is not a run folder"):
        RunFolder.open(tmp_path)


def test_a_run_is_finished_when_its_result_is_there(folder: RunFolder) -> None:
    folder.write_json(CONFIG, {})
    folder.write_json(TASK, {})
    RunFolder.open_unfinished(folder.path)
    folder.write_json(RESULT, {})
    with pytest.raises(RunError, match="is finished"):
        RunFolder.open_unfinished(folder.path)


# --- JSON files ---


def test_json_is_readable_text_with_characters_as_they_are(folder: RunFolder) -> None:
    folder.write_json("x.json", UMLAUTS)
    content = (folder.path / "x.json").read_bytes()
    assert folder.read_json("x.json") == UMLAUTS
    assert "Größe nennen — 答え ✓".encode() in content
    assert content.endswith(b"}\n")
    assert b"\r" not in content


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_json_is_refused_and_the_old_file_stays(
    folder: RunFolder, number: float
) -> None:
    folder.write_json("x.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        folder.write_json("x.json", {"a": number})
    with pytest.raises(ValueError, match="JSON compliant"):
        folder.append(STEPS, [{"a": number}])
    assert folder.read_json("x.json") == {"a": 1}


def test_a_file_is_replaced_and_nothing_else_is_left(folder: RunFolder) -> None:
    (folder.path / ".x.json.part").write_text("half of an earlier wri")
    folder.write_json("x.json", {"a": 1})
    folder.write_json("x.json", {"b": 2})
    assert folder.read_json("x.json") == {"b": 2}
    assert {path.name for path in folder.path.iterdir()} == {"checkpoints", "x.json"}


def test_a_kill_while_writing_leaves_the_old_file(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write_json("x.json", {"a": 1})

    def killed(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.write_json("x.json", {"b": 2})
    assert folder.read_json("x.json") == {"a": 1}


@pytest.mark.parametrize("content", [None, b'{"a": ', b"\xff"])
def test_a_missing_or_damaged_file_is_named(folder: RunFolder, content: bytes | None) -> None:
    if content is not None:
        (folder.path / "x.json").write_bytes(content)
    with pytest.raises(RunError, match=r"x\.json cannot be read"):
        folder.read_json("x.json")


# --- JSON Lines files ---


def test_records_are_appended_a_line_each(folder: RunFolder) -> None:
    folder.append(STEPS, [UMLAUTS, {"step": 1}])
    folder.append(STEPS, [{"step": 2}])
    lines = (folder.path / STEPS).read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    assert [json.loads(line) for line in lines] == [UMLAUTS, {"step": 1}, {"step": 2}]


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def mark(text: str) -> dict[str, Any]:
    return {"bytes": len(text.encode()), "sha256": sha(text)}


def test_marks_are_in_bytes_with_the_sum_of_what_was_appended(folder: RunFolder) -> None:
    assert folder.marks() == {STEPS: mark(""), PROMPTS: mark(""), PAIRS: mark("")}
    folder.append(PROMPTS, [{"a": "ö"}])
    folder.append(PAIRS, [{"b": 1}])
    folder.append(PAIRS, [{"b": 2}, {"b": 3}])
    wanted = {PROMPTS: '{"a": "ö"}\n', PAIRS: '{"b": 1}\n{"b": 2}\n{"b": 3}\n'}
    assert folder.marks() == {STEPS: mark(""), **{n: mark(t) for n, t in wanted.items()}}


def test_a_folder_that_is_opened_again_counts_on_from_where_it_was_cut(folder: RunFolder) -> None:
    folder.append(STEPS, [{"a": 1}])
    marks = folder.marks()
    folder.append(STEPS, [{"lost": 1}])
    again = RunFolder(folder.path)
    again.cut_back(marks)
    again.append(STEPS, [{"b": 2}])
    assert again.marks()[STEPS] == mark('{"a": 1}\n{"b": 2}\n')


def test_lines_are_read_as_they_were_written(folder: RunFolder) -> None:
    assert folder.read_lines(PAIRS) == []
    # 0.1 as a 32-bit float: all its digits must come back.
    records = [UMLAUTS, {"answer": [0.10000000149011612, 0.0]}, {"answer": "one\r\ntwo\x85"}]
    folder.append(PAIRS, records)
    assert folder.read_lines(PAIRS) == records


@pytest.mark.parametrize("content", [b'{"a": 1}\n{"a"', b'{"a": "\xff"}\n', b"\n"])
def test_damaged_lines_are_an_error(folder: RunFolder, content: bytes) -> None:
    (folder.path / PAIRS).write_bytes(content)
    with pytest.raises(RunError, match=r"pairs\.jsonl cannot be read"):
        folder.read_lines(PAIRS)


def test_what_was_appended_after_a_checkpoint_is_cut_off(folder: RunFolder) -> None:
    folder.append(STEPS, [{"a": "ö"}])
    marks = folder.marks()
    folder.append(STEPS, [{"b": 1}])
    folder.append(PROMPTS, [{"c": 1}])
    folder.cut_back(marks)
    assert (folder.path / STEPS).read_text(encoding="utf-8") == '{"a": "ö"}\n'
    assert (folder.path / PROMPTS).read_text() == ""
    folder.append(STEPS, [{"d": 1}])
    assert (folder.path / STEPS).read_text(encoding="utf-8") == '{"a": "ö"}\n{"d": 1}\n'


def test_a_file_shorter_than_the_checkpoint_says_is_not_filled_up(folder: RunFolder) -> None:
    # Lines that are lost would otherwise come back as NUL bytes.
    folder.append(STEPS, [{"a": 1}])
    with pytest.raises(RunError, match=f"{STEPS} has 9 bytes, 100 were written"):
        folder.cut_back({STEPS: {"bytes": 100, "sha256": ""}})
    assert (folder.path / STEPS).read_text() == '{"a": 1}\n'


def test_lines_that_are_not_what_was_written_are_found_out(folder: RunFolder) -> None:
    folder.append(PAIRS, [{"answer": 0.25}])
    marks = folder.marks()
    folder.append(PAIRS, [{"answer": 0.5}])
    assert folder.lost(marks) is None
    path = folder.path / PAIRS
    path.write_bytes(path.read_bytes().replace(b"0.25", b"0.75"))
    assert folder.lost(marks) == f"{PAIRS} is not what was written"
    with pytest.raises(RunError, match="start a new run"):
        folder.cut_back(marks)
    path.unlink()
    assert folder.lost(marks) == f"{PAIRS} has 0 bytes, 17 were written"


# --- what a kill leaves behind ---


@pytest.mark.parametrize(
    "left",
    [["checkpoints/"], ["checkpoints/", ".run.lock", "task.json", ".config.json.part"]],
    ids=["made", "settings half written"],
)
def test_a_folder_in_which_nothing_was_begun_is_free(tmp_path: Path, left: list[str]) -> None:
    for name in left:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_text("{")
    RunFolder.create(tmp_path)


@pytest.mark.parametrize(
    "left",
    [
        ["task.json"],  # nobody's lock: it may be somebody's own
        ["checkpoints/", ".run.lock", "config.json"],
        ["checkpoints/", ".run.lock", "notes.txt"],
        ["checkpoints/", "checkpoints/step-000001/"],
    ],
)
def test_a_folder_in_which_something_was_begun_is_not(tmp_path: Path, left: list[str]) -> None:
    for name in left:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_text("{")
    with pytest.raises(RunError, match="is not empty"):
        RunFolder.create(tmp_path)


def test_two_runs_of_one_second_have_two_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "20260131-101500")  # a clock that stands
    names = []
    for _ in range(3):
        path = default_run_dir("a/b")
        RunFolder.create(path)
        names.append(path.name)
    assert names == [f"a-b-20260131-101500{end}" for end in ("", "-2", "-3")]
