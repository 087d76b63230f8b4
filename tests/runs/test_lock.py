"""One process at a time in a folder, whatever became of the one before."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from stableprompt.errors import RunError
from stableprompt.runs.lock import HOLDER, LOCK, alone

HOLDING = """
import sys, pathlib
from stableprompt.runs.lock import alone
with alone(pathlib.Path(sys.argv[1]), "the run"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that has the lock of the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_process_that_holds_it_is_named(
    tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    with (
        pytest.raises(RunError, match=f"^process {holder.pid} is at the run; wait for it"),
        alone(tmp_path, "the run"),
    ):
        pass
    # That one was refused takes nothing from the other.
    assert (tmp_path / HOLDER).read_text().startswith(f"{holder.pid} ")


def test_the_lock_of_a_dead_process_is_no_obstacle(
    tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / HOLDER).exists()  # its note is still there
    with alone(tmp_path, "the run"):
        assert (tmp_path / HOLDER).read_text().startswith(f"{os.getpid()} ")
    assert not (tmp_path / HOLDER).exists()


def test_a_holder_on_another_machine_is_told_as_such(tmp_path: Path) -> None:
    with FileLock(tmp_path / LOCK):
        (tmp_path / HOLDER).write_text("12 elsewhere\n")
        with (
            pytest.raises(RunError, match=r"^process 12 on elsewhere is at the run"),
            alone(tmp_path, "the run"),
        ):
            pass


@pytest.mark.parametrize("note", [None, "", "\udce9"])
def test_without_a_note_it_is_another_process(tmp_path: Path, note: str | None) -> None:
    if note is not None:
        (tmp_path / HOLDER).write_bytes(note.encode("utf-8", "surrogateescape"))
    with (
        FileLock(tmp_path / LOCK),
        pytest.raises(RunError, match=r"^another process is at the run"),
        alone(tmp_path, "the run"),
    ):
        pass


def test_an_error_inside_sets_it_free(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), alone(tmp_path, "the run"):
        raise KeyboardInterrupt
    with alone(tmp_path, "the run"):
        pass


def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(FileLock, "acquire", denied)
    with (
        pytest.raises(
            RunError, match=r"the run cannot be made or locked \(Read-only file system\); "
        ),
        alone(tmp_path, "the run"),
    ):
        pass


def test_a_folder_that_vanishes_meanwhile_hides_no_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), alone(tmp_path / "run", "the run"):
        for path in (tmp_path / "run").iterdir():
            path.unlink()
        (tmp_path / "run").rmdir()
        raise ZeroDivisionError
