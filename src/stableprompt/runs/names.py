"""Names from data as names of files: one folder each, in the place where it belongs."""

import hashlib
import os
import re
from pathlib import Path
from typing import Final

from stableprompt.errors import RunError

_LONGEST: Final = 80
_OTHERS: Final = re.compile(r"[^\w.=-]+")
# Windows keeps these for devices, whatever stands behind a dot.
_RESERVED: Final = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def folder_name(text: str, *, apart: str = "_") -> str:
    """A text as the name of one folder: nothing in it leads elsewhere.

    Long ones are cut, with a part of their SHA-256 behind, so that different ones stay so.

    >>> folder_name("../../x"), folder_name("ii/antonyms"), folder_name("nul.csv")
    ('_.._x', 'ii_antonyms', '_nul.csv')
    """
    # Dots at the beginning hide a file or lead upwards, - looks like an option; at the end Windows
    # drops dots.
    name = _OTHERS.sub(apart, text).lstrip(".-").rstrip(".-")
    if _RESERVED.fullmatch(name) or not name:
        name = f"_{name}"
    if len(name.encode("utf-8")) > _LONGEST:
        mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        start = name.encode("utf-8")[: _LONGEST - len(mark) - 1].decode("utf-8", "ignore")
        name = f"{start}-{mark}"
    return name


def require_no_links(folder: Path) -> None:
    """Check that a folder holds files and folders alone, to any depth.

    A run folder is written to, cut back and partly deleted when it is continued: with a link in
    one that others made, that would happen to a file of yours.

    Raises:
        RunError: there is a link in it.
    """
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if os.path.islink(os.path.join(place, name)):
                raise RunError(
                    f"{os.path.join(place, name)} is a link, and what it leads to could be "
                    "overwritten; put the file itself there, or start a new run"
                )
