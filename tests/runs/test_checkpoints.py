"""Checkpoints: what comes back, what is deleted, what is ignored."""

import errno
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from stableprompt.errors import RunError
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


FILES = ["manifest.json", "state.json", "tensors.safetensors"]


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
    assert names(tmp_path / "step-000002") == FILES


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


# --- damaged ---


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [flip_a_bit, cut_in_half, Path.unlink])
def test_a_damaged_one_is_set_aside_and_the_one_before_is_used(
    tmp_path: Path, name: str, damage: Any
) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, keep=3)
    damage(tmp_path / "step-000003" / name)
    told: list[str] = []
    loaded = load_last_checkpoint(tmp_path, tell=told.append)
    assert loaded is not None
    assert (loaded.next_step, loaded.tensors["x"].item()) == (2, 2)
    assert names(tmp_path) == ["damaged-step-000003", "step-000001", "step-000002"]
    [note] = told
    assert note.startswith("checkpoint step-000003 is damaged (")
    # Once it is aside nobody speaks of it again, and the step is written anew.
    assert load_last_checkpoint(tmp_path, tell=told.append) is not None
    assert len(told) == 1
    save(tmp_path, 3, keep=2)
    assert names(tmp_path) == ["damaged-step-000003", "step-000002", "step-000003"]


def test_where_none_is_whole_there_is_none(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step)
        cut_in_half(tmp_path / f"step-00000{step}" / "state.json")
    told: list[str] = []
    assert load_last_checkpoint(tmp_path, tell=told.append) is None
    assert len(told) == 3
    assert told[2] == "no checkpoint is whole: the run begins anew"
    save(tmp_path, 1, keep=2)  # and what is aside does not push the new one out
    assert "step-000001" in names(tmp_path)


def test_one_that_cannot_be_used_for_another_reason_is_stepped_back_from(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    told: list[str] = []
    loaded = load_last_checkpoint(
        tmp_path, fault=lambda c: "lines are lost" if c.next_step == 2 else None, tell=told.append
    )
    assert loaded is not None
    assert loaded.next_step == 1
    assert "lines are lost" in told[0]


def test_one_that_may_not_be_read_is_not_taken_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)

    def denied(path: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(checkpoints, "_sum", denied)
    with pytest.raises(RunError, match=r"step-000001 cannot be read \(Permission denied\)"):
        load_last_checkpoint(tmp_path)
    assert names(tmp_path) == ["step-000001"]


def test_all_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(descriptor: int) -> None:
        happened.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def noted_rename(path: Path, target: Path) -> Path:
        happened.append(f"{path.name} becomes {target.name}")
        return rename(path, target)

    monkeypatch.setattr("os.fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    save(tmp_path, 1)
    assert sorted(happened[:3]) == FILES
    assert happened[3:] == [
        ".step-000001.part",
        ".step-000001.part becomes step-000001",
        tmp_path.name,
    ]


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
    assert names(folder) == FILES
    assert json.loads((folder / "state.json").read_text(encoding="utf-8"))["next_step"] == 1
    with safe_open(folder / "tensors.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(TENSORS)
