"""Models of the shapes that the planner knows."""

from typing import Any

from transformers import LlamaConfig

from stableprompt.scaling.shapes import Shape


def config_of(shape: Shape, kind: Any = LlamaConfig, **more: Any) -> Any:
    """The configuration of a shape, as transformers has it."""
    return kind(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        tie_word_embeddings=shape.tied,
        **more,
    )
