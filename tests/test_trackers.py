"""A run's figures in trackers: the names of docs/metrics.md, and never a run lost to one."""

import json
import re
from pathlib import Path
from typing import Any

import accelerate.tracking
import pytest

from stableprompt import build, trackers
from stableprompt.cli.tune import with_trackers
from stableprompt.errors import ConfigError
from stableprompt.trackers import TRACKERS, Trackers, figures_of, require_trackers
from stableprompt.tuning.records import Silence
from tests.fakes.word_agent import make_task
from tests.tuning.conftest import scripted_models, tiny_config

METRICS = Path(__file__).parents[1] / "docs" / "metrics.md"


class Notes(Silence):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def on_note(self, note: str) -> None:
        self.notes.append(note)


class Fake:
    """A tracker that remembers, and fails where it is told to."""

    made: list["Fake"]
    fails: str

    def __init__(self, **options: Any) -> None:
        self.options, self.logged = options, list[tuple[dict[str, float], int]]()
        self.settings: dict[str, Any] = {}
        self.finished = 0
        self.made.append(self)

    def _act(self, name: str) -> None:
        if name == self.fails:
            raise RuntimeError(f"{name} does\nnot work")

    def start(self) -> None:
        self._act("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._act("store")
        self.settings = values

    def log(self, values: dict[str, float], step: int) -> None:
        self._act("log")
        self.logged.append((values, step))

    def finish(self) -> None:
        self.finished += 1
        self._act("finish")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    """Stands for every tracker; their packages seem to be installed."""
    one = type("One", (Fake,), {"made": [], "fails": ""})
    for name in TRACKERS:
        monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, name, one)
    monkeypatch.setattr(trackers, "find_spec", lambda name: object())
    return one


def run(
    folder: Path, names: list[str], monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> tuple[Any, Notes]:
    scripted_models(monkeypatch)
    notes = Notes()
    with Trackers(names, folder, notes) as told:
        result = build.start_run(make_task(), tiny_config(steps=2, **settings), folder, told)
        told.finish(result)
    return result, notes


def test_steps_and_result_are_told_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: type[Fake]
) -> None:
    folder = tmp_path / "run"
    result, notes = run(folder, ["wandb"], monkeypatch)
    [one] = fake.made
    assert one.options == {"run_name": "stableprompt", "name": "run"}
    assert one.settings["ppo.learning_rate"] == 1e-2
    assert one.settings["method"] == "appo"
    lines = (folder / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line) for line in lines]
    *told, (last, at) = one.logged
    assert [step for _, step in told] == [0, 1]
    for (figures, _), step in zip(told, steps, strict=True):
        assert figures["mean_reward"] == step["mean_reward"]
        assert figures["update/anchor_kl"] == step["update"]["anchor_kl"]
        assert figures["monitor/readings/gain"] == step["monitor"]["readings"]["gain"]
        assert figures["target_calls"] == step["target_calls"]
    assert told[1][0]["anchor/policy_score"] == steps[1]["anchor"]["policy_score"]
    assert at == 2
    assert last["test/score"] == result.test.score
    assert last["paired/difference"] == result.paired.difference
    assert last["cost/target_calls/training"] == result.cost["target_calls"]["training"]
    assert one.finished == 1
    assert notes.notes == []
    # No text of a prompt, no example: numbers alone.
    assert all(type(v) is float for figures, _ in one.logged for v in figures.values())


def test_the_names_are_those_of_the_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: type[Fake]
) -> None:
    run(tmp_path / "run", ["mlflow"], monkeypatch)
    known = set(re.findall(r"`([a-z_.]+)`", METRICS.read_text(encoding="utf-8")))
    told = {name for figures, _ in fake.made[0].logged for name in figures}
    inner = {part for name in told for part in name.split("/")}
    undefined = inner - known - {"readings", "score", "low", "high", "n", "difference", "p_value"}
    assert undefined == set()


