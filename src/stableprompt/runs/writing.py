"""Writing so that nothing is half there, and so that a disk that refuses is told in one line."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from stableprompt.errors import RunError

_REMEDIES: Final = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "raise the limit on the size of files",
    errno.EROFS: "make it writable",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.ENOENT: "put it back where it was",
}


@contextmanager
def writing(path: Path, *others: type[Exception]) -> Iterator[None]:
    """Tell what the disk refuses in a block as an error of the run.

    Args:
        path: What is written to, for the message.
        *others: What libraries raise instead of an ``OSError``.

    Raises:
        RunError: it could not be written.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, (OSError, *others)):
            raise
        number = error.errno if isinstance(error, OSError) else _number(str(error))
        why = os.strerror(number) if number else error
        remedy = _REMEDIES.get(number or 0, "see to the disk")
        raise RunError(
            f"{path} cannot be written ({why}); {remedy} and resume the run: what it "
            "finished before is kept"
        ) from error


def _number(message: str) -> int | None:
    """The system's own number in a library's message, such as "I/O error: ... (os error 28)"."""
    found = re.search(r"\(os error (\d+)\)", message)
    return int(found[1]) if found else None


def write_whole(path: Path, text: str) -> None:
    """Write a text file in one piece: whoever reads it sees the old one or the new one.

    Raises:
        RunError: it could not be written; the old one is there.
    """
    scratch = path.with_name(f".{path.name}.part")
    with writing(path):
        scratch.unlink(missing_ok=True)  # of a kill; or a link that someone left there
        with scratch.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
        sync(path.parent)  # the new name, too


def sync(path: Path) -> None:
    """Have a file or folder on the disk before what comes next."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
