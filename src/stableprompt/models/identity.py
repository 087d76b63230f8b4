"""Which weights a name stands for just now, found without reading all of them."""

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from stableprompt.models import embedded
from stableprompt.models.loading import resolve_name

_PIECE: Final = 1 << 16
_PIECES: Final = 16
_NO_WEIGHTS: Final = {".md", ".lock"}


def identity_of(name: str) -> str:
    """What a model is: a package's version, a fingerprint of a folder, or a commit of the hub.

    Args:
        name: Embedded name, local folder, or hub id. It is not loaded, and nobody is asked.
    """
    if name == embedded.EMBEDDED_NAME:
        return f"{embedded.converted_dir().name} {_version(embedded.PACKAGE)}"
    source = resolve_name(name)
    return fingerprint(Path(source)) if Path(source).is_dir() else _commit(source)


def fingerprint(folder: Path) -> str:
    """Names and sizes of a folder's files, and 16 pieces of 64 KiB of each, as half a SHA-256.

    Not the times: a copy is the same model. Smaller files are read whole.
    """
    found = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name.startswith(".") or path.suffix in _NO_WEIGHTS:
            continue
        size = path.stat().st_size
        found.update(f"{path.name}\0{size}\0".encode("utf-8", "surrogateescape"))
        with path.open("rb") as file:
            last = max(0, size - _PIECE)
            # From the first to the last one, evenly; those of a small file are all it has.
            for start in sorted({last * i // (_PIECES - 1) for i in range(_PIECES)}):
                file.seek(start)
                found.update(file.read(_PIECE))
    return found.hexdigest()[:32]


def _commit(hub_id: str) -> str:
    """The commit of what the cache of the hub has of a model."""
    try:
        path = try_to_load_from_cache(hub_id, "config.json")
    except HFValidationError:  # no hub id: loading it says so, in better words
        return "unknown"
    return f"commit {Path(path).parent.name}" if isinstance(path, str) else "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of another machine"  # only what was converted is here
