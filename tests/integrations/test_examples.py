"""The examples run, with a tiny agent; those of a package that is absent are skipped."""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.tiny_model import save_tiny_model

EXAMPLES = Path(__file__).parents[2] / "examples"
Load = Callable[[str], Any]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """An example as a module, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def load(name: str) -> Any:
        for own in ("stand_in", name):
            sys.modules.pop(own, None)
        return import_module(name)

    return load


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("agent") / "tiny"))


def test_every_example_is_listed_and_run_here() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")} - {"stand_in.py"}
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    here = Path(__file__).read_text(encoding="utf-8")
    for name in names:
        assert f"`{name}`" in listed
        assert f'load("{name.removesuffix(".py")}")' in here


def test_sklearn_classifier(load: Load, agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    load("sklearn_classifier").main(agent)
    told = capsys.readouterr().out
    assert "on other messages: " in told
    assert float(told.rsplit(": ", 1)[1]) > 0.35  # "Which team?" asks: else 0.25


def test_dspy_optimizer(load: Load, agent: str, tmp_path: Path) -> None:
    pytest.importorskip("dspy", reason="dspy is not installed: the extra dspy")
    compiled = load("dspy_optimizer").main(agent)
    [result] = (tmp_path / "runs").glob("*/result.json")
    found = json.loads(result.read_text(encoding="utf-8"))
    assert compiled.signature.instructions == found["prompt"]
    assert found["test"]["score"] > 0.35  # 0.25 where it only says "account"


def test_gepa_adapter(load: Load) -> None:
    pytest.importorskip("gepa", reason="gepa is not installed: the extra gepa")
    assert load("gepa_adapter").main() == "Which team should answer this message?"


def test_tracked_run(load: Load, agent: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    load("tracked_run").main(agent, tmp_path / "run")
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
