"""Two LoRA adapters on one base: which one speaks, copying between them, their weights.

One copy of the base weights plays three roles: the *policy* (trained adapter), the *anchor*
(frozen adapter) and the *base* (adapters off), which is the target where agent and target are the
same checkpoint.
"""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stableprompt.errors import ModelError
from stableprompt.models.numbers import broken_in

ADAPTER_WEIGHTS = "adapter_model.safetensors"
# What a saved adapter may set. Of the rest some change the base (layer_replication, kasa_config),
# some import what they name (megatron_config), some draw at random; peft gets more.
_TAKEN: Final = {
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path"),
    *("revision", "inference_mode", "r", "lora_alpha", "lora_dropout", "rank_pattern"),
    *("alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform"),
    *("layers_pattern", "modules_to_save", "fan_in_fan_out", "bias", "lora_bias", "use_rslora"),
    *("use_dora", "ensure_weight_tying", "trainable_token_indices"),
    # How weights are drawn at first: they are read from the file.
    *("init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
}


class Role(StrEnum):
    """Who the shared weights speak as."""

    POLICY = "policy"
    """With the adapter that PPO trains."""
    ANCHOR = "anchor"
    """With the frozen copy of an earlier policy."""
    FIRST = "first"
    """With the adapter that the policy began with."""
    BASE = "base"
    """With adapters off: the checkpoint as it was loaded."""


class AdaptedModel:
    """A base model that carries the adapters ``policy`` and ``anchor``, equal at first.

    Dropout is 0 and the model stays in evaluation mode: dropout would move the PPO ratio away
    from 1 at identical weights.
    """

    def __init__(self, base: Any, lora: LoraConfig, *, seed: int) -> None:
        lora.lora_dropout = 0.0
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            torch.manual_seed(seed)  # peft draws LoRA's A from the global generator
            # peft asks transformers for an attribute by its old name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            # A writer is named after its model, which may lie in a cache folder here.
            warnings.filterwarnings("ignore", "The PEFT config's `base_model_name_or_path`")
            try:
                self.model = get_peft_model(base, lora, adapter_name=Role.POLICY)
                self.model.add_adapter(Role.ANCHOR, lora)
            except Exception as error:  # peft has no common error, and the adapter's file may say
                reason = " ".join(str(error).split())[:200]  # anything
                raise ModelError(
                    f"an adapter of this configuration cannot be put on the agent "
                    f"({type(error).__name__}: {reason}); give another --agent-adapter"
                ) from error
        self.model.eval()
        self._role = Role.POLICY
        self._switch(Role.POLICY)
        self._policy = self._weights_of(Role.POLICY)
        self._anchor = self._weights_of(Role.ANCHOR)
        self._begin()

    def _begin(self) -> None:
        """Let the anchor, and what is remembered of the first policy, be what the policy is now."""
        self.copy(Role.POLICY, Role.ANCHOR)
        self._first = {name: p.detach().cpu().clone() for name, p in self._policy.items()}

    def _weights_of(self, role: Role) -> dict[str, nn.Parameter]:
        """One adapter's weights under the names that peft writes to files: without its own."""
        part = f".{role}."
        named = self.model.named_parameters()
        return {name.replace(part, "."): p for name, p in named if part in name}

    @contextmanager
    def role(self, role: Role) -> Iterator[Any]:
        """Speak as ``role`` inside the block, as before after it.

        The first policy has no place of its own in the model: it is lent the anchor's.

        Never enter it between a forward pass of the policy and its backward pass with another
        role still active: peft switches gradients off with the adapter.
        """
        before = self._role
        self._switch(role)
        try:
            yield self.model
        finally:
            self._switch(before)

    def _switch(self, role: Role) -> None:
        if Role.FIRST in (role, self._role) and role is not self._role:
            self._lend(to_first=role is Role.FIRST)
        self._role = role
        tuner: Any = self.model.base_model
        if role is Role.BASE:
            tuner.disable_adapter_layers()
        else:
            tuner.enable_adapter_layers()
            tuner.set_adapter(str(Role.ANCHOR if role is Role.FIRST else role))
        # peft decides requires_grad by the active adapter; here the policy alone ever learns.
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(f".{Role.POLICY}." in name)

    def _lend(self, *, to_first: bool) -> None:
        """Put the first policy's weights into the anchor's tensors, or take them out again."""
        if to_first:
            self._kept = {name: p.detach().clone() for name, p in self._anchor.items()}
        self._fill(self._anchor, self._first if to_first else self._kept)
        if not to_first:
            self._kept = {}

    def parameters(self) -> list[nn.Parameter]:
        """The policy's adapter weights, in a fixed order."""
        return list(self._policy.values())

    def weights(self) -> list[nn.Parameter]:
        """Those of both adapters."""
        return [*self._policy.values(), *self._anchor.values()]

    @staticmethod
    @torch.no_grad()
    def _fill(weights: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
        for name, tensor in weights.items():
            tensor.copy_(values[name])

    def copy(self, source: Role, destination: Role) -> None:
        """Copy one adapter's weights into the other's tensors, by value."""
        weights = {Role.POLICY: self._policy, Role.ANCHOR: self._anchor}
        self._fill(weights[destination], weights[source])

    @property
    def untrained(self) -> bool:
        """Whether the policy has the weights that it began with."""
        return all(torch.equal(p.detach().cpu(), self._first[n]) for n, p in self._policy.items())

    def equal(self, one: Role, other: Role) -> bool:
        """Whether two adapters have the very same weights."""
        weights = {Role.POLICY: self._policy, Role.ANCHOR: self._anchor}
        return all(torch.equal(p, weights[other][name]) for name, p in weights[one].items())

    def state(self) -> dict[str, Tensor]:
        """Both adapters' weights for a checkpoint."""
        policy = {f"{Role.POLICY}/{n}": p.detach().cpu() for n, p in self._policy.items()}
        anchor = {f"{Role.ANCHOR}/{n}": p.detach().cpu() for n, p in self._anchor.items()}
        return policy | anchor

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what ``state`` gave."""
        for role, weights in ((Role.POLICY, self._policy), (Role.ANCHOR, self._anchor)):
            for name, parameter in weights.items():
                parameter.copy_(tensors[f"{role}/{name}"])

    def load_adapter(self, folder: Path) -> None:
        """Start policy and anchor from a saved LoRA adapter (safetensors) of the same shape.

        Raises:
            ModelError: it was trained for another model or another LoRA configuration, or holds
                numbers that are not finite.
        """
        try:
            saved = load_file(folder / ADAPTER_WEIGHTS)
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"the adapter's weights {folder / ADAPTER_WEIGHTS} cannot be read ({error}); "
                "give a folder written by peft"
            ) from error
        wrong = [
            name
            for name, p in self._policy.items()
            if name not in saved or saved[name].shape != p.shape
        ]
        if wrong or len(saved) != len(self._policy):
            raise ModelError(
                f"the adapter in {folder} does not fit this agent ({len(wrong)} of "
                f"{len(self._policy)} tensors differ); use the model that it was trained on"
            )
        broken = broken_in(saved)
        if broken is not None:
            raise ModelError(
                f"the adapter in {folder} holds numbers that are not finite ({broken}); train it "
                "anew, or give another one"
            )
        self._fill(self._policy, saved)
        self._begin()

    def save_adapter(self, folder: Path, *, model: str | None = None) -> None:
        """Write the policy's adapter under peft's names (safetensors and its config).

        Args:
            folder: Where.
            model: What the config is to call the checkpoint: not every folder is for others' eyes.
        """
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: p.detach().cpu().contiguous() for name, p in self._policy.items()}
        save_file(weights, folder / ADAPTER_WEIGHTS)
        config = copy(self.model.peft_config[str(Role.POLICY)])
        if model is not None:
            config.base_model_name_or_path = model
        config.save_pretrained(str(folder))


def read_lora_config(folder: Path) -> LoraConfig:
    """The LoRA configuration of a saved adapter.

    Raises:
        ModelError: the folder holds none.
    """
    if not os.path.isfile(folder / "adapter_config.json"):
        raise ModelError(f"{folder} holds no adapter_config.json; give a folder written by peft")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # whatever a parser and the fields' own checks raise
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{folder}/adapter_config.json cannot be read ({type(error).__name__}: {reason}); it "
            "is damaged"
        ) from error
    if not isinstance(config, LoraConfig):
        raise ModelError(f"the adapter in {folder} is {config.peft_type}, only LoRA is supported")
    plain = LoraConfig()
    for field in fields(config):
        name = field.name
        if name not in _TAKEN and getattr(config, name) != getattr(plain, name):
            raise ModelError(
                f"{folder}/adapter_config.json has {name}, which is not taken from a file; train "
                "an adapter without it"
            )
    # The weights come from the file; some ways to draw others would change the base as well.
    config.init_lora_weights = True
    return config
