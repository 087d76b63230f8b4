"""An agent whose frozen weights are split over the processes of a run (FSDP2).

Each process keeps a part of every layer, and has the whole of one layer while it is called. What
learns is small and stays whole everywhere: both adapters and the value heads, and with them the
optimizer and the checkpoints. So does what belongs to no layer: the embeddings, which many models
use as their head, too.
"""

from typing import Any

import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from stableprompt.config import TuneConfig
from stableprompt.errors import ConfigError
from stableprompt.models.adapters import AdaptedModel
from stableprompt.models.head import Head
from stableprompt.models.loading import LoadedModel
from stableprompt.models.ranks import Ranks


def require_splittable(config: TuneConfig) -> None:
    """Check that the agent's weights can be split over processes.

    Raises:
        ConfigError: they are held in a way that was never tried with split weights, or Accelerate's
            configuration asks for it.
    """
    told = {"quantize": config.quantize != "none", "compile": config.compile}
    told["fsdp_activation_checkpointing"] = (
        FullyShardedDataParallelPlugin().activation_checkpointing
    )
    for name, given in told.items():
        if given:
            raise ConfigError(
                f"{name} is set, and the run was launched with FSDP: weights that are split over "
                f"processes can only be held plainly; leave {name} out, or launch without FSDP"
            )


def split_weights(loaded: LoadedModel, adapted: AdaptedModel, ranks: Ranks) -> None:
    """Leave each process its part of the weights, in place; Accelerate's configuration says how.

    Args:
        loaded: The whole model, on the CPU still: no device need ever hold all of it.
        adapted: The same model with its adapters.
        ranks: The processes; from now on they call the model together.

    Raises:
        ConfigError: no layers are found to split, or the model does more with its output than to
            send it through one layer.
    """
    body = loaded.model.base_model
    how = FullyShardedDataParallelPlugin()  # as it stands in the environment
    options: dict[str, Any] = {
        "mesh": init_device_mesh(loaded.device.type, (ranks.count,)),
        "offload_policy": how.cpu_offload,
    }
    whole, apart = set(adapted.weights()), how.reshard_after_forward
    for layer in _layers(body, how.transformer_cls_names_to_wrap):
        fully_shard(layer, ignored_params=whole, reshard_after_forward=apart, **options)
    # Holds nothing itself, and tells its layers of each other: the next one can be fetched early.
    rest = {p for p in loaded.model.parameters() if not isinstance(p, DTensor)}
    fully_shard(body, ignored_params=rest, **options)
    for tensor in [*loaded.model.parameters(), *loaded.model.buffers()]:
        if not isinstance(tensor, DTensor):
            tensor.data = tensor.data.to(loaded.device)
    ranks.lockstep.keep(body)
    if not Head(loaded.model).plain:  # its own code would have to be called, and not by all alike
        raise ConfigError(
            f"model {loaded.name!r} scales or caps its logits, which cannot be done where its "
            "weights are split over processes (FSDP); launch without FSDP, or take another agent"
        )


def _layers(body: torch.nn.Module, named: list[str] | None) -> list[torch.nn.Module]:
    """The parts that are put together one at a time: those that must not be torn apart."""
    names = set(named or getattr(body, "_no_split_modules", None) or ())
    found = [module for module in body.modules() if type(module).__name__ in names]
    if not found:
        raise ConfigError(
            f"{type(body).__name__} has no layers of the name {' or '.join(sorted(names)) or '?'}; "
            "name their class in Accelerate's configuration: fsdp_auto_wrap_policy "
            "TRANSFORMER_BASED_WRAP, and fsdp_transformer_layer_cls_to_wrap"
        )
    return found[::-1]  # what lies inside first
