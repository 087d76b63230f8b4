"""Checkpoints: weights as safetensors, everything else as JSON, written in one piece.

A checkpoint is a folder with a manifest, which has the SHA-256 of its files. One that is not what
was written is set aside, and the one before is used.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stableprompt.errors import RunError
from stableprompt.runs.writing import sync, writing

TENSORS: Final = "tensors.safetensors"
STATE: Final = "state.json"
MANIFEST: Final = "manifest.json"
_ASIDE: Final = "damaged-"


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

    Raises:
        RunError: it could not be written; those before it are there.
    """
    final = folder / f"step-{checkpoint.next_step:06d}"
    scratch = folder / f".{final.name}.part"
    with writing(final, SafetensorError):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        save_file(checkpoint.tensors, scratch / TENSORS)
        _write(scratch / STATE, {"next_step": checkpoint.next_step, **checkpoint.state})
        sums = {name: _sum(scratch / name) for name in (TENSORS, STATE)}
        _write(scratch / MANIFEST, {"sha256": sums})
        for file in scratch.iterdir():
            sync(file)
        sync(scratch)
        shutil.rmtree(final, ignore_errors=True)
        scratch.rename(final)
        sync(folder)
    keep_last(folder, keep)


def keep_last(folder: Path, keep: int) -> None:
    """Delete all checkpoints but the last ones.

    Raises:
        RunError: one cannot be deleted.
    """
    for old in sorted(folder.glob("step-*"))[:-keep]:
        with writing(old):
            shutil.rmtree(old)


def load_last_checkpoint(
    folder: Path,
    *,
    fault: Callable[[Checkpoint], str | None] = lambda checkpoint: None,
    tell: Callable[[str], None] = lambda note: None,
) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None where there is none.

    Args:
        folder: Of all checkpoints.
        fault: Why one cannot be used, though it is whole; None: it can.
        tell: Told of each that is set aside, under another name.

    Raises:
        RunError: the folder cannot be read, or a damaged one cannot be set aside.
    """
    paths = sorted(folder.glob("step-*"), reverse=True)
    for path in paths:
        try:
            checkpoint = _read(path)
            why = fault(checkpoint)
        except _DamageError as error:
            why = str(error)
        if why is None:
            return checkpoint
        aside = path.with_name(_ASIDE + path.name)
        with writing(path):
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            sync(folder)
        tell(f"checkpoint {path.name} is damaged ({why}); it is now {aside.name} and not used")
    if paths:
        tell("no checkpoint is whole: the run begins anew")
    return None


class _DamageError(Exception):
    """A checkpoint is not what was written."""


def _read(path: Path) -> Checkpoint:
    try:
        sums = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["sha256"]
        for name in (TENSORS, STATE):
            if _sum(path / name) != sums[name]:
                raise _DamageError(f"{name} is not what was written")
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        return Checkpoint(state.pop("next_step"), load_file(path / TENSORS), state)
    except PermissionError as error:
        raise RunError(
            f"{path} cannot be read ({error.strerror}); make it readable and resume the run"
        ) from error
    except OSError as error:
        missing = Path(str(error.filename or path)).name
        raise _DamageError(f"{missing}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise _DamageError(f"it cannot be read ({type(error).__name__})") from error


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False), encoding="utf-8")
