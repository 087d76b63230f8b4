"""Shapes: their parameters are those of the models that transformers builds."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from stableprompt.errors import ConfigError
from stableprompt.scaling.shapes import SHAPES, Shape, shape_named, shape_of_size
from tests.fakes.shapes import config_of


def parameters_of(shape: Shape) -> int:
    """Of the model itself, on a device without memory."""
    config = config_of(shape, Qwen2Config if shape.kv_bias else LlamaConfig)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", [n for n in SHAPES if n != "gpt-3-175b"])
def test_parameters_are_those_of_the_model_itself(name: str) -> None:
    assert SHAPES[name].parameters == parameters_of(SHAPES[name])


def test_the_sizes_are_those_that_are_published() -> None:
    # Model cards; of GPT-3 the paper's title.
    assert SHAPES["llama-3-8b"].parameters == 8_030_261_248
    assert SHAPES["qwen2.5-7b"].parameters == 7_615_616_512
    assert SHAPES["llama-3-405b"].parameters == 405_853_388_800
    assert SHAPES["gpt-3-175b"].parameters == pytest.approx(175e9, rel=0.005)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b"),
        ("hub:meta-llama/Llama-3.3-70B-Instruct", "llama-3-70b"),
        ("01-ai/Yi-1.5-9B-Chat", "yi-1.5-9b"),
        ("mistralai/Mistral-7B-v0.3", "mistral-7b"),
        ("smollm2-135m", "smollm2-135m"),
        ("LLAMA-3-405B", "llama-3-405b"),
    ],
)
def test_a_model_is_known_by_its_name(name: str, found: str) -> None:
    assert shape_named(name) is SHAPES[found]


@pytest.mark.parametrize("size", ["50m", "1b", "7b", "30b", "175b", "405b", "1.5t", "10t"])
def test_a_number_of_parameters_gives_a_shape_of_that_size(size: str) -> None:
    scale = {"m": 1e6, "b": 1e9, "t": 1e12}[size[-1]]
    shape = shape_named(size)
    assert shape.parameters == pytest.approx(float(size[:-1]) * scale, rel=0.05)
    assert shape.hidden == shape.heads * shape.head_size


def test_a_size_has_the_proportions_of_llama_3() -> None:
    like, real = shape_of_size(8.03e9), SHAPES["llama-3-8b"]
    assert like.hidden == pytest.approx(real.hidden, rel=0.04)
    assert like.layers == pytest.approx(real.layers, abs=2)
    assert like.kv_numbers == pytest.approx(real.kv_numbers, rel=0.07)


def test_keys_values_and_adapters_by_hand() -> None:
    shape = Shape("t", 3, 8, 4, 2, 2, 16, 10, tied=False)
    assert shape.kv_numbers == 2 * 3 * 2 * 2
    # Queries and output 8 x 8, keys and values 8 x 4, up, gate and down 8 x 16.
    assert shape.linear_parameters == 3 * (2 * 64 + 2 * 32 + 3 * 128)
    assert shape.lora_parameters(5) == 3 * 5 * (2 * 16 + 2 * 12 + 3 * 24)


def test_a_folder_says_its_shape(tmp_path: Path) -> None:
    LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=100,
        tie_word_embeddings=True,
    ).save_pretrained(tmp_path)
    shape = shape_named(str(tmp_path))
    assert shape == Shape(tmp_path.name, 3, 64, 4, 2, 16, 96, 100, tied=True)
    assert shape.parameters == parameters_of(shape)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "cannot be read"),
        ("[]", "named settings"),
        ("{}", "names no num_hidden_layers"),
        ('{"num_hidden_layers": true}', "names no num_hidden_layers"),
        ('{"num_local_experts": 8}', "mixture of experts"),
    ],
)
def test_a_folder_that_does_not_is_refused(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=told):
        shape_named(str(tmp_path))


@pytest.mark.parametrize("name", ["openai/gpt-4o-mini", "7", "b", "1b7", "0b", "19m", "21t", ""])
def test_what_is_no_size_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        shape_named(name)


def test_numbers_in_a_config_are_counts(tmp_path: Path) -> None:
    fields = {
        "num_hidden_layers": 1,
        "hidden_size": 8,
        "num_attention_heads": 16,
        "intermediate_size": 8,
        "vocab_size": 9,
    }
    (tmp_path / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    shape = shape_named(str(tmp_path))
    assert (shape.kv_heads, shape.head_size) == (16, 1)
