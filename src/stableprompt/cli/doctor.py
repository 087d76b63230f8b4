"""``stableprompt doctor``: what works here, and the fix for what does not."""

import os
from collections.abc import Iterator
from pathlib import Path

import typer

from stableprompt.cli.reporting import one_line_errors
from stableprompt.cli.terminal import say
from stableprompt.version import __version__

PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors", "pydantic", "typer")
OPTIONAL = {
    "pyarrow": "pip install 'stableprompt[parquet]'",
    "pandas": "pip install pandas",
    "datasets": "pip install 'stableprompt[hub]'",
    "sacrebleu": "pip install 'stableprompt[metrics]'",
    "rouge-score": "pip install 'stableprompt[metrics]'",
    "bitsandbytes": "4-bit weights; pip install 'stableprompt[quant]'",
    "ray": "the target in actors of a cluster; pip install 'stableprompt[ray]'",
    "flash-attn": "attention flash_attention_2, on a GPU; pip install flash-attn",
}


@one_line_errors
def command() -> None:
    """Check what is installed, and which models and devices can be used."""
    say(f"stableprompt {__version__}")
    failures = 0
    for good, what, fix in _checks():
        failures += not good
        say(f"  {'ok  ' if good else 'FAIL'}  {what}" + ("" if good else f"; fix: {fix}"))
    for found, what in (*_hardware(), *_keys(), *_optional_packages()):
        say(f"  {'ok  ' if found else 'none'}  {what}")
    if failures:
        raise typer.Exit(1)


def _checks() -> Iterator[tuple[bool, str, str]]:
    for name in PACKAGES:
        found = _version(name)
        yield bool(found), f"{name} {found or 'is not installed'}", f"pip install {name}"
    if not (_version("torch") and _version("transformers")):
        return
    from stableprompt.models import embedded
    from stableprompt.models.hardware import pick_device, pick_dtype

    device = pick_device("auto")
    dtype = str(pick_dtype("auto", device)).removeprefix("torch.")
    yield True, f"device {device.type}, {os.cpu_count()} cores, weights in {dtype}", ""
    yield (
        embedded.is_available(),
        f"embedded model {embedded.EMBEDDED_NAME}",
        embedded.INSTALL_HINT,
    )
    folder = embedded.cache_dir()
    yield _writable(folder), f"cache {folder}", "set STABLEPROMPT_CACHE to a folder you can write"


def _hardware() -> Iterator[tuple[bool, str]]:
    """What makes a run faster where it is there; nothing needs it."""
    if not (_version("torch") and _version("transformers")):
        return
    import torch

    from stableprompt.models.hardware import (
        bfloat16_speed,
        missing_for_compile,
        pick_device,
        pick_dtype,
    )

    device = pick_device("auto")
    gpu = device.type == "cuda"
    yield gpu, f"GPU {torch.cuda.get_device_name(device) if gpu else '(torch sees none)'}"
    fast = pick_dtype("auto", device) == torch.bfloat16
    told = "" if fast else " (weights are float32 here)"
    if device.type == "cpu":
        told += f"; {bfloat16_speed():.2g} times as fast as float32, measured"
    yield fast, f"fast bfloat16{told}"
    missing = missing_for_compile(device)
    yield not missing, f"torch.compile{f' (optional; needs {missing})' if missing else ''}"


def _keys() -> Iterator[tuple[bool, str]]:
    """Which keys of targets behind an API are set, by name; what they are is nobody's business."""
    if not _version("pydantic"):
        return
    from stableprompt.models.targets.providers import PROVIDERS

    names = [p.key_variable for p in PROVIDERS.values() if p.key_variable]
    found = [name for name in names if os.environ.get(name)]
    none = f"(optional; for a target behind an API, such as {names[0]})"
    told = f": {', '.join(found)}" if found else f" {none}"
    yield bool(found), f"API keys in the environment{told}"


def _optional_packages() -> Iterator[tuple[bool, str]]:
    for name, fix in OPTIONAL.items():
        found = _version(name)
        yield bool(found), f"{name} {found or f'(optional; {fix})'}"


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version  # loads e-mail parsers

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _writable(folder: Path) -> bool:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return os.access(existing, os.W_OK)
