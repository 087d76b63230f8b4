"""The run folder: what is never touched, what is written in one piece, what is cut back."""

import json
from pathlib import Path
from typing import Any

import pytest

from stableprompt.errors import RunError
from stableprompt.runs.folder import CONFIG, PAIRS, PROMPTS, RESULT, STEPS, TASK, RunFolder

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


def test_lengths_are_in_bytes_and_0_where_there_is_no_file(folder: RunFolder) -> None:
    assert folder.lengths() == {STEPS: 0, PROMPTS: 0, PAIRS: 0}
    folder.append(PROMPTS, [{"a": "ö"}])
    folder.append(PAIRS, [{"b": 1}])
    wanted = {STEPS: 0, PROMPTS: len('{"a": "ö"}\n'.encode()), PAIRS: len('{"b": 1}\n')}
    assert folder.lengths() == wanted


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
    lengths = folder.lengths()
    folder.append(STEPS, [{"b": 1}])
    folder.append(PROMPTS, [{"c": 1}])
    folder.cut_back(lengths)
    assert (folder.path / STEPS).read_text(encoding="utf-8") == '{"a": "ö"}\n'
    assert (folder.path / PROMPTS).read_text() == ""
    folder.append(STEPS, [{"d": 1}])
    assert (folder.path / STEPS).read_text(encoding="utf-8") == '{"a": "ö"}\n{"d": 1}\n'


def test_a_file_shorter_than_the_checkpoint_says_is_not_filled_up(folder: RunFolder) -> None:
    # Lines that are lost would otherwise come back as NUL bytes.
    folder.append(STEPS, [{"a": 1}])
    with pytest.raises(RunError, match=STEPS):
        folder.cut_back({STEPS: 100})
    assert (folder.path / STEPS).read_text() == '{"a": 1}\n'
