"""What this machine can do: device, precision, and what the options of loading need of it."""

import os
import shutil
import sys
import sysconfig
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict, Unpack

import torch
from torch.nn.functional import linear
from transformers.utils.import_utils import is_bitsandbytes_available, is_flash_attn_2_available

from stableprompt.config import TargetConfig, TuneConfig
from stableprompt.errors import ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class LoadOptions(TypedDict, total=False):
    """How a model is loaded, as it is set; what is not given is "auto", or off."""

    device: str
    dtype: str
    attention: str
    compile: bool
    quantize: str


@dataclass(frozen=True, slots=True)
class Hardware:
    """The same, with every "auto" decided. Equal ones can share one copy of the weights."""

    device: torch.device
    dtype: torch.dtype
    """Of the weights; of the arithmetic where the weights are quantised."""
    attention: str | None
    """A name that transformers knows; None leaves it to transformers."""
    compile: bool
    quantize: str


def options_of(config: TuneConfig, own: TargetConfig | None = None) -> LoadOptions:
    """How the agent is loaded; or the target, given the settings that it has of its own."""
    return LoadOptions(
        device=config.device,
        dtype=(own and own.dtype) or config.dtype,
        attention=config.attention,
        compile=config.compile,
        quantize=(own and own.quantize) or config.quantize,
    )


def pick_hardware(**options: Unpack[LoadOptions]) -> Hardware:
    """Decide what is "auto", and refuse what this machine cannot do.

    Raises:
        ConfigError: the device is not there, or an option lacks what it needs.
    """
    device = pick_device(options.get("device", "auto"))
    dtype = pick_dtype(options.get("dtype", "auto"), device)
    attention = options.get("attention", "auto")
    compiled, quantize = options.get("compile", False), options.get("quantize", "none")
    if attention == "flash_attention_2":
        _require_flash_attention(device, dtype)
    if compiled and (missing := missing_for_compile(device)):
        raise ConfigError(
            f"compile needs {missing}, which was not found; install it, or set compile to false"
        )
    if quantize != "none" and not is_bitsandbytes_available():
        raise ConfigError(
            f"quantize {quantize!r} needs the package bitsandbytes, which is missing or too old; "
            "pip install 'stableprompt[quant]', or set quantize to none"
        )
    return Hardware(device, dtype, None if attention == "auto" else attention, compiled, quantize)


def pick_device(requested: str) -> torch.device:
    """ "auto" takes a GPU where there is one."""
    if requested == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise ConfigError(
            f"device {requested!r} is not known to torch; use auto, cpu or cuda"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device 'cuda' was asked for, but torch sees no GPU; use device auto or cpu"
        )
    return device


def cpu_has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware, and faster than float32.

    AMX does. AVX512-BF16 does where it is all there is; processors that came after it (AVX512-FP16
    tells them) were made to use AMX, and where a virtual machine hides that, their AVX512-BF16 was
    measured at half the speed of float32 (docs/performance.md).
    """
    can = torch.cpu.get_capabilities()
    return bool(can.get("amx_bf16") or (can.get("avx512_bf16") and not can.get("avx512_fp16")))


def bfloat16_speed() -> float:
    """How many times as fast as in float32 this CPU multiplies in bfloat16, measured.

    The size is that of a feed-forward layer of the embedded model for 128 tokens. Only this
    process's own time counts, and no choice rests on it: one seed gives one result, however busy
    the machine is.
    """
    least: dict[torch.dtype, float] = {}
    for dtype in (torch.float32, torch.bfloat16) * 5:  # in turns: what slows one slows the other
        rows, weights = torch.ones(128, 576, dtype=dtype), torch.ones(1536, 576, dtype=dtype)
        linear(rows, weights)
        started = time.process_time()
        linear(rows, weights)
        seconds = time.process_time() - started
        least[dtype] = min(seconds, least.get(dtype, seconds))
    return least[torch.float32] / least[torch.bfloat16]


def pick_dtype(requested: str, device: torch.device) -> torch.dtype:
    """ "auto" is bfloat16 where the hardware multiplies it faster, else float32."""
    if requested != "auto":
        return DTYPES[requested]
    if device.type == "cuda":
        # Not float16: it overflows on models that were trained in bfloat16.
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if cpu_has_fast_bfloat16() else torch.float32


def _require_flash_attention(device: torch.device, dtype: torch.dtype) -> None:
    # transformers checks some of this too, but after it has read the weights, or with a warning.
    found = None
    if device.type != "cuda":
        found = f"device {device.type}"
    elif dtype == torch.float32:
        found = "dtype float32"
    elif not is_flash_attn_2_available():
        found = "no usable package flash-attn"
    if found:
        raise ConfigError(
            "attention 'flash_attention_2' needs a CUDA device, bfloat16 or float16, and the "
            f"package flash-attn, found {found}; use attention auto"
        )


def missing_for_compile(device: torch.device) -> str | None:
    """What torch.compile would miss on a device, in words."""
    if device.type == "cuda":
        if find_spec("triton") is None:
            return "the package triton"
        named = os.environ.get("CC")
        compilers = (named,) if named else ("gcc", "clang")
        kind = "a C compiler"
    else:
        named = os.environ.get("CXX")
        compilers = (named,) if named else ("clang++" if sys.platform == "darwin" else "g++",)
        kind = "a C++ compiler"
    if not any(shutil.which(name) for name in compilers):
        return f"{kind} ({' or '.join(compilers)})"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return None if header.is_file() else "Python.h (the package python3-dev or the like)"
