"""From a model's name to weights and tokenizer on a device, held as the settings say."""

import os
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, Unpack

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from stableprompt.errors import ModelError
from stableprompt.models import embedded
from stableprompt.models.chat import end_of_turn_ids
from stableprompt.models.checkpoint_files import (
    load_tokenizer,
    readable,
    require_safetensors,
    require_weights,
)
from stableprompt.models.hardware import Hardware, LoadOptions, pick_hardware

MAX_COMPILED_FORMS = 64


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A language model with its tokenizer, in evaluation mode."""

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
        config = self.model.config.get_text_config()  # a model that sees has several
        return int(getattr(config, "max_position_embeddings", 0) or 1_000_000)


HUB_PREFIX: Final = "hub:"
"""Says that a name is a hub id, where it could be taken for something else."""
_A_SLIP: Final = 0.87  # of 12 characters one missing, more or other; not smollm2-360m (0.83)


def resolve_name(name: str) -> str:
    """The folder or hub id that a name stands for; same answer means same checkpoint.

    Raises:
        ModelError: it is the embedded model's name with a slip; the hub is not asked for that.
    """
    if name == embedded.EMBEDDED_NAME:
        return str(embedded.ensure_converted())
    # os.path, not pathlib: it answers False for a name that cannot exist.
    folder = os.path.expanduser(name)
    if os.path.isdir(folder):
        return os.path.realpath(folder)
    if get_close_matches(name.lower(), [embedded.EMBEDDED_NAME], cutoff=_A_SLIP):
        raise ModelError(
            f"no folder and no model {name!r}: did you mean {embedded.EMBEDDED_NAME!r}? "
            f"A hub id of that name is {HUB_PREFIX + name!r}"
        )
    return name.removeprefix(HUB_PREFIX)


def public_name(model: str) -> str:
    """A local folder by its last part only: results are shared, home folders are not."""
    folder = os.path.expanduser(model)
    return os.path.basename(os.path.realpath(folder)) if os.path.isdir(folder) else model


def load_model(
    name: str, *, chat: bool = True, moved: bool = True, **options: Unpack[LoadOptions]
) -> LoadedModel:
    """Load a frozen model for inference.

    Args:
        name: "smollm2-135m" (embedded), a local folder, or a hub id.
        chat: Whether it will be spoken to through its chat template.
        moved: Whether to put it on its device; who splits it does that part by part.
        **options: How it is held and run; what is not given is "auto", or off.

    Raises:
        ConfigError: this machine cannot do what the options ask for.
        ModelError: it cannot be found, or has no chat template.
    """
    hardware = pick_hardware(**options)
    with readable(name):
        source = resolve_name(name)
        require_safetensors(source)
        tokenizer = load_tokenizer(source)
        model, missing = _read_weights(source, hardware, moved)
        require_weights(name, model, missing)
    if chat and not tokenizer.chat_template:
        raise ModelError(
            f"model {name!r} has no chat template, so it is a base model; give its instruct "
            "version, or for a target --set target.format=plain"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    model.requires_grad_(False)
    if hardware.compile:
        compile_body(name, model)
    return LoadedModel(name, model.eval(), tokenizer, hardware.device)


def _read_weights(source: str, hardware: Hardware, moved: bool) -> tuple[Any, list[str]]:
    """The model, and the names of weights that it needs but the checkpoint has not."""
    how: dict[str, Any] = {"dtype": hardware.dtype}
    if hardware.attention is not None:
        how["attn_implementation"] = hardware.attention
    if hardware.quantize == "none":
        model, missing = _load(source, how)
        return (model.to(hardware.device) if moved else model), missing
    quantised: Any = BitsAndBytesConfig
    how["quantization_config"] = quantised(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=hardware.dtype,
    )
    # A quantised model is not moved afterwards.
    model, missing = _load(source, {"device_map": {"": hardware.device}, **how})
    for module in model.modules():
        # On a CPU with AVX512-BF16 bitsandbytes repacks the weights at the first pass without
        # gradient, into a form that later passes no gradient through: the policy would learn
        # from a part of its gradient only, and nothing would say so.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model, missing


def _load(source: str, how: dict[str, Any]) -> tuple[Any, list[str]]:
    load: Any = AutoModelForCausalLM.from_pretrained
    # Never a pickle, never code of the checkpoint's own (None would ask on the terminal).
    model, told = load(
        source, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **how
    )
    return model, sorted(told["missing_keys"])


def compile_body(name: str, model: Any) -> None:
    """Compile all layers but the head, in place: adapters that are injected later are traced too.

    Not the whole model: the head is read through hooks, which torch.compile does not look at again
    once it has compiled.
    """
    body = model.base_model
    if body is model:
        raise ModelError(
            f"model {name!r} cannot be compiled ({type(model).__name__} keeps its layers and its "
            "head in one module); set compile to false"
        )
    # Policy, anchor and target, with and without gradient and cache, are a form each; behind the
    # limit, 8 by default, torch.compile stops compiling.
    limits: Any = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, MAX_COMPILED_FORMS)
    body.compile(dynamic=True)  # dynamic: no new form for every length
