"""How large a model is, from its shape alone: parameters, keys and values, adapters.

The shape is that of a dense decoder-only transformer. Mixtures of experts are not in the model.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from stableprompt.errors import ConfigError

_BILLION: Final = 1e9
_HEAD_SIZE: Final = 128


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model's weights and caches follow from."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    """Width of the feed-forward layers."""
    vocabulary: int
    tied: bool
    """Whether input embeddings and output layer are one matrix."""
    gated: bool = True
    """Three feed-forward matrices (SwiGLU, GeGLU) instead of two."""
    kv_bias: bool = False
    """Biases on queries, keys and values."""
    positions: int = 0
    """Learned position embeddings; 0 where positions are rotated."""

    @property
    def linear_sizes(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of the linear layers of one layer of the model."""
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        up = ((self.hidden, self.intermediate),) * (2 if self.gated else 1)
        return (
            (self.hidden, queries),
            (self.hidden, keys),
            (self.hidden, keys),
            (queries, self.hidden),
            *up,
            (self.intermediate, self.hidden),
        )

    @property
    def linear_parameters(self) -> int:
        """Of all layers: what every token is multiplied with, the output layer aside."""
        return self.layers * sum(a * b for a, b in self.linear_sizes)

    @property
    def head_parameters(self) -> int:
        """Of the output layer: what a position is multiplied with where its logits are wanted."""
        return self.hidden * self.vocabulary

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        embeddings = self.head_parameters * (1 if self.tied else 2) + self.positions * self.hidden
        width = (self.heads + 2 * self.kv_heads) * self.head_size
        small = self.layers * (2 * self.hidden + (width if self.kv_bias else 0)) + self.hidden
        return embeddings + self.linear_parameters + small

    @property
    def kv_numbers(self) -> int:
        """Keys and values of one token in all layers, as numbers."""
        return 2 * self.layers * self.kv_heads * self.head_size

    def lora_parameters(self, rank: int) -> int:
        """Of one adapter on all linear layers but the output layer."""
        return self.layers * sum(rank * (a + b) for a, b in self.linear_sizes)


# From the config.json of the checkpoints on the Hugging Face hub, under the ids that stand beside
# them; GPT-3 from Brown et al. 2020, table 2.1 (its biases, 0.01 % of it, are left out).
_KNOWN: Final = (
    (Shape("smollm2-135m", 30, 576, 9, 3, 64, 1536, 49152, True), "SmolLM2-135M"),
    (Shape("qwen2.5-0.5b", 24, 896, 14, 2, 64, 4864, 151936, True, kv_bias=True), "Qwen2.5-0.5B"),
    (Shape("smollm2-1.7b", 24, 2048, 32, 32, 64, 8192, 49152, True), "SmolLM2-1.7B"),
    (Shape("qwen2.5-7b", 28, 3584, 28, 4, 128, 18944, 152064, False, kv_bias=True), "Qwen2.5-7B"),
    (Shape("mistral-7b", 32, 4096, 32, 8, 128, 14336, 32768, False), "Mistral-7B-v0.3"),
    (Shape("llama-3-8b", 32, 4096, 32, 8, 128, 14336, 128256, False), "Llama-3.1-8B"),
    (Shape("yi-1.5-9b", 48, 4096, 32, 4, 128, 11008, 64000, False), "Yi-1.5-9B"),
    (
        Shape("qwen2.5-32b", 64, 5120, 40, 8, 128, 27648, 152064, False, kv_bias=True),
        "Qwen2.5-32B",
    ),
    (Shape("llama-3-70b", 80, 8192, 64, 8, 128, 28672, 128256, False), "Llama-3.3-70B"),
    (
        Shape("qwen2.5-72b", 80, 8192, 64, 8, 128, 29568, 152064, False, kv_bias=True),
        "Qwen2.5-72B",
    ),
    (
        Shape(
            "gpt-3-175b", 96, 12288, 96, 96, 128, 49152, 50257, True, gated=False, positions=2048
        ),
        "GPT-3",
    ),
    (Shape("llama-3-405b", 126, 16384, 128, 8, 128, 53248, 128256, False), "Llama-3.1-405B"),
)
SHAPES: Final[Mapping[str, Shape]] = {shape.name: shape for shape, _ in _KNOWN}
_STEMS: Final[Mapping[str, Shape]] = {stem.lower(): shape for shape, stem in _KNOWN}
_SAME_SHAPE: Final = ("", "-instruct", "-chat", "-instruct-v0.3")
_FILE_FIELDS: Final[Mapping[str, str]] = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "vocabulary": "vocab_size",
}


