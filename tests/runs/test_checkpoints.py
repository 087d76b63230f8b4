"""Checkpoints: what comes back, what is deleted, what is ignored."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from stableprompt.runs import checkpoints
from stableprompt.runs.checkpoints import Checkpoint, load_last_checkpoint, save_checkpoint

TENSORS = {
    "policy/a": torch.tensor([[1.5, -2.25], [0.1, 3.0]], dtype=torch.float32),
    "policy/b": torch.tensor([1 / 3, float("nan"), float("inf")], dtype=torch.bfloat16),
    "policy/c": torch.tensor([1e-7], dtype=torch.float16),
    "optimizer/0/step": torch.tensor(7.0),
    "optimizer/0/count": torch.tensor([3, -4], dtype=torch.int64),
    "value/x": torch.tensor([0.1], dtype=torch.float64),
    "mask": torch.tensor([True, False]),
}
STATE = {"pool": {"gains": {"Größe 答え": [0.1, 1 / 3]}}, "none": None, "list": [1, [2.5]]}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def save(folder: Path, step: int, *, keep: int = 2, **state: Any) -> None:
    save_checkpoint(folder, Checkpoint(step, {"x": torch.tensor([step])}, state), keep=keep)


def test_everything_comes_back_with_its_type(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Checkpoint(3, TENSORS, STATE), keep=2)
    loaded = load_last_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.next_step == 3
    assert loaded.state == STATE  # the step is not in it
    assert loaded.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        found = loaded.tensors[name]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found.nan_to_num(), tensor.nan_to_num())


def test_before_the_first_there_is_none(tmp_path: Path) -> None:
    assert load_last_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (1, ["step-000004"]),
        (2, ["step-000003", "step-000004"]),
        (9, ["step-000001", "step-000002", "step-000003", "step-000004"]),
    ],
)
def test_older_ones_are_deleted(tmp_path: Path, keep: int, left: list[str]) -> None:
    for step in range(1, 5):
        save(tmp_path, step, keep=keep)
    assert names(tmp_path) == left


def test_the_highest_step_is_loaded_not_the_latest_written(tmp_path: Path) -> None:
    for step in (10, 100, 9):  # as text, "9" would come last
        save(tmp_path, step, keep=5)
    loaded = load_last_checkpoint(tmp_path)
    assert loaded is not None
    assert (loaded.next_step, loaded.tensors["x"].item()) == (100, 100)


def test_a_half_written_checkpoint_is_ignored_and_then_replaced(tmp_path: Path) -> None:
    save(tmp_path, 1)
    part = tmp_path / ".step-000002.part"
    part.mkdir()
    (part / "tensors.safetensors").write_bytes(b"half")
    (part / "rest").write_text("of something older")
    loaded = load_last_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.next_step == 1
    save(tmp_path, 2)
    assert names(tmp_path) == ["step-000001", "step-000002"]
    assert names(tmp_path / "step-000002") == ["state.json", "tensors.safetensors"]


def test_a_kill_before_the_end_of_writing_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)

    def killed(path: Path, content: object) -> None:
        path.write_text('{"next_st')
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 2)
    loaded = load_last_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.next_step == 1
    save(tmp_path, 2)
    assert names(tmp_path) == ["step-000001", "step-000002"]


def test_a_step_saved_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    save(tmp_path, 1, word="old")
    save(tmp_path, 1, word="new")
    loaded = load_last_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.state == {"word": "new"}
    assert names(tmp_path) == ["step-000001"]


def test_figures_that_are_no_json_are_refused_and_the_checkpoint_before_stays(
    tmp_path: Path,
) -> None:
    save(tmp_path, 1)
    with pytest.raises(ValueError, match="JSON compliant"):
        save(tmp_path, 2, gain=float("nan"))
    loaded = load_last_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.next_step == 1


def test_nothing_is_pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def used(*_: object, **__: object) -> None:
        raise AssertionError("pickle was used")

    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, used)
    monkeypatch.setattr(torch, "load", used)
    monkeypatch.setattr(torch, "save", used)
    save_checkpoint(tmp_path, Checkpoint(1, TENSORS, STATE), keep=2)
    assert load_last_checkpoint(tmp_path) is not None
    [folder] = tmp_path.iterdir()
    assert names(folder) == ["state.json", "tensors.safetensors"]
    assert json.loads((folder / "state.json").read_text(encoding="utf-8"))["next_step"] == 1
    with safe_open(folder / "tensors.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(TENSORS)
