"""What is decided about device and precision, and what is refused: each with what it lacks."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stableprompt.config import make_config
from stableprompt.errors import ConfigError
from stableprompt.models import hardware
from stableprompt.models.hardware import (
    Hardware,
    missing_for_compile,
    options_of,
    pick_device,
    pick_dtype,
    pick_hardware,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_an_unknown_device_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"'nonsense'.*use auto, cpu or cuda"):
        pick_device("nonsense")


def test_cuda_without_a_gpu_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="sees no GPU"):
        pick_device("cuda:0")


@pytest.mark.parametrize(("there", "device"), [(True, CUDA), (False, CPU)])
def test_auto_takes_a_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, there: bool, device: torch.device
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert pick_device("auto") == device
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize(
    ("device", "fast", "dtype"),
    [
        (CPU, True, torch.bfloat16),
        (CPU, False, torch.float32),
        (CUDA, True, torch.bfloat16),
        (CUDA, False, torch.float32),
    ],
)
def test_auto_is_bfloat16_where_the_hardware_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, fast: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(hardware, "cpu_has_fast_bfloat16", lambda: fast)
    # A GPU without it emulates it, slowly, and says that it supports it.
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or fast,
    )
    assert pick_dtype("auto", device) == dtype
    assert pick_dtype("float32", device) == torch.float32


@pytest.mark.parametrize(
    ("can", "fast"),
    [
        (set(), False),
        ({"avx512_bf16"}, True),
        ({"avx512_bf16", "avx512_fp16"}, False),  # its AMX is hidden
        ({"avx512_bf16", "avx512_fp16", "amx_bf16"}, True),
    ],
)
def test_hardware_that_has_bfloat16_and_is_slow_at_it_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, can: set[str], fast: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(can, True))
    assert hardware.cpu_has_fast_bfloat16() == fast


def test_the_speed_of_bfloat16_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {torch.float32: 3.0, torch.bfloat16: 2.0}
    now = [0.0]

    def takes(rows: torch.Tensor, weights: torch.Tensor) -> None:
        now[0] += seconds[rows.dtype]

    monkeypatch.setattr(hardware, "linear", takes)
    monkeypatch.setattr(hardware, "time", SimpleNamespace(process_time=lambda: now[0]))
    assert hardware.bfloat16_speed() == 1.5


# --- options ---


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine where everything is there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(hardware, "is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(hardware, "is_bitsandbytes_available", lambda: True)
    monkeypatch.setattr(hardware, "missing_for_compile", lambda device: None)


def test_by_default_nothing_is_asked_for() -> None:
    dtype = pick_dtype("auto", CPU)
    assert pick_hardware(device="cpu") == Hardware(CPU, dtype, None, False, "none")


@pytest.mark.usefixtures("gpu")
def test_where_everything_is_there_everything_can_be_had() -> None:
    found = pick_hardware(attention="flash_attention_2", compile=True, quantize="4bit")
    assert found == Hardware(CUDA, torch.bfloat16, "flash_attention_2", True, "4bit")


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("options", "lost", "found"),
    [
        ({"device": "cpu"}, None, "device cpu"),
        ({"dtype": "float32"}, None, "dtype float32"),
        ({}, "is_flash_attn_2_available", "no usable package flash-attn"),
    ],
)
def test_flash_attention_is_refused_with_what_it_lacks(
    options: Any, lost: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lost:
        monkeypatch.setattr(hardware, lost, lambda: False)
    with pytest.raises(ConfigError, match=f"found {found}; use attention auto") as caught:
        pick_hardware(attention="flash_attention_2", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("gpu")
def test_flash_attention_takes_both_half_precisions() -> None:
    for dtype in ("auto", "bfloat16", "float16"):
        assert pick_hardware(attention="flash_attention_2", dtype=dtype).attention


def test_without_bitsandbytes_4bit_is_refused_with_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hardware, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(ConfigError, match=r"pip install 'stableprompt\[quant\]'"):
        pick_hardware(device="cpu", quantize="4bit")


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> set[str]:
    """The programs and packages that are there; Python's header is."""
    there = {"g++", "clang++", "gcc", "triton"}
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(hardware.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: name if name in there else None)
    monkeypatch.setattr(hardware, "find_spec", lambda name: object() if name in there else None)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    return there


@pytest.mark.parametrize(
    ("device", "lost", "missing"),
    [
        (CPU, set(), None),
        (CPU, {"gcc", "triton"}, None),  # those are for a GPU
        (CPU, {"g++", "clang++"}, "a C++ compiler"),
        (CUDA, {"g++", "clang++"}, None),
        (CUDA, {"gcc"}, "a C compiler"),
        (CUDA, {"triton"}, "the package triton"),
    ],
)
def test_what_torch_compile_lacks_is_named(
    tools: set[str], device: torch.device, lost: set[str], missing: str | None
) -> None:
    tools -= lost
    found = missing_for_compile(device)
    assert found is None if missing is None else str(found).startswith(missing)


def test_the_compiler_may_be_named(tools: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "mine")
    assert missing_for_compile(CPU) == "a C++ compiler (mine)"
    tools.add("mine")
    assert missing_for_compile(CPU) is None


@pytest.mark.usefixtures("tools")
def test_torch_compile_needs_the_header_of_python(tmp_path: Path) -> None:
    (tmp_path / "Python.h").unlink()
    assert "Python.h" in str(missing_for_compile(CPU))
    with pytest.raises(ConfigError, match=r"compile needs Python\.h .*set compile to false"):
        pick_hardware(device="cpu", compile=True)


# --- from the settings ---


def test_the_target_has_the_settings_of_the_run_but_for_its_own() -> None:
    run = {"device": "cpu", "dtype": "float32", "attention": "eager", "quantize": "4bit"}
    plain = make_config(run)
    assert options_of(plain) == options_of(plain, plain.target) == {**run, "compile": False}
    config = make_config(run, {"target": {"dtype": "bfloat16", "quantize": "none"}})
    assert options_of(config) == options_of(plain)
    expected = {**options_of(plain), "dtype": "bfloat16", "quantize": "none"}
    assert options_of(config, config.target) == expected
