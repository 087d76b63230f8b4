"""What trains: the agent and its optimizer, behind Hugging Face Accelerate."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from stableprompt.errors import ConfigError
from stableprompt.models.agent import AgentLLM


@dataclass(frozen=True, slots=True)
class Trainable:
    """An agent that can be updated."""

    agent: AgentLLM
    """The plain agent: to sample, to evaluate, to copy."""
    prepared: Any
    """The same agent as Accelerate prepared it: called in the update, nowhere else."""
    optimizer: Any
    """AdamW over the agent's learned parameters."""
    accelerator: Any


def prepare_training(agent: AgentLLM, learning_rate: float) -> Trainable:
    """Give the agent to Accelerate.

    Raises:
        ConfigError: launched with several processes, which is not supported yet.
    """
    accelerator = Accelerator(
        cpu=agent.loaded.device.type == "cpu",
        device_placement=False,  # the agent stays where it was loaded, on cuda:1 say
    )
    if accelerator.num_processes > 1:
        raise ConfigError(
            "this version trains in one process, it was launched with "
            f"{accelerator.num_processes}; start it without `accelerate launch`"
        )
    optimizer = torch.optim.AdamW(agent.learned_parameters(), lr=learning_rate, weight_decay=0.0)
    prepared, optimizer = accelerator.prepare(agent, optimizer)
    return Trainable(agent, prepared, optimizer, accelerator)


def learned_tensors(trainable: Trainable) -> dict[str, Tensor]:
    """What an update changes, where it lives: learned weights and the optimizer's state."""
    agent, state = trainable.agent, trainable.optimizer.state
    names = {id(parameter): name for name, parameter in agent.named_parameters()}
    tensors: dict[str, Tensor] = {}
    for parameter in agent.learned_parameters():
        name = names[id(parameter)]
        tensors[f"weights {name}"] = parameter
        for kind, tensor in state.get(parameter, {}).items():
            tensors[f"optimizer state {kind} of {name}"] = tensor
    return tensors


def training_tensors(trainable: Trainable) -> dict[str, Tensor]:
    """Weights of policy and anchor and the optimizer's state, for a checkpoint."""
    tensors = trainable.agent.tensors()
    for number, parameter in enumerate(trainable.agent.learned_parameters()):
        for name, tensor in trainable.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{number}/{name}"] = tensor.detach().cpu()
    # Copies: on a CPU the tensors are the live ones, which the next step changes.
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}


def load_training_tensors(trainable: Trainable, tensors: Mapping[str, Tensor]) -> None:
    """Take back what ``training_tensors`` gave."""
    trainable.agent.load_tensors(tensors)
    parameters = trainable.agent.learned_parameters()
    trainable.optimizer.state.clear()
    for key, tensor in tensors.items():
        if key.startswith("optimizer/"):
            _, number, name = key.split("/")
            parameter = parameters[int(number)]
            # AdamW counts its steps on the CPU.
            place = "cpu" if name == "step" else parameter.device
            trainable.optimizer.state[parameter][name] = tensor.to(place).clone()
