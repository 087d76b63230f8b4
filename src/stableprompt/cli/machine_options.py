"""Machines that are not here, on the command line of ``estimate``."""

from typing import Annotated

import typer

from stableprompt.errors import ConfigError
from stableprompt.scaling.machines import MACHINES, MachineOrder

OnOption = Annotated[
    str | None,
    typer.Option(
        metavar="MACHINES",
        help="Plan for machines that are not here, without loading a model: "
        f"{', '.join(MACHINES)}; several as in 4xh100.",
    ),
]
TargetOnOption = Annotated[
    str | None,
    typer.Option(metavar="MACHINES", help="Of the plan: where one server of the target is."),
]
ReplicasOption = Annotated[int, typer.Option(min=1, help="Of the plan: such servers.")]
AgentSizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE", help="Of the plan: as of llama-3-8b, or 30b.", show_default="--agent"
    ),
]
TargetSizeOption = Annotated[
    str | None, typer.Option(metavar="SIZE", help="The same for the target, as 405b.")
]
GpuPriceOption = Annotated[
    float | None,
    typer.Option(metavar="DOLLARS", min=0, help="Of the plan: for a device and an hour."),
]

SplitAgentOption = Annotated[
    bool,
    typer.Option(
        "--split-agent", help="Of the plan: several devices hold the agent together (FSDP)."
    ),
]


def machine_order(
    on: OnOption = None,
    target_on: TargetOnOption = None,
    replicas: ReplicasOption = 1,
    agent_size: AgentSizeOption = None,
    target_size: TargetSizeOption = None,
    gpu_price: GpuPriceOption = None,
    split_agent: SplitAgentOption = False,
) -> MachineOrder | None:
    """What these options ask for; None: nothing, the run is tried on this machine.

    Raises:
        ConfigError: there are some, but not the one that asks for a plan.
    """
    if on is not None:
        return MachineOrder(
            on, target_on, replicas, agent_size, target_size, gpu_price, split=split_agent
        )
    given = (target_on, agent_size, target_size, gpu_price)
    if replicas != 1 or split_agent or any(one is not None for one in given):
        raise ConfigError(
            "--target-on, --replicas, --agent-size, --target-size, --gpu-price and --split-agent "
            "belong to a plan; say where the agent is to be, as in --on h100"
        )
    return None
