"""DATA: a file, or the name of a bundled task."""

from pathlib import Path

import pytest

from stableprompt.cli.data import load_task
from stableprompt.errors import DataError
from stableprompt.tasks.bundled_tasks import load_bundled
from stableprompt.tasks.task import Task
from tests.cli.conftest import write_rows


def load(data: str, *, seed_prompt: str | None = None, seed: int = 0, **columns: str) -> Task:
    text, label = columns.get("text"), columns.get("label")
    return load_task(data, text=text, label=label, seed_prompt=seed_prompt, seed=seed)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_bundled_task_is_loaded_by_its_name() -> None:
    task = load("support")
    assert task == load_bundled("support")


def test_a_bundled_task_takes_another_seed_prompt() -> None:
    task = load("support", seed_prompt="Which team?")
    assert task.seed_prompt == "Which team?"
    assert task.splits == load_bundled("support").splits


@pytest.mark.parametrize("column", ["text", "label"])
def test_a_bundled_task_has_its_own_columns(column: str) -> None:
    with pytest.raises(DataError, match="takes no --text and no --label"):
        load("support", **{column: "x"})


def test_columns_seed_prompt_and_seed_reach_a_file(place: Path) -> None:
    write_rows(place / "rows.csv", 30)
    task = load("rows.csv", text="message", label="team", seed_prompt="Which?", seed=1)
    assert (task.name, task.labels, task.seed_prompt) == ("rows", ("green", "red"), "Which?")
    other = load("rows.csv", text="message", label="team", seed=2)
    assert {e.text for e in task.test} != {e.text for e in other.test}


def test_a_file_wins_over_a_bundled_task_of_its_name(place: Path) -> None:
    (place / "support").write_text("text,label\n")
    with pytest.raises(DataError, match="extension"):
        load("support")


def test_a_folder_of_a_bundled_tasks_name_is_not_in_its_way(place: Path) -> None:
    (place / "support").mkdir()
    assert load("support") == load_bundled("support")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("suport", "did you mean support"),
        ("zebra", "there are .*support"),
        ("missing.csv", "no such file: missing.csv"),
        ("folder/missing.csv", "no such file"),
        ("folder.csv", "is a folder"),
        ("folder", "is a folder"),
        ("", "no bundled task ''"),
    ],
)
def test_what_is_neither_is_explained(place: Path, data: str, message: str) -> None:
    (place / "folder").mkdir()
    (place / "folder.csv").mkdir()
    with pytest.raises(DataError, match=message):
        load(data)
