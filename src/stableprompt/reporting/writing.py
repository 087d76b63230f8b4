"""A page put where it belongs: in one piece, and over nothing of the user's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from stableprompt.errors import RunError
from stableprompt.reporting.page import GENERATOR, page
from stableprompt.reporting.reading import read_run
from stableprompt.runs.folder import RunFolder

REPORT: Final = "report.html"

# The generator's name stands within the first characters of every page.
_HEAD: Final = 4_000


def write_report(folders: Sequence[Path], out: Path) -> None:
    """Write the page of these run folders.

    Args:
        folders: One run, or several side by side.
        out: The file; a page that was written earlier is replaced.

    Raises:
        RunError: a folder is none of a run, or the file is another one's or cannot be written.
    """
    html = page([read_run(folder) for folder in folders])
    try:
        _require_own(out)
        if not out.parent.is_dir():
            raise RunError(f"there is no folder {out.parent}; name another file with --out")
        place = RunFolder(out.parent)
        place.write_text(out.name, html)
    except OSError as error:
        raise RunError(
            f"{out} cannot be written ({error.strerror}); name another file with --out"
        ) from error


def _require_own(out: Path) -> None:
    """Check that the file is free, or a page that was made here.

    Raises:
        RunError: it is something else.
        OSError: it cannot be read.
    """
    if not out.exists():
        return
    if out.is_file():
        with out.open(encoding="utf-8", errors="replace") as file:
            if f'content="{GENERATOR}' in file.read(_HEAD):
                return
    raise RunError(f"{out} is there already and is no report; name another file with --out")


def leave_report(folder: Path) -> str | None:
    """Write a run's page into its folder at the end of the run.

    Whatever goes wrong, the result stands: it is written already.

    Returns:
        What went wrong, in one line; None where nothing did.
    """
    try:
        write_report([folder], folder / REPORT)
    except Exception as error:
        # Named, not raised: nothing about a page is worth a finished run.
        return f"{REPORT} was not written ({type(error).__name__}: {error}); the result stands"
    return None
