"""How things are measured: time in turns, memory of a process, work in FLOPs, what is possible."""

import gc
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

Contestant = Callable[[], Callable[[], Any]]
"""What is not timed (fresh weights, an empty memory); it returns what is."""


# --- time ---


@dataclass(frozen=True, slots=True)
class Timings:
    """What some contestants took, round by round, and what they last returned."""

    seconds: dict[str, list[float]]
    results: dict[str, Any]


def take_turns(
    contestants: Mapping[str, Contestant],
    *,
    rounds: int,
    budget_seconds: float = math.inf,
    device: torch.device | None = None,
) -> Timings:
    """Time contestants A B A B ..., so that a drift of the machine meets them alike.

    Args:
        contestants: By name.
        rounds: Every contestant runs once a round.
        budget_seconds: No round is begun that would not fit, but for the first one.
        device: A GPU is waited for before a clock is read.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    results: dict[str, Any] = {}
    started = time.perf_counter()
    for done in range(rounds):
        spent = time.perf_counter() - started
        if done and spent * (done + 1) / done > budget_seconds:
            break
        for name, prepare in contestants.items():
            results.pop(name, None)
            run = prepare()
            gc.collect()
            took, results[name] = timed(run, device)
            seconds[name].append(took)
    return Timings(seconds, results)


def timed(run: Callable[[], Any], device: torch.device | None = None) -> tuple[float, Any]:
    """Seconds that a call took, and what it returned."""
    _wait_for(device)
    start = time.perf_counter()
    result = run()
    _wait_for(device)
    return time.perf_counter() - start, result


def _wait_for(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


# --- statistics ---


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum, and of how many."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "n": len(values),
    }


def ratio(over: Sequence[float], under: Sequence[float]) -> dict[str, float]:
    """The ratio of two medians; beside it the smallest and largest ratio within a round.

    A median keeps its order and its scale, so the ratio of medians always lies between the two.
    """
    within = [a / b for a, b in zip(over, under, strict=True)]
    middle = statistics.median(over) / statistics.median(under)
    return {"median": middle, "min": min(within), "max": max(within), "n": len(within)}


# --- work ---


def distinct_tokens(sequences: Iterable[Sequence[int]]) -> int:
    """Tokens that a causal model must read at least: those of all different beginnings.

    The keys and values of a token follow from it and what stands before it, so two sequences
    share exactly their common beginning.
    """
    total, before = 0, ()
    for ids in sorted({tuple(sequence) for sequence in sequences}):
        common = 0
        for one, other in zip(before, ids, strict=False):
            if one != other:
                break
            common += 1
        total += len(ids) - common
        before = ids
    return total


def layer_parameters(model: Any) -> int:
    """Parameters that every token is multiplied with: all linear layers but the head."""
    head = model.get_output_embeddings()
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | Conv1D) and m is not head]
    return sum(layer.weight.numel() for layer in layers)


def head_parameters(model: Any) -> int:
    """Parameters that a position is multiplied with where its logits are wanted."""
    return int(model.get_output_embeddings().weight.numel())


def forward_flops(model: Any, *, tokens: int, positions: int) -> float:
    """Of one forward pass over so many tokens, with logits at so many positions.

    A multiply-add is two. Attention scores, norms and activations are left out: at these lengths
    they are a few per cent, and leaving them out makes the utilisation look worse, not better.
    """
    return 2.0 * (tokens * layer_parameters(model) + positions * head_parameters(model))


# --- what is possible ---


@torch.no_grad()
def matmul_flops(dtype: torch.dtype, device: torch.device, *, tries: int = 5) -> float:
    """FLOP/s of a large square matrix multiply in this precision: the best of several tries."""
    size = 8192 if device.type == "cuda" else 2048
    probe = torch.randn(256, 256, device=device).to(dtype)
    seconds = min(timed(lambda: torch.mm(probe, probe), device)[0] for _ in range(3))
    if seconds * (size / 256) ** 3 > 2:  # no such arithmetic in hardware
        size = 512
    one = torch.randn(size, size, device=device).to(dtype)
    seconds = min(timed(lambda: torch.mm(one, one), device)[0] for _ in range(tries))
    return 2 * size**3 / seconds


@torch.no_grad()
def layer_flops(model: Any, *, rows: int, tries: int = 3) -> float:
    """FLOP/s of the model's own linear layers alone, on so many rows: the best of several tries.

    Narrow layers stay below a large square multiply; what is between the two no plan can win.
    """
    head = model.get_output_embeddings()
    work, seconds = 0.0, 0.0
    known: dict[tuple[int, ...], float] = {}
    for module in model.modules():
        if not isinstance(module, nn.Linear | Conv1D) or module is head:
            continue
        shape = tuple(module.weight.shape)
        if shape not in known:
            known[shape] = _seconds_of_layer(module, rows, tries)
        seconds += known[shape]
        work += 2.0 * rows * module.weight.numel()
    return work / seconds


def _seconds_of_layer(module: nn.Linear | Conv1D, rows: int, tries: int) -> float:
    weight = module.weight
    width = weight.shape[1] if isinstance(module, nn.Linear) else weight.shape[0]
    read = torch.randn(rows, width, device=weight.device).to(weight.dtype)
    return min(timed(lambda: module(read), weight.device)[0] for _ in range(tries + 1))


# --- memory ---


def resident_bytes() -> int:
    """Memory of this process now."""
    return _status("VmRSS")


def peak_resident_bytes() -> int:
    """The most memory that this process ever had."""
    return _status("VmHWM")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}; memory is measured on Linux only")


def run_alone(*command: str) -> dict[str, Any]:
    """Run Python in a process of its own; the last line that it prints is JSON."""
    done = subprocess.run(
        [sys.executable, *command], check=False, capture_output=True, text=True, env=os.environ
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)[:200]} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


# --- where ---


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures depend on besides the code."""
    facts: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "capabilities": sorted(
            name for name, there in torch.cpu.get_capabilities().items() if there is True
        ),
        "load_at_start": round(os.getloadavg()[0], 2),
        "device": device.type,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "peft")},
        "date": time.strftime("%Y-%m-%d"),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