def shape_named(name: str) -> Shape:
    """The shape of a model.

    Args:
        name: One of SHAPES, a hub id of one of these, a local folder with a config.json, or a
            number of parameters such as "30b", "405B" or "1.5t": then a shape that is between
            those of Llama 3.

    Raises:
        ConfigError: it is none of these, or of a kind that the cost model does not know.
    """
    folder = os.path.expanduser(name)
    if os.path.isdir(folder):
        return _read(Path(folder))
    wanted = name.removeprefix("hub:").rpartition("/")[2].lower()
    if wanted in SHAPES:
        return SHAPES[wanted]
    for ending in _SAME_SHAPE:
        if ending and not wanted.endswith(ending):
            continue
        if (shape := _STEMS.get(wanted.removesuffix(ending))) is not None:
            return shape
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)([mbt])", wanted):
        scale = {"m": 1e-3, "b": 1.0, "t": 1e3}[found[2]] * _BILLION
        return shape_of_size(float(found[1]) * scale)
    raise ConfigError(
        f"the size of model {name!r} is not known; give one of {', '.join(SHAPES)}, a number of "
        "parameters such as 30b, or a local folder with its config.json"
    )


def shape_of_size(parameters: float) -> Shape:
    """A dense shape with about so many parameters, in the proportions of Llama 3.

    128 of width for each layer, heads of 128, 8 of them for keys and values, feed-forward layers of
    3.5 times the width. Below 2 billion: heads of 64, and a small vocabulary that is tied.

    Raises:
        ConfigError: fewer than 20 million, or more than 20 trillion.
    """
    if not 2e7 <= parameters <= 2e13:
        raise ConfigError(
            f"a model of {parameters:g} parameters is outside of what can be planned; give 20m to "
            "20t"
        )
    small = parameters < 2 * _BILLION
    unit = 64 if small else _HEAD_SIZE
    # Widths are multiples of a head's: the nearest one, and its layers to fit.
    widths = range(unit, 400 * _HEAD_SIZE, unit)
    shapes = (_proportioned(width, small=small) for width in widths)
    best = min(shapes, key=lambda shape: abs(math.log(shape.parameters / parameters)))
    rest = parameters - (best.parameters - best.linear_parameters)
    layers = max(1, round(rest / (best.linear_parameters / best.layers)))
    return replace(best, name=f"{parameters / _BILLION:g}B", layers=layers)


def _proportioned(hidden: int, *, small: bool) -> Shape:
    size = 64 if small else _HEAD_SIZE
    heads = max(1, hidden // size)
    return Shape(
        name="",
        layers=max(1, hidden // (24 if small else 128)),
        hidden=hidden,
        heads=heads,
        kv_heads=min(8, heads),
        head_size=size,
        intermediate=int(3.5 * hidden),
        vocabulary=49152 if small else 128256,
        tied=small,
    )


def _read(folder: Path) -> Shape:
    """From the config.json of a checkpoint.

    Raises:
        ConfigError: there is none, or it is not that of a dense decoder.
    """
    path = folder / "config.json"
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); give a checkpoint's folder") from error
    if not isinstance(given, dict):
        raise ConfigError(f"{path} must hold named settings, found {type(given).__name__}")
    if any("expert" in key for key in given):
        raise ConfigError(
            f"{path} is that of a mixture of experts, which the cost model does not know; give the "
            "number of its active parameters, such as 37b (its memory is then too low)"
        )
    return _from_fields(given, path)


def _from_fields(given: Mapping[str, Any], path: Path) -> Shape:
    found = {ours: _count(given.get(theirs)) for ours, theirs in _FILE_FIELDS.items()}
    if wrong := [_FILE_FIELDS[ours] for ours, value in found.items() if not value]:
        raise ConfigError(
            f"{path} names no {', '.join(wrong)}: the cost model knows dense decoders such as "
            "Llama, Qwen2 and Mistral; give a number of parameters such as 7b instead"
        )
    heads = found["heads"]
    return Shape(
        name=folder_name(path),
        layers=found["layers"],
        hidden=found["hidden"],
        heads=heads,
        kv_heads=_count(given.get("num_key_value_heads")) or heads,
        head_size=_count(given.get("head_dim")) or max(1, found["hidden"] // heads),
        intermediate=found["intermediate"],
        vocabulary=found["vocabulary"],
        tied=bool(given.get("tie_word_embeddings", False)),
        kv_bias=given.get("model_type") == "qwen2" or bool(given.get("attention_bias")),
    )


def folder_name(path: Path) -> str:
    """The last part of a folder's name: plans are shared, home folders are not."""
    return path.resolve().parent.name


def _count(value: object) -> int:
    """A number of things; 0 where it is none."""
    known = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**7
    return value if known and isinstance(value, int) else 0
