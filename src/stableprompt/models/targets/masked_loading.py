"""Masked LMs by name: which checkpoints are one, and from the name to weights on a device."""

from typing import Any, Unpack

from transformers import AutoModelForMaskedLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from stableprompt.errors import ConfigError, ModelError
from stableprompt.models.checkpoint_files import load_tokenizer, readable, require_safetensors
from stableprompt.models.embedded import EMBEDDED_NAME
from stableprompt.models.hardware import Hardware, LoadOptions, pick_hardware
from stableprompt.models.loading import LoadedModel, compile_body, resolve_name

_CAUSAL = ("ForCausalLM", "LMHeadModel")
# Of those that transformers would load as a masked LM, a few write (BART).
_ENCODERS = {
    kind for kind, own in MODEL_FOR_MASKED_LM_MAPPING_NAMES.items() if own.endswith("ForMaskedLM")
}


def is_masked(name: str) -> bool:
    """Whether a checkpoint is a masked LM, by its config.json alone.

    Where the architecture does not say it (an encoder saved with another head or none), the kind
    of model does; ``load_masked`` then refuses what lacks the head.

    Args:
        name: "smollm2-135m" (embedded), a local folder, or a hub id.

    Raises:
        ModelError: its config.json cannot be read.
    """
    if name == EMBEDDED_NAME:  # not worth its conversion
        return False
    with readable(name):
        config, _ = PreTrainedConfig.get_config_dict(resolve_name(name))
        architectures = [str(own) for own in config.get("architectures") or []]
    if any(own.endswith("ForMaskedLM") for own in architectures):
        return True
    writes = any(own.endswith(_CAUSAL) for own in architectures)
    return not writes and config.get("model_type") in _ENCODERS


def load_masked(name: str, **options: Unpack[LoadOptions]) -> LoadedModel:
    """Load a frozen masked LM for inference: safetensors only, none of the checkpoint's own code.

    Args:
        name: A local folder, or a hub id.
        **options: How it is held and run; what is not given is "auto", or off.

    Raises:
        ConfigError: this machine cannot do what the options ask for, or they ask for 4 bits.
        ModelError: it cannot be found, or its masked-LM head is not there.
    """
    hardware = pick_hardware(**options)
    if hardware.quantize != "none":
        raise ConfigError(
            f"quantize {hardware.quantize!r} is for causal LMs, and {name!r} is loaded as a masked "
            "LM, which is small; use --set target.quantize=none"
        )
    with readable(name):
        source = resolve_name(name)
        require_safetensors(source)
        tokenizer = load_tokenizer(source)
        model, missing = _read_weights(source, hardware)
    if missing:
        # transformers would go on with random numbers in their place.
        raise ModelError(
            f"model {name!r} is no masked LM: its weights lack {missing[0]} (of "
            f"{len(missing)} missing, as {type(model).__name__}); give the checkpoint that was "
            "pretrained, such as FacebookAI/roberta-large, not one that was fine-tuned"
        )
    model.requires_grad_(False)
    if hardware.compile:
        compile_body(name, model)
    return LoadedModel(name, model.eval(), tokenizer, hardware.device)


def _read_weights(source: str, hardware: Hardware) -> tuple[Any, list[str]]:
    """The model, and the names of weights that it needs but the checkpoint has not."""
    how: dict[str, Any] = {"dtype": hardware.dtype}
    if hardware.attention is not None:
        how["attn_implementation"] = hardware.attention
    load: Any = AutoModelForMaskedLM.from_pretrained
    model, told = load(
        source, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **how
    )
    return model.to(hardware.device), sorted(told["missing_keys"])
