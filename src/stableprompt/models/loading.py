"""From a model's name to weights and tokenizer on a device, in a sensible precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers import logging as transformers_logging

from stableprompt.errors import ConfigError, ModelError
from stableprompt.models import embedded
from stableprompt.models.chat import end_of_turn_ids

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal language model with its tokenizer, in evaluation mode."""

    name: str
    model: Any
    tokenizer: Any
    device: torch.device

    @property
    def end_of_turn_ids(self) -> list[int]:
        """Token ids that end an answer, the chat template's own first."""
        return end_of_turn_ids(self.tokenizer, self.model.generation_config.eos_token_id)

    @property
    def context_length(self) -> int:
        """How many tokens the model can read."""
        return int(getattr(self.model.config, "max_position_embeddings", 0) or 1_000_000)


def pick_device(requested: str) -> torch.device:
    """ "auto" takes a GPU where there is one."""
    if requested == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise ConfigError(
            f"device {requested!r} is not known to torch; use auto, cpu or cuda"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device 'cuda' was asked for, but torch sees no GPU; use device auto or cpu"
        )
    return device


def cpu_has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def pick_dtype(requested: str, device: torch.device) -> torch.dtype:
    """ "auto" is bfloat16 where the hardware multiplies it, else float32."""
    if requested != "auto":
        return DTYPES[requested]
    if device.type == "cuda":
        # Not float16: it overflows on models that were trained in bfloat16.
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if cpu_has_fast_bfloat16() else torch.float32


def resolve_name(name: str) -> str:
    """The folder or hub id that a name stands for; same answer means same checkpoint."""
    if name == embedded.EMBEDDED_NAME:
        return str(embedded.ensure_converted())
    path = Path(name).expanduser()
    return str(path.resolve()) if path.is_dir() else name


def load_model(
    name: str, *, device: str = "auto", dtype: str = "auto", chat: bool = True
) -> LoadedModel:
    """Load a frozen model for inference.

    Args:
        name: "smollm2-135m" (embedded), a local folder, or a hub id.
        device: auto, cpu, cuda, cuda:1, ...
        dtype: auto, float32, bfloat16 or float16.
        chat: Whether it will be spoken to through its chat template.

    Raises:
        ModelError: it cannot be found, or has no chat template.
    """
    place = pick_device(device)
    with _quiet_transformers():
        source = resolve_name(name)
        try:
            tokenizer = AutoTokenizer.from_pretrained(source)
            model: Any = AutoModelForCausalLM.from_pretrained(
                source, dtype=pick_dtype(dtype, place)
            )
        except (OSError, ValueError, SafetensorError) as error:
            reason = (
                str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            )
            raise ModelError(
                f"model {name!r} could not be loaded ({reason}); give {embedded.EMBEDDED_NAME!r}, "
                "a folder with config.json and safetensors, or a hub id that this machine can reach"
            ) from error
    if chat and not tokenizer.chat_template:
        raise ModelError(
            f"model {name!r} has no chat template, so it is a base model; give its instruct "
            "version, or for a target --set target.format=plain"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    model.requires_grad_(False)
    return LoadedModel(name, model.to(place).eval(), tokenizer, place)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep loading bars out of the terminal; errors still come as exceptions."""
    settings: Any = transformers_logging
    before = settings.is_progress_bar_enabled()
    settings.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            settings.enable_progress_bar()
