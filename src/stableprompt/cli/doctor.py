"""``stableprompt doctor``: what works here, and the fix for what does not."""

import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import typer

from stableprompt.cli.reporting import one_line_errors
from stableprompt.version import __version__

PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors", "pydantic", "typer")
OPTIONAL = {
    "pyarrow": "pip install 'stableprompt[parquet]'",
    "pandas": "pip install pandas",
    "datasets": "pip install 'stableprompt[hub]'",
    "sacrebleu": "pip install 'stableprompt[metrics]'",
    "rouge-score": "pip install 'stableprompt[metrics]'",
}


@one_line_errors
def command() -> None:
    """Check what is installed, and which models and devices can be used."""
    typer.echo(f"stableprompt {__version__}")
    failures = 0
    for good, what, fix in _checks():
        failures += not good
        typer.echo(f"  {'ok  ' if good else 'FAIL'}  {what}" + ("" if good else f"; fix: {fix}"))
    for name, fix in OPTIONAL.items():
        found = _version(name)
        typer.echo(f"  {'ok  ' if found else 'none'}  {name} {found or f'(optional; {fix})'}")
    if failures:
        raise typer.Exit(1)


def _checks() -> Iterator[tuple[bool, str, str]]:
    for name in PACKAGES:
        found = _version(name)
        yield bool(found), f"{name} {found or 'is not installed'}", f"pip install {name}"
    if not (_version("torch") and _version("transformers")):
        return
    from stableprompt.models import embedded
    from stableprompt.models.loading import cpu_has_fast_bfloat16, pick_device, pick_dtype

    device = pick_device("auto")
    dtype = str(pick_dtype("auto", device)).removeprefix("torch.")
    fast = "" if device.type != "cpu" or cpu_has_fast_bfloat16() else " (no bfloat16 in hardware)"
    yield True, f"device {device.type}, {os.cpu_count()} cores, weights in {dtype}{fast}", ""
    yield (
        embedded.is_available(),
        f"embedded model {embedded.EMBEDDED_NAME}",
        embedded.INSTALL_HINT,
    )
    folder = embedded.cache_dir()
    yield _writable(folder), f"cache {folder}", "set STABLEPROMPT_CACHE to a folder you can write"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _writable(folder: Path) -> bool:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return os.access(existing, os.W_OK)
