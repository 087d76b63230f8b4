"""A folder is read as far as it can be; what cannot is said."""

import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from stableprompt.errors import RunError
from stableprompt.reporting.page import page
from stableprompt.reporting.reading import Run, read_run
from stableprompt.reporting.writing import write_report
from tests.reporting import folders


def test_a_finished_run_is_read_whole(tmp_path: Path) -> None:
    run = read_run(folders.finished(tmp_path / "run"))
    assert run.problems == []
    assert (run.name, len(run.steps), len(run.prompts), run.planned_steps) == ("run", 6, 3, 6)
    assert run.result is not None
    assert run.leader == folders.BEST_PROMPT


def test_an_unfinished_run_has_a_leader_and_no_result(tmp_path: Path) -> None:
    run = read_run(folders.unfinished(tmp_path))
    assert run.result is None
    assert (run.leader, run.problems) == (folders.BEST_PROMPT, [])
    assert "unfinished: 6 of 6 steps" in page([run])


def test_a_line_that_is_being_written_is_no_damage(tmp_path: Path) -> None:
    folder = folders.unfinished(tmp_path)
    with (folder / "steps.jsonl").open("ab") as file:
        file.write(b'{"step": 6, "target_ca')
    run = read_run(folder)
    assert (len(run.steps), run.problems) == (6, [])


def test_a_damaged_line_costs_only_itself(tmp_path: Path) -> None:
    folder = folders.unfinished(tmp_path)
    lines = (folder / "steps.jsonl").read_bytes().split(b"\n")
    lines[1], lines[3] = b'{"step": 1, "target_calls": "many"}', b"\xff\xfe"
    (folder / "steps.jsonl").write_bytes(b"\n".join(lines))
    run = read_run(folder)
    assert [step.step for step in run.steps] == [0, 2, 4, 5]
    [problem] = run.problems
    assert problem.startswith("steps.jsonl: line 2 and 1 more cannot be read and is left out")
    assert "target_calls" in problem
    assert "steps.jsonl: line 2" in page([run])


@pytest.mark.parametrize("name", ["config", "task", "test", "curve", "timing", "result"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"null", b'{"prompts": 1, "points": 2}', b"\xff", b"[" * 5000]
)
def test_any_damaged_file_leaves_a_page_of_the_others(
    tmp_path: Path, name: str, content: bytes
) -> None:
    folder = folders.finished(tmp_path)
    (folder / f"{name}.json").write_bytes(content)
    run = read_run(folder)
    lenient = name in ("config", "timing") and content.startswith(b'{"')  # nothing in it is needed
    assert [p.split()[0] for p in run.problems] == ([] if lenient else [f"{name}.json"])
    assert "<!doctype html>" in page([run])


@pytest.mark.parametrize("kept", ["config", "task", "steps", "result"])
def test_one_file_is_enough_for_a_page(tmp_path: Path, kept: str) -> None:
    folder = folders.finished(tmp_path)
    for file in folder.iterdir():
        if file.stem != kept:
            file.unlink()
    assert "<!doctype html>" in page([read_run(folder)])


def test_figures_that_are_no_numbers_are_damage(tmp_path: Path) -> None:
    folder = folders.unfinished(tmp_path, steps=[folders.step(0, mean_reward=float("nan"))])
    run = read_run(folder)
    assert run.steps == []
    assert len(run.problems) == 1


def test_what_is_no_run_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run folder"):
        read_run(tmp_path)
    with pytest.raises(RunError, match="is not a folder"):
        read_run(tmp_path / "absent")


@pytest.mark.parametrize("place", [".report.html.part", "report.html"])
def test_a_page_is_not_written_through_a_link(tmp_path: Path, place: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("years of work", encoding="utf-8")
    run = folders.finished(tmp_path / "run")
    (run / place).symlink_to(precious)
    with suppress(RunError):  # the page itself may be refused
        write_report([run], run / "report.html")
    assert precious.read_text(encoding="utf-8") == "years of work"


def test_a_page_holds_nothing_from_behind_a_link_and_waits_for_no_pipe(tmp_path: Path) -> None:
    run = folders.finished(tmp_path / "run")
    (run / "config.json").rename(tmp_path / "elsewhere.json")
    (run / "config.json").symlink_to(tmp_path / "elsewhere.json")
    (run / "timing.json").unlink(missing_ok=True)
    os.mkfifo(run / "timing.json")
    read: list[Run] = []
    reader = threading.Thread(target=lambda: read.append(read_run(run)), daemon=True)
    reader.start()
    reader.join(timeout=20)
    [found] = read
    assert found.config is None
    assert found.result is not None
    assert [p.split()[0] for p in found.problems] == ["config.json", "timing.json"]
