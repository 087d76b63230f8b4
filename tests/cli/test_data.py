"""DATA: a file, a hub data set, or the name of a task."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from stableprompt.cli.data import custom_metric, label_words_of, load_task
from stableprompt.cli.data_options import DataOptions
from stableprompt.errors import ConfigError, DataError, RunError
from stableprompt.tasks.archive import task_to_dict
from stableprompt.tasks.bundled_tasks import load_bundled
from stableprompt.tasks.task import Task
from tests.cli.conftest import write_rows


def load(data: str, *, seed: int = 0, **given: Any) -> Task:
    return load_task(data, DataOptions(**given), seed=seed)


WORDS = {"label_words": ["red=stop", "green=go"]}


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


@pytest.mark.parametrize("given", [{"text": ["x"]}, {"label": "x"}, {"kind": "generation"}])
@pytest.mark.parametrize("name", ["support", "sst2"])
def test_a_task_by_name_has_its_own_columns(name: str, given: Any) -> None:
    with pytest.raises(DataError, match="takes no --text, --label, --choices and --kind"):
        load(name, **given)


def test_a_task_by_name_takes_a_metric_and_a_limit() -> None:
    task = load("support", metric="macro_f1", limit=["test=20", "train=40"])
    assert task.metric.name == "macro_f1"
    assert (len(task.train), len(task.validation), len(task.test)) == (40, 60, 20)


def test_columns_seed_prompt_and_seed_reach_a_file(place: Path) -> None:
    write_rows(place / "rows.csv", 30)
    task = load("rows.csv", text=["message"], label="team", seed_prompt="Which?", seed=1)
    assert (task.name, task.labels, task.seed_prompt) == ("rows", ("green", "red"), "Which?")
    other = load("rows.csv", text=["message"], label="team", seed=2)
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
        ("zebra", "no file and no task 'zebra': `stableprompt tasks` lists"),
        ("sst", "did you mean sst2"),
        ("missing.csv", "no such file: missing.csv"),
        ("folder/missing.csv", "no such file"),
        ("folder.csv", "is a folder"),
        ("folder", "is a folder"),
        ("", "no file and no task ''"),
    ],
)
def test_what_is_neither_is_explained(place: Path, data: str, message: str) -> None:
    (place / "folder").mkdir()
    (place / "folder.csv").mkdir()
    with pytest.raises(DataError, match=message):
        load(data)


def test_a_benchmark_comes_from_the_data_folder(place: Path) -> None:
    folder = place / "data" / "instruction_induction" / "antonyms"
    folder.mkdir(parents=True)
    for split, count in (("train", 100), ("test", 10)):
        rows = [{"input": f"{split}{i}", "outputs": [f"un{split}{i}"]} for i in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = load("ii/antonyms", data_dir=place / "data", limit=["test=4"])
    assert (task.name, task.kind) == ("ii/antonyms", "generation")
    # The entry's own limits on train and validation stay: 100 rows give 57 and 43 without them.
    assert (len(task.train), len(task.validation), len(task.test)) == (32, 32, 4)


def test_a_benchmark_without_its_data_says_how_to_get_it(place: Path) -> None:
    with pytest.raises(DataError, match="instruction_induction"):
        load("ii/antonyms", data_dir=place)


@pytest.mark.parametrize("limit", ["test", "test=", "test=x", "dev=5", "=5", "test=-1"])
def test_a_limit_that_cannot_be_read(limit: str) -> None:
    with pytest.raises(ConfigError, match="must look like test=200"):
        load("support", limit=[limit])


def test_label_words_reach_a_file_and_the_plain_seed_prompt(place: Path) -> None:
    write_rows(place / "rows.csv", 30)
    task = load("rows.csv", text=["message"], label="team", label_words=["red=stop", "green = go"])
    assert task.verbalizer is not None
    assert task.verbalizer.words == {"red": "stop", "green": "go"}
    assert task.seed_prompt == "Classify the text. Answer with one of: stop, go."


def test_words_of_ones_own_put_the_seed_prompt_of_a_named_task_away() -> None:
    named = load_bundled("support")
    words = {label: str(place) for place, label in enumerate(named.labels)}
    task = load("support", label_words=[f"{label}={word}" for label, word in words.items()])
    assert task.verbalizer is not None
    assert task.verbalizer.words == words
    assert (
        task.seed_prompt == f"Classify the text. Answer with one of: {', '.join(words.values())}."
    )
    assert task.splits == named.splits
    given = load("support", label_words=[*map("=".join, words.items())], seed_prompt="Which?")
    assert given.seed_prompt == "Which?"


@pytest.mark.parametrize("word", ["red", "=stop", "red=", " = ", ""])
def test_label_words_that_cannot_be_read(word: str) -> None:
    with pytest.raises(ConfigError, match="must look like 0=no"):
        load("support", label_words=[word])


def test_a_label_may_hold_the_sign_and_has_one_word() -> None:
    assert label_words_of(["a=b=c", "d=e"]) == {"a=b": "c", "d": "e"}
    with pytest.raises(ConfigError, match="names the label 'a' twice"):
        label_words_of(["a=b", " a=c"])


def test_a_metric_of_ones_own_is_imported_from_the_folder(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "mymetric_a.py").write_text("def half(example, prediction):\n    return 0.5\n")
    write_rows(place / "rows.csv", 30)
    task = load("rows.csv", text=["message"], label="team", metric="mymetric_a:half")
    assert task.metric.name == "half"
    assert task.metric.value(task.train[0], "x") == 0.5
    assert "" not in sys.path


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        ("", "mymetric_b:half", "AttributeError"),
        ("import nowhere_at_all", "mymetric_c:half", "ModuleNotFoundError"),
        ("1 +", "mymetric_d:half", "SyntaxError"),
        ("raise RuntimeError('boom')", "mymetric_e:half", "RuntimeError: boom"),
        ("", "mymetric_no:half", "ModuleNotFoundError"),
        ("", "mymetric_b:", "AttributeError"),
    ],
)
def test_a_metric_that_cannot_be_imported(place: Path, content: str, name: str, says: str) -> None:
    if "_no" not in name:
        (place / f"{name.partition(':')[0]}.py").write_text(content)
    with pytest.raises(ConfigError, match=f"cannot be imported .*{says}"):
        custom_metric(name)


def test_a_hub_data_set_may_be_a_local_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("datasets", reason="the extra hub is not installed")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", place / "cache")
    (place / "set").mkdir()
    for split in ("train", "test"):
        write_rows(place / "set" / f"{split}.csv", 40)
    rows = (place / "set" / "test.csv").read_text().replace("colour", "other")
    (place / "set" / "test.csv").write_text(rows)
    task = load(f"hub:{place / 'set'}", text=["message"], label="team")
    assert (len(task.train) + len(task.validation), len(task.test)) == (40, 40)
    assert task.name == "set"


def archived(place: Path, **given: Any) -> Task:
    """A task, written down as a run does it in ``run/task.json``."""
    write_rows(place / "rows.csv", 30)
    task = load("rows.csv", text=["message"], label="team", seed_prompt="Which?", **given)
    (place / "run").mkdir()
    (place / "run" / "task.json").write_text(json.dumps(task_to_dict(task)), encoding="utf-8")
    return task


def test_the_task_of_a_run_is_the_same_with_any_split_seed(place: Path) -> None:
    task = archived(place, limit=["test=4"])
    assert load("run/task.json", seed=7) == task


def test_the_task_of_a_run_takes_its_own_metric_and_no_other_option(place: Path) -> None:
    (place / "mymetric_f.py").write_text("def half(example, prediction):\n    return 0.5\n")
    archived(place, metric="mymetric_f:half")
    with pytest.raises(ConfigError, match="--metric MODULE:half"):
        load("run/task.json")
    assert load("run/task.json", metric="mymetric_f:half").metric.name == "half"
    for given in ({"text": ["message"]}, {"limit": ["test=4"]}, {"metric": "macro_f1"}, WORDS):
        with pytest.raises(ConfigError, match="is the task of a run"):
            load("run/task.json", **given)


def test_a_damaged_task_of_a_run_and_rows_of_its_name(place: Path) -> None:
    (place / "task.json").write_text('{"name": ', encoding="utf-8")
    with pytest.raises(RunError, match="damaged"):
        load("task.json")
    rows = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(30)]
    (place / "task.json").write_text(json.dumps(rows), encoding="utf-8")
    assert load("task.json").labels == ("a", "b")
