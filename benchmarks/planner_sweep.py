"""Plans over sizes and machines, as rows of tables: what docs/scaling.md shows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from unittest.mock import patch

from stableprompt.config import make_config
from stableprompt.planning.plan import TARGET, RunPlan, plan_run
from stableprompt.scaling import roles, work
from stableprompt.scaling.machines import LINK_SHARE, PROCESS, SERVER, MachineOrder
from stableprompt.tasks.bundled_tasks import load_bundled

AGENT: Final = "llama-3-8b"
SIZES: Final = (
    "smollm2-135m",
    "1b",
    "llama-3-8b",
    "30b",
    "llama-3-70b",
    "gpt-3-175b",
    "llama-3-405b",
    "1t",
    "2t",
)
LARGEST: Final = "llama-3-405b"
_DEVICES: Final = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and what it is of."""

    name: str
    plan: RunPlan
    devices: int = 1
    """Of one server."""


def planned(name: str, order: MachineOrder, devices: int, concurrency: int = 64) -> Planned:
    """On the bundled task, with default settings but for the calls under way at once."""
    config = make_config({"target": {"api": {"concurrency": concurrency}}})
    return Planned(name, plan_run(load_bundled("support"), config, order), devices)


def on_fewest(size: str, *, machine: str = "h100", agent: str = AGENT, **more: Any) -> Planned:
    """The target on as few devices as hold it; the agent on one."""
    for devices in _DEVICES:
        order = MachineOrder(
            machine, f"{devices}x{machine}", agent_size=agent, target_size=size, **more
        )
        found = planned(size, order, devices)
        if found.plan.memory[1].fits:
            return found
    raise ValueError(f"{size} does not fit on {_DEVICES[-1]} {machine}")


def by_target() -> list[Planned]:
    """The target grows, the agent stays."""
    return [on_fewest(size) for size in SIZES]


def by_traffic() -> list[Planned]:
    """The largest target: servers, and calls at once at each."""
    found = []
    for replicas, concurrency in ((1, 8), (1, 64), (1, 256), (2, 64), (4, 64)):
        order = MachineOrder("h200", "8xh200", replicas, AGENT, LARGEST)
        servers = "server" if replicas == 1 else "servers"
        found.append(planned(f"{replicas} {servers}, {concurrency}", order, 8, concurrency))
    return found


def by_agent() -> list[Planned]:
    """The agent grows, the target stays; what no GPU holds is split over some as well."""
    whole = [
        replace(on_fewest(LARGEST, machine="h200", agent=size), name=size)
        for size in ("smollm2-135m", "1b", "llama-3-8b", "qwen2.5-32b", "llama-3-70b")
    ]
    parts = (("llama-3-70b", 2), ("llama-3-70b", 8), ("gpt-3-175b", 8), ("llama-3-405b", 8))
    return whole + [
        planned(
            f"{size}, split over {devices}",
            MachineOrder(
                f"{devices}xh200", "8xh200", agent_size=size, target_size=LARGEST, split=True
            ),
            8,
        )
        for size, devices in parts
    ]


def doubts() -> Iterator[tuple[str, float]]:
    """What each assumption changes, were it twice as bad: the whole time of the largest target."""
    usual = on_fewest(LARGEST, machine="h200").plan.total_seconds
    server, process = "SERVER", "PROCESS"
    changes: Mapping[str, tuple[Any, str, Any]] = {
        "matrix products, this process": (roles, process, replace(PROCESS, flops=0.175)),
        "memory bandwidth, this process": (roles, process, replace(PROCESS, bandwidth=0.3)),
        "starting layers, this process": (roles, process, replace(PROCESS, layer_seconds=1e-3)),
        "matrix products, server": (roles, server, replace(SERVER, flops=0.225)),
        "memory bandwidth, server": (roles, server, replace(SERVER, bandwidth=0.35)),
        "starting layers, server": (roles, server, replace(SERVER, layer_seconds=1e-4)),
        "links between devices": (work, "LINK_SHARE", LINK_SHARE / 2),
    }
    for name, (module, constant, value) in changes.items():
        with patch.object(module, constant, value):
            yield name, on_fewest(LARGEST, machine="h200").plan.total_seconds / usual


def target_seconds(plan: RunPlan) -> float:
    """Of the target alone."""
    return sum(plan.seconds[TARGET].values())
