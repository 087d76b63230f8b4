"""Checkpoints: weights as safetensors, everything else as JSON, written in one piece."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a run between two steps."""

    next_step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    """Everything that is not a tensor; plain JSON values."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> None:
    """Write a checkpoint, then delete all but the last ``keep``.

    It is written under another name and renamed, so that a kill leaves no half checkpoint under
    a name that would be read.
    """
    final = folder / f"step-{checkpoint.next_step:06d}"
    scratch = folder / f".{final.name}.part"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    save_file(checkpoint.tensors, scratch / "tensors.safetensors")
    _write(scratch / "state.json", {"next_step": checkpoint.next_step, **checkpoint.state})
    for file in scratch.iterdir():
        _sync(file)
    _sync(scratch)
    shutil.rmtree(final, ignore_errors=True)
    scratch.rename(final)
    _sync(folder)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)


def load_last_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint, or None where there is none yet."""
    folders = sorted(folder.glob("step-*"))
    if not folders:
        return None
    state = json.loads((folders[-1] / "state.json").read_text(encoding="utf-8"))
    tensors = load_file(folders[-1] / "tensors.safetensors")
    return Checkpoint(state.pop("next_step"), tensors, state)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
