"""What machines can do, from data sheets; how much of it a program gets, measured or assumed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from stableprompt.errors import ConfigError

_TERA: Final = 1e12
_GIGA: Final = 1e9
_GIB: Final = 2**30


@dataclass(frozen=True, slots=True)
class Machine:
    """One device."""

    name: str
    memory: float
    """Bytes."""
    flops: float
    """Multiply-adds count two; per second, dense, in the arithmetic that weights of 2 bytes get."""
    bandwidth: float
    """Bytes a second between it and its memory."""
    link: float
    """Bytes a second to each other one, in one direction."""
    dollars_per_hour: float
    """An assumption about rent: it differs by a factor of three between those who let."""
    source: str


# Peaks are those that the vendor prints, without sparsity.
MACHINES: Final[Mapping[str, Machine]] = {
    machine.name: machine
    for machine in (
        Machine(
            "rtx-4090", 24 * _GIB, 165.2 * _TERA, 1008 * _GIGA, 32 * _GIGA, 0.5,
            "NVIDIA Ada GPU Architecture whitepaper, appendix A (BF16 with FP32 accumulate)",
        ),
        Machine(
            "a100-80gb", 80 * _GIGA, 312 * _TERA, 2039 * _GIGA, 300 * _GIGA, 1.8,
            "NVIDIA A100 80GB SXM data sheet",
        ),
        Machine(
            "h100", 80 * _GIGA, 989.4 * _TERA, 3350 * _GIGA, 450 * _GIGA, 3.0,
            "NVIDIA H100 SXM data sheet",
        ),
        Machine(
            "h200", 141 * _GIGA, 989.4 * _TERA, 4800 * _GIGA, 450 * _GIGA, 4.0,
            "NVIDIA H200 SXM data sheet",
        ),
        Machine(
            "b200", 180 * _GIGA, 2250 * _TERA, 8000 * _GIGA, 900 * _GIGA, 6.0,
            "NVIDIA HGX B200 data sheet, per GPU",
        ),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Speed:
    """What a program gets out of a device: five constants, which seconds are linear in."""

    flops: float
    """Per second, in the matrix products of a forward pass."""
    backward_flops: float
    """The same in a backward pass."""
    bandwidth: float
    """Bytes a second."""
    layer_seconds: float
    """Of one layer of the model in one forward pass, however little there is to compute."""
    draw_seconds: float
    """To draw a token from its logits, for each entry of the vocabulary."""


@dataclass(frozen=True, slots=True)
class Share:
    """How much of a data sheet's peak a program is taken to get: assumptions, not measured."""

    flops: float
    bandwidth: float
    layer_seconds: float
    draw_bytes: float
    """Bytes moved to draw a token, for each entry of the vocabulary."""
    what: str

    def of(self, machine: Machine, *, flops_factor: float = 1.0) -> Speed:
        """Constants for a device."""
        flops, bandwidth = machine.flops * self.flops * flops_factor, machine.bandwidth
        return Speed(
            flops=flops,
            backward_flops=flops,
            bandwidth=bandwidth * self.bandwidth,
            layer_seconds=self.layer_seconds,
            draw_seconds=self.draw_bytes / (bandwidth * self.bandwidth),
        )


# Some twenty kernels a layer, each started by Python, with an adapter on every linear layer more.
PROCESS: Final = Share(0.35, 0.6, 5e-4, 64.0, "this process (transformers, eager)")
# Graphs of kernels; logits are sampled by kernels of its own.
SERVER: Final = Share(0.45, 0.7, 5e-5, 16.0, "a server such as vLLM")
LINK_SHARE: Final = 0.6
"""Of the link's speed, in an exchange between devices that hold parts of one model."""
LINK_SECONDS: Final = 1e-5
"""Of each such exchange, however small."""
REQUEST_SECONDS: Final = 1.0
"""A public API is taken to need for a call."""

# One thread of the processor that benchmarks/planner.py ran on, float32; docs/results/planner.md
# has the fit. Of another processor it says little.
CPU_THREAD: Final = "cpu-thread"


def parse_machines(text: str) -> tuple[int, Machine]:
    """How many of which, from "h100" or "4xh100".

    Raises:
        ConfigError: it is none of MACHINES, or none of them.
    """
    found = re.fullmatch(r"(?:(\d{1,5})x)?([a-z0-9-]+)", text.strip().lower())
    machine = MACHINES.get(found[2]) if found else None
    if found is None or machine is None:
        raise ConfigError(
            f"machine {text!r} is not known; write one of {', '.join(MACHINES)}, or several as "
            "in 4xh100"
        )
    count = int(found[1] or 1)
    if count == 0:
        raise ConfigError(f"{text!r} is no machine at all; give at least one")
    return count, machine