def test_a_tracker_that_fails_stops_nothing_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: type[Fake]
) -> None:
    expected, _ = run(tmp_path / "without", [], monkeypatch, method="best-of-n")
    for fails in ("start", "store", "log", "finish"):
        fake.fails = fails
        result, notes = run(tmp_path / fails, ["wandb"], monkeypatch, method="best-of-n")
        assert (tmp_path / fails / "result.json").is_file()
        [note] = notes.notes
        assert note == f"the tracker wandb failed and is told nothing more: {fails} does not work"
        assert result == expected


def test_one_that_fails_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: type[Fake]
) -> None:
    broken = type("Broken", (Fake,), {"made": [], "fails": "log"})
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "mlflow", broken)
    _, notes = run(tmp_path / "run", ["mlflow", "trackio"], monkeypatch, method="best-of-n")
    assert len(notes.notes) == 1
    assert len(fake.made[0].logged) == 3


def test_a_package_that_is_missing_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    for name in TRACKERS:
        with pytest.raises(ConfigError, match=rf'pip install "stableprompt\[{name}\]"'):
            require_trackers([name])
    with pytest.raises(ConfigError, match="'wandbb' is unknown; use tensorboard, wandb"):
        require_trackers(["wandbb"])


def test_the_extras_are_there() -> None:
    import tomllib

    content = (METRICS.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    extras = tomllib.loads(content)["project"]["optional-dependencies"]
    assert set(TRACKERS) <= set(extras)


def test_numbers_in_tables_and_lists() -> None:
    content = {"a": 1, "b": {"c": None, "d": [], "e": ["x", "y"]}, "f": True, "g": "text"}
    assert figures_of(content) == {"a": 1.0, "b/e/x": 1.0, "b/e/y": 1.0, "f": 1.0}


def test_several_names_may_follow_the_option() -> None:
    given = ["support", "--report-to", "wandb", "mlflow", "--steps", "3"]
    split = ["support", "--report-to", "wandb", "--report-to", "mlflow", "--steps", "3"]
    assert with_trackers(given) == split
    assert with_trackers(["--report-to", "nonsense", "x"]) == ["--report-to", "nonsense", "x"]
    assert with_trackers(split) == split


def test_tensorboard_shows_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result, notes = run(tmp_path / "run", ["tensorboard"], monkeypatch)
    assert notes.notes == []
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert len(events.Scalars("mean_reward")) == 2
    assert events.Scalars("test/score")[0].value == pytest.approx(result.test.score)


@pytest.mark.filterwarnings("default")  # of sqlalchemy
def test_mlflow_keeps_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    pytest.importorskip("sqlalchemy", reason="the store of mlflow needs sqlalchemy")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    result, notes = run(tmp_path / "run", ["mlflow"], monkeypatch)
    assert notes.notes == []
    [kept] = mlflow.search_runs(experiment_names=["stableprompt"], output_format="list")
    assert kept.info.status == "FINISHED"
    assert kept.data.metrics["test/score"] == pytest.approx(result.test.score)
    assert kept.data.params["method"] == "appo"


def test_trackio_keeps_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="trackio is not installed")
    _, notes = run(tmp_path / "run", ["trackio"], monkeypatch)
    assert notes.notes == []
    assert list((tmp_path / "trackio").rglob("stableprompt*"))


@pytest.mark.filterwarnings("default")  # of wandb
def test_wandb_keeps_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    _, notes = run(tmp_path / "run", ["wandb"], monkeypatch)
    assert notes.notes == []
    [kept] = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    content = kept.read_bytes()
    assert b"update/anchor_kl" in content
    assert b"test/score" in content


def test_no_tracker_is_loaded_before_it_is_wanted() -> None:
    from tests.test_package import loaded_after

    loaded = loaded_after("from stableprompt import Trackers")
    assert loaded.isdisjoint({"accelerate", "torch", *TRACKERS})
