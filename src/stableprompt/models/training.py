"""What trains: the agent and its optimizer, behind Hugging Face Accelerate."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import torch
from accelerate import Accelerator
from torch import Tensor

from stableprompt.errors import ConfigError
from stableprompt.models.agent import AgentLLM
from stableprompt.models.ranks import ALONE, Ranks


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
    ranks: Ranks = ALONE
    """The processes that learn together."""


def prepare_training(agent: AgentLLM, learning_rate: float, ranks: Ranks = ALONE) -> Trainable:
    """Give the agent to Accelerate.

    Args:
        agent: What learns.
        learning_rate: Of AdamW.
        ranks: The processes that share the work; by default this one alone.

    Raises:
        ConfigError: launched with several processes for something that cannot be shared.
    """
    accelerator = Accelerator(
        cpu=agent.loaded.device.type == "cpu",
        device_placement=False,  # the agent stays where it was loaded, on cuda:1 say
        mixed_precision="no",  # of the update alone: its first ratio would not be 1
    )
    if accelerator.num_processes != ranks.count:
        raise ConfigError(
            f"this works in one process, it was launched with {accelerator.num_processes}; start "
            "it without `accelerate launch`"
        )
    optimizer = torch.optim.AdamW(agent.learned_parameters(), lr=learning_rate, weight_decay=0.0)
    # Not wrapped for several processes: gradients are added up after a minibatch (add_gradients),
    # when none of its parts can run out of memory any more.
    prepared = accelerator.prepare_model(agent, evaluation_mode=ranks.count > 1)
    return Trainable(agent, prepared, accelerator.prepare_optimizer(optimizer), accelerator, ranks)


def backward(trainable: Trainable, loss: Tensor) -> None:
    """Add up gradients of a loss in the agent's learned weights, those of this process."""
    trainable.ranks.lockstep.backward(loss, trainable.accelerator.backward)


def add_gradients(trainable: Trainable, figures: Tensor) -> Tensor:
    """Put the sums over all processes in the place of the gradients of each.

    Args:
        trainable: Each process has the gradients of its part of a minibatch.
        figures: More to add up.

    Returns:
        The sums of the figures.
    """
    if trainable.ranks.count == 1:
        return figures
    learned = trainable.agent.learned_parameters()
    # Who had no rows has no gradients; what nobody has must stay without one.
    had = torch.tensor([float(p.grad is not None) for p in learned], device=figures.device)
    own = [torch.zeros_like(p) if p.grad is None else p.grad for p in learned]
    figures, had, *summed = trainable.ranks.add([figures, had, *own])
    for parameter, gradient, anybody in zip(learned, summed, had.tolist(), strict=True):
        parameter.grad = gradient if anybody else None
    return figures


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


def checksum(tensors: Mapping[str, Tensor]) -> int:
    """Of all bits of some tensors and of their names."""
    found = 0
    for name in sorted(tensors):
        bits = tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found = crc32(bits.numpy().tobytes(), crc32(name.encode(), found))
    return found


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
