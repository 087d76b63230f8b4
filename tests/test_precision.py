"""A target in 4 bits must agree with the full weights before it is used."""

from pathlib import Path
from typing import Any

import pytest

from stableprompt import precision
from stableprompt.config import TuneConfig, make_config
from stableprompt.errors import ModelError
from stableprompt.models.loading import LoadedModel, load_model
from stableprompt.models.targets.local import LocalTarget
from stableprompt.tasks.task import Task
from tests.fakes.tiny_model import save_tiny_model

ROWS = [{"text": f"text {i} of {i * 7}", "label": "ab"[i % 2]} for i in range(120)]
TASK = Task.from_records(ROWS, name="letters", seed_prompt="a or b?")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models that answer differently."""
    one, other = (tmp_path_factory.mktemp(name) for name in ("one", "other"))
    save_tiny_model(one, seed=0)
    save_tiny_model(other, seed=1)
    return one, other


def config_of(folder: Path, **target: Any) -> TuneConfig:
    given = {"model": str(folder), "quantize": "4bit", **target}
    return make_config({"dtype": "float32", "device": "cpu", "target": given})


def loaded(folder: Path) -> LocalTarget:
    return LocalTarget(load_model(str(folder), dtype="float32", device="cpu"))


def test_the_same_labels_are_reported(folders: tuple[Path, Path]) -> None:
    one, _ = folders
    found = precision.label_agreement(TASK, config_of(one), loaded(one))
    assert found == {"label_agreement": {"share": 1.0, "n": len(TASK.train)}}


def test_other_labels_are_refused_unless_they_are_not_looked_at(
    folders: tuple[Path, Path],
) -> None:
    one, other = folders
    with pytest.raises(ModelError, match=r"on \d+% of \d+ examples only, and 99 % are asked for"):
        precision.label_agreement(TASK, config_of(one), loaded(other))
    unchecked = config_of(one, check_labels=False)
    assert precision.label_agreement(TASK, unchecked, loaded(other)) == {}


def test_the_reference_is_not_in_4_bits_and_nothing_else_is_looked_at(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = folders
    asked: list[Any] = []

    def load(name: str, **options: Any) -> LoadedModel:
        asked.append(options)
        return load_model(name, **options)

    monkeypatch.setattr(precision, "load_model", load)
    assert precision.label_agreement(TASK, config_of(one, quantize="none"), loaded(one)) == {}
    assert asked == []
    precision.label_agreement(TASK, config_of(one, dtype="bfloat16"), loaded(one))
    [options] = asked
    assert (options["quantize"], options["dtype"]) == ("none", "float32")
