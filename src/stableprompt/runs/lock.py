"""One process at a time in a folder.

The operating system holds the lock, so that of a process that died is free. Who has it stands in
a file beside the lock: the lock itself cannot be read for it in every version of filelock.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from stableprompt.errors import RunError

LOCK: Final = ".run.lock"
HOLDER: Final = ".run.holder"


@contextmanager
def alone(path: Path, what: str, *, lock: str = LOCK, holder: str = HOLDER) -> Iterator[None]:
    """Keep other processes out while the block runs.

    Args:
        path: The folder in which the lock is; made where there is none.
        what: What is kept to one process, for the message.
        lock: Name of the lock's file.
        holder: Name of the file that says who has it.

    Raises:
        RunError: another process is at it, or the folder cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        held = FileLock(path / lock)
        held.acquire(timeout=0)
    except Timeout as error:
        raise RunError(
            f"{_told(path / holder)} is at {what}; wait for it, or choose another folder"
        ) from error
    except OSError as error:
        raise RunError(
            f"the folder of {what} cannot be made or locked ({error.strerror}); make it writable, "
            "or choose another one"
        ) from error
    try:
        _say(path / holder)
        yield
    finally:
        _forget(path / holder)
        held.release()


def _say(path: Path) -> None:
    """Leave a note for others; a disk that has no room for it will stop the run soon enough."""
    try:
        path.write_text(f"{os.getpid()} {platform.node()}\n", encoding="utf-8")
    except OSError:
        _forget(path)


def _forget(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # a folder that is gone or read-only: the lock decides, this is only a note
        return


def _told(path: Path) -> str:
    """Who has the lock, in words."""
    try:
        number, _, node = path.read_text(encoding="utf-8").strip().partition(" ")
    except (OSError, ValueError):
        return "another process"
    where = f" on {node}" if node and node != platform.node() else ""
    return f"process {number}{where}" if number else "another process"
