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
class Speed:
    """What a program gets out of a device: constants that seconds are linear in."""

    flops: float
    """Per second, in the matrix products of a forward pass; a multiply-add counts two."""
    backward_flops: float
    """The same in a backward pass."""
    bandwidth: float
    """Bytes a second."""
    layer_seconds: float
    """Of one layer of the model in one forward pass, however little there is to compute."""
    draw_seconds: float
    """To draw a token from its logits, for each entry of the vocabulary."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One device."""

    name: str
    memory: float
    """Bytes."""
    flops: float
    """Per second, dense, in products of numbers of 2 bytes that are added up in float32."""
    float32_flops: float
    """The same in float32 without tensor cores."""
    bandwidth: float
    """Bytes a second between it and its memory."""
    link: float
    """Bytes a second to each other one, in one direction."""
    dollars_per_hour: float
    """An assumption about rent: it differs by a factor of three between those who let."""
    source: str
    measured: Speed | None = None
    """What a program gets out of it, where that was measured, in float32."""


CPU_THREAD: Final = "cpu-thread"

# Peaks are those that the vendor prints, without sparsity.
_LISTED: Final = (
    Machine(
        "rtx-4090", 24 * _GIB, 165.2 * _TERA, 82.6 * _TERA, 1008 * _GIGA, 32 * _GIGA, 0.5,
        "NVIDIA Ada GPU Architecture whitepaper, appendix A",
    ),
    Machine(
        "a100-80gb", 80 * _GIGA, 312 * _TERA, 19.5 * _TERA, 2039 * _GIGA, 300 * _GIGA, 1.8,
        "NVIDIA A100 80GB SXM data sheet",
    ),
    Machine(
        "h100", 80 * _GIGA, 989.4 * _TERA, 66.9 * _TERA, 3350 * _GIGA, 450 * _GIGA, 3.0,
        "NVIDIA H100 SXM data sheet",
    ),
    Machine(
        "h200", 141 * _GIGA, 989.4 * _TERA, 66.9 * _TERA, 4800 * _GIGA, 450 * _GIGA, 4.0,
        "NVIDIA H200 SXM data sheet",
    ),
    Machine(
        "b200", 180 * _GIGA, 2250 * _TERA, 75 * _TERA, 8000 * _GIGA, 900 * _GIGA, 6.0,
        "NVIDIA HGX B200 data sheet, per GPU",
    ),
    # Fitted by benchmarks/planner.py (docs/results/planner.md); of others it says little.
    # Memory, and peaks that nothing is computed from, are those of no machine in particular.
    Machine(
        CPU_THREAD, 16 * _GIB, 111 * _GIGA, 111 * _GIGA, 7.1 * _GIGA, 7.1 * _GIGA, 0.0,
        "one thread of an Intel Xeon with AVX-512, float32, measured",
        Speed(111 * _GIGA, 50 * _GIGA, 7.1 * _GIGA, 9.1e-4, 0.0),
    ),
)  # fmt: skip
MACHINES: Final[Mapping[str, Machine]] = {machine.name: machine for machine in _LISTED}


@dataclass(frozen=True, slots=True)
class Share:
    """How much of a data sheet's peak a program is taken to get: assumptions, not measured."""

    flops: float
    bandwidth: float
    layer_seconds: float
    draw_bytes: float
    """Bytes moved to draw a token, for each entry of the vocabulary."""

    def of(self, machine: Machine, *, float32: bool = False) -> Speed:
        """Constants for a device; what was measured there wins."""
        if machine.measured is not None:
            return machine.measured
        flops = self.flops * (machine.float32_flops if float32 else machine.flops)
        bandwidth = machine.bandwidth * self.bandwidth
        return Speed(flops, flops, bandwidth, self.layer_seconds, self.draw_bytes / bandwidth)


PROCESS: Final = Share(0.35, 0.6, 5e-4, 200.0)
"""This package's own process: some twenty kernels a layer, each started by Python."""
SERVER: Final = Share(0.45, 0.7, 5e-5, 16.0)
"""A server such as vLLM: graphs of kernels."""
LINK_SHARE: Final = 0.6
"""Of the link's speed, in an exchange between devices that hold parts of one model."""
NODE: Final = 8
"""Devices that the links of a data sheet join; more of them are joined by a network as well."""
NETWORK: Final = 50 * _GIGA
"""Bytes a second and device of that network (400 Gbit/s)."""
LINK_SECONDS: Final = 1e-5
"""Of each such exchange, however small."""
REQUEST_SECONDS: Final = 1.0
"""That a call of a public API, or of a function, is taken to need."""


def parse_machines(text: str) -> tuple[int, Machine]:
    """How many of which, from "h100" or "4xh100".

    Raises:
        ConfigError: it is none of MACHINES, or none at all.
    """
    found = re.fullmatch(r"(?:([1-9]\d{0,4})x)?([a-z0-9-]+)", text.strip().lower())
    machine = MACHINES.get(found[2]) if found else None
    if found is None or machine is None:
        raise ConfigError(
            f"machine {text!r} is not known; write one of {', '.join(MACHINES)}, or several as "
            "in 4xh100"
        )
    return int(found[1] or 1), machine


@dataclass(frozen=True, slots=True)
class MachineOrder:
    """Machines and sizes as the user names them."""

    on: str
    """Where the agent is, and a target in its process: "h100", "4xh100"."""
    target_on: str | None = None
    """Where one server of the target is."""
    replicas: int = 1
    """Such servers."""
    agent_size: str | None = None
    """In place of the agent that the settings name."""
    target_size: str | None = None
    dollars_per_hour: float | None = None
    """For each device; None: what the table assumes."""
    split: bool = False
    """Whether several devices hold the agent together, and not all of it each."""
