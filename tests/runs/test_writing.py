"""What the disk refuses is one line, and what was there before is there."""

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from stableprompt.errors import RunError
from stableprompt.runs.checkpoints import Checkpoint, load_last_checkpoint, save_checkpoint
from stableprompt.runs.folder import STEPS, RunFolder
from stableprompt.runs.writing import writing


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel refuses to make files longer than this, in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EROFS, "make it writable"),
        (errno.EACCES, "make it writable"),
        (errno.ENOENT, "put it back"),
        (errno.EIO, "see to the disk"),
    ],
)
def test_it_says_what_the_disk_says_and_what_to_do(number: int, remedy: str) -> None:
    with pytest.raises(RunError) as caught, writing(Path("run")):
        raise OSError(number, os.strerror(number))
    message = str(caught.value)
    assert message.startswith(f"run cannot be written ({os.strerror(number)}); {remedy}")
    assert message.endswith("and resume the run: what it finished before is kept")
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_other_errors_stay_what_they_are(error: BaseException) -> None:
    with pytest.raises(type(error)), writing(Path("run")):
        raise error


def write_text(folder: RunFolder) -> None:
    folder.write_text("x.json", "y" * 5000)


def append(folder: RunFolder) -> None:
    folder.append(STEPS, [{"a": "y" * 5000}])


def save(folder: RunFolder) -> None:
    tensors = {"x": torch.zeros(5000)}
    save_checkpoint(folder.checkpoints, Checkpoint(2, tensors, {}), keep=2)


@pytest.mark.parametrize("write", [write_text, append, save])
def test_a_disk_that_is_full_in_the_middle_of_a_file_leaves_what_was_there(
    tmp_path: Path, write: Callable[[RunFolder], None]
) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.write_text("x.json", "before")
    folder.append(STEPS, [{"step": 0}])
    save_checkpoint(
        folder.checkpoints, Checkpoint(1, {"x": torch.ones(3)}, {"lines": folder.marks()}), keep=2
    )
    with (
        largest_file(1000),
        pytest.raises(RunError, match=r"cannot be written \(File too large\); raise"),
    ):
        write(folder)
    assert (folder.path / "x.json").read_text() == "before"
    checkpoint = load_last_checkpoint(folder.checkpoints)
    assert checkpoint is not None
    assert checkpoint.next_step == 1
    again = RunFolder(folder.path)
    again.cut_back(checkpoint.state["lines"])
    assert again.read_lines(STEPS) == [{"step": 0}]
    write(again)  # when there is room


@pytest.mark.parametrize("write", [write_text, append, save])
def test_a_folder_that_has_vanished_is_one_line(
    tmp_path: Path, write: Callable[[RunFolder], None]
) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.path.rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=r"run/.* cannot be written .*No such file.*; put it back"):
        write(folder)
    assert not folder.path.exists()
