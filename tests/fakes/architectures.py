"""Tiny models of other architectures, with random weights: what a target may be made of."""

from functools import cache
from typing import Any

import torch
import transformers

from stableprompt.models.loading import LoadedModel
from tests.fakes.agents import make_loaded
from tests.fakes.tiny_model import make_tokenizer

WINDOW = 8  # shorter than nearly every sequence of the tests

# Configuration, model, and what it has of its own.
_SMALL_HEADS = {"head_dim": 8, "query_pre_attn_scalar": 8}
_SPECS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {}),  # two heads share their keys and values
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    ),
    "mistral": ("MistralConfig", "MistralForCausalLM", {"sliding_window": WINDOW}),
    "gemma2": (  # a window in every other layer, caps on attention and on logits
        "Gemma2Config",
        "Gemma2ForCausalLM",
        {
            **_SMALL_HEADS,
            "sliding_window": WINDOW,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 2.0,
        },
    ),
    "gemma3": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {
            **_SMALL_HEADS,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "bloom": ("BloomConfig", "BloomForCausalLM", {"n_layer": 2, "n_head": 4}),  # ALiBi
    "cohere": ("CohereConfig", "CohereForCausalLM", {"logit_scale": 0.5}),
    "granite": ("GraniteConfig", "GraniteForCausalLM", {"logits_scaling": 3.0}),
    "mamba": (
        "MambaConfig",
        "MambaForCausalLM",
        {"state_size": 8, "conv_kernel": 4, "expand": 2, "time_step_rank": 4},
    ),
    "mamba2": (
        "Mamba2Config",
        "Mamba2ForCausalLM",
        {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    ),
    "bamba": (
        "BambaConfig",
        "BambaForCausalLM",
        {
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_n_groups": 1,
            "mamba_d_state": 8,
            "mamba_chunk_size": 8,
            "attn_layer_indices": [1],
        },
    ),
    "qwen3-next": (
        "Qwen3NextConfig",
        "Qwen3NextForCausalLM",
        {
            "head_dim": 8,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "num_experts": 0,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
}


def make_architecture(name: str, *, seed: int = 0, **options: Any) -> Any:
    """Two layers, weights large enough that the model has opinions."""
    config_class, model_class, own = _SPECS[name]
    config = getattr(transformers, config_class)(
        **{
            "vocab_size": len(make_tokenizer()),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "initializer_range": 0.15,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            **own,
            **options,
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return getattr(transformers, model_class)(config).eval()


def make_gemma3_with_eyes() -> Any:
    """Reads pictures, too: what it is made of stands one floor lower in its configuration."""
    text = make_architecture("gemma3").config
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = transformers.Gemma3Config(
        text_config=text.to_dict(), vision_config=vision, mm_tokens_per_image=4
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.Gemma3ForConditionalGeneration(config).eval()


@cache
def loaded_architecture(name: str) -> LoadedModel:
    """The same one for every test that does not change it."""
    return make_loaded(model=make_architecture(name))
