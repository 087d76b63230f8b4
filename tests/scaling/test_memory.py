"""Memory: what PyTorch keeps of small models, and sums by hand."""

from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import LlamaForCausalLM

from stableprompt.models.adapters import AdaptedModel
from stableprompt.models.agent import AgentLLM
from stableprompt.models.training import prepare_training
from stableprompt.scaling import memory
from stableprompt.scaling.memory import Memory
from stableprompt.scaling.shapes import SHAPES, Shape
from stableprompt.scaling.work import Held
from tests.fakes.agents import make_loaded
from tests.fakes.shapes import config_of

RANK = 16


def shape(hidden: int, heads: int, kv_heads: int, inner: int, layers: int = 2) -> Shape:
    return Shape("t", layers, hidden, heads, kv_heads, 64, inner, 500, tied=True)


def agent_of(shape: Shape, dtype: torch.dtype) -> AgentLLM:
    loaded = make_loaded(model=LlamaForCausalLM(config_of(shape)).to(dtype).eval())
    lora = LoraConfig(r=RANK, lora_alpha=32, target_modules="all-linear")
    return AgentLLM(loaded, AdaptedModel(loaded.model, lora, seed=0), temperature=1.0)


def kept(agent: AgentLLM, rows: int, query: int, length: int) -> int:
    """Bytes that PyTorch keeps for the backward pass of the layers, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in agent.parameters()}
    storages: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage  # held, so that no address comes twice
        return tensor

    ids = torch.ones(rows, length, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states = agent._states(torch.ones(query, dtype=torch.long), ids, ids.bool(), ())
    assert states.requires_grad
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "model",
    [shape(512, 8, 4, 1536), shape(256, 8, 2, 768, 3), shape(384, 6, 2, 1152)],
    ids=["512", "256", "384"],
)
def test_what_learning_keeps_is_what_pytorch_keeps(model: Shape, dtype: torch.dtype) -> None:
    agent = agent_of(model, dtype)
    held = Held(model, float(torch.finfo(dtype).bits // 8))
    for rows, query, length in ((4, 64, 17), (6, 200, 9), (2, 10, 40)):
        found = memory.saved(held, rows, query, length, RANK)
        assert found == pytest.approx(kept(agent, rows, query, length), rel=0.02)


def test_weights_and_adapters_are_those_of_the_model() -> None:
    model = shape(256, 8, 2, 768)
    agent = agent_of(model, torch.bfloat16)
    frozen = [p for n, p in agent.model.named_parameters() if "lora" not in n]
    both = [p for n, p in agent.model.named_parameters() if "lora" in n]
    assert memory.weights(Held(model, 2.0)) == sum(p.numel() * p.element_size() for p in frozen)
    found = memory.adapters(model, RANK, learning=False)
    assert found == sum(p.numel() * p.element_size() for p in both)
    # With gradients and Adam's moments of the policy's.
    trainable = prepare_training(agent, 1e-3)
    for parameter in agent.learned_parameters():
        parameter.grad = torch.zeros_like(parameter)
    trainable.optimizer.step()
    moments = [
        t for state in trainable.optimizer.state.values() for t in state.values() if t.dim() > 0
    ]
    learned = [p for p in agent.adapted.parameters()]
    more = sum(p.numel() * 4 for p in (*learned, *moments)) - 2 * 4 * 257  # the value head's
    assert memory.adapters(model, RANK, learning=True) == found + more


def test_four_bits_take_a_little_more_than_half_a_byte() -> None:
    held = SHAPES["qwen2.5-7b"]
    packed = memory.weights(Held(held, 2.0, quantised=True))
    rest = 2 * (held.parameters - held.linear_parameters)
    # QLoRA: 4 bits and 0.127 bits for the scales.
    assert (packed - rest) * 8 / held.linear_parameters == pytest.approx(4.127, abs=0.001)


def test_a_minibatch_is_halved_until_it_fits() -> None:
    held = Held(SHAPES["llama-3-8b"])
    needed = {n: memory.learning(held, n, 200, 40, RANK) for n in (24, 12, 6, 3, 2, 1)}
    for rows, room in needed.items():
        assert memory.rows_that_fit(held, 24, 200, 40, RANK, room) == rows
    assert memory.rows_that_fit(held, 24, 200, 40, RANK, needed[1] - 1) == 0


def test_the_peak_is_what_lasts_and_the_largest_of_what_passes() -> None:
    found = Memory("m", 25e9, {"a": 10e9, "b": 2e9}, {"c": 3e9, "d": 8e9})
    assert found.needed == pytest.approx(20e9 * 1.05 + 1e9)
    assert found.fits
    assert not Memory("m", 21.9e9, found.lasting, found.passing).fits


def test_servers_share_keys_and_values_by_heads() -> None:
    held = Held(SHAPES["llama-3-70b"])  # 8 heads of keys and values
    one, eight, sixteen = (memory.serving(held, 1e6, n) for n in (1, 8, 16))
    caches = 1e6 * 2 * 80 * 8 * 128 * 2
    layer = one - caches
    assert eight == pytest.approx(caches / 8 + layer / 8)
    assert sixteen == pytest.approx(caches / 8 + layer / 16)
