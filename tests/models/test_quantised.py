"""4-bit weights, for real where bitsandbytes is installed: what is said and learned through them.

The oracle is a plain model with the very numbers that the 4 bits stand for.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stableprompt.build import load_models
from stableprompt.config import make_config
from stableprompt.models.adapters import AdaptedModel, Role
from stableprompt.models.agent import AgentLLM
from stableprompt.models.loading import LoadedModel, load_model
from stableprompt.models.training import (
    load_training_tensors,
    prepare_training,
    training_tensors,
)
from tests.fakes.agents import MESSAGES, disturb, make_lora
from tests.fakes.tiny_model import save_tiny_model

bitsandbytes = pytest.importorskip(
    "bitsandbytes", reason="4-bit weights need the extra quant: pip install 'stableprompt[quant]'"
)

IDS = torch.tensor([[1, 40, 41, 42, 43]])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("tiny"), seed=3))


def load(checkpoint: str, **options: Any) -> LoadedModel:
    return load_model(
        checkpoint, **{"device": "cpu", "dtype": "float32", "quantize": "4bit", **options}
    )


def quantised_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            yield name, module


def spelled_out(checkpoint: str) -> LoadedModel:
    """A plain float32 model with the weights that the 4 bits stand for."""
    plain = load_model(checkpoint, device="cpu", dtype="float32")
    for name, layer in quantised_layers(load(checkpoint).model):
        weight = bitsandbytes.functional.dequantize_4bit(layer.weight, layer.weight.quant_state)
        plain.model.get_submodule(name).weight.copy_(weight)
    return plain


def make_agent(loaded: LoadedModel) -> AgentLLM:
    """Policy and anchor that differ from each other and from the base."""
    agent = AgentLLM(loaded, AdaptedModel(loaded.model, make_lora(), seed=0), temperature=1.0)
    disturb(agent.adapted.parameters())
    agent.copy(Role.POLICY, Role.ANCHOR)
    disturb(agent.adapted.parameters(), seed=1)
    return agent


@pytest.fixture
def agents(checkpoint: str) -> tuple[AgentLLM, AgentLLM]:
    """One on 4-bit weights, one on the same numbers in float32."""
    return make_agent(load(checkpoint)), make_agent(spelled_out(checkpoint))


def write(agent: AgentLLM, *, role: Role = Role.POLICY) -> Any:
    uniforms = torch.rand(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return agent.sample(agent.query_ids(MESSAGES), uniforms, role=role)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_linear_layers_but_for_the_head_are_held_in_4_bits(checkpoint: str, dtype: str) -> None:
    loaded = load(checkpoint, dtype=dtype)
    layers = dict(quantised_layers(loaded.model))
    assert len(layers) == 2 * 7  # 2 layers, 7 matrices each
    for layer in layers.values():
        assert layer.weight.dtype == torch.uint8
        assert layer.weight.numel() == layer.in_features * layer.out_features / 2
        assert layer.weight.quant_state.quant_type == "nf4"
        assert layer.weight.quant_state.nested  # double quantisation
        assert layer.compute_dtype == getattr(torch, dtype)
    assert loaded.model.dtype == getattr(torch, dtype)
    assert loaded.model.get_output_embeddings().weight.dtype == getattr(torch, dtype)
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert not loaded.model.training


def test_every_weight_is_near_the_one_it_stands_for(checkpoint: str) -> None:
    # NF4 has 16 values between -1 and 1, at most 0.31 apart, times the largest of a block of 64;
    # the scale of a block is itself rounded to 8 bits.
    full = load_model(checkpoint, device="cpu", dtype="float32").model
    coarse = spelled_out(checkpoint).model
    for name, _ in quantised_layers(load(checkpoint).model):
        wanted, found = full.get_submodule(name).weight, coarse.get_submodule(name).weight
        assert not torch.equal(found, wanted)
        assert (found - wanted).abs().max() <= 0.17 * wanted.abs().max()


@pytest.mark.parametrize("role", list(Role))
@torch.no_grad()
def test_in_every_role_it_says_what_those_weights_say(
    agents: tuple[AgentLLM, AgentLLM], role: Role
) -> None:
    said = []
    for agent in agents:
        with agent.adapted.role(role) as model:
            said.append(model(input_ids=IDS).logits)
    torch.testing.assert_close(*said, rtol=0, atol=1e-4)


def gradient(agent: AgentLLM, written: Any) -> tuple[Tensor, Tensor]:
    agent.zero_grad()
    told = agent(agent.query_ids(MESSAGES), written.ids, written.mask).logprobs
    told.sum().backward()
    return told.detach(), torch.cat([p.grad.flatten() for p in agent.adapted.parameters()])


def test_a_policy_learns_through_it_what_it_learns_through_those_weights(
    agents: tuple[AgentLLM, AgentLLM],
) -> None:
    written = write(agents[1])
    assert torch.equal(write(agents[0]).ids, written.ids)
    (logprobs, found), (expected_logprobs, expected) = (gradient(a, written) for a in agents)
    torch.testing.assert_close(logprobs, expected_logprobs, rtol=0, atol=1e-4)
    assert expected.abs().max() > 1
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_the_weights_are_not_repacked_into_a_form_without_gradient(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a CPU with AVX512-BF16, where bitsandbytes would do so at the first sampling.
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    agent = make_agent(load(checkpoint))
    write(agent)
    for _, layer in quantised_layers(agent.model):
        assert not getattr(layer.weight.quant_state, "packing_format_for_cpu", False)


def test_a_step_changes_the_policy_alone_and_a_checkpoint_brings_it_back(checkpoint: str) -> None:
    trainable = prepare_training(make_agent(load(checkpoint)), 1e-2)
    agent = trainable.agent
    written = write(agent)
    base = {n: p.clone() for n, p in agent.model.named_parameters() if ".policy." not in n}
    before = training_tensors(trainable)
    gradient(agent, written)
    trainable.optimizer.step()
    after = training_tensors(trainable)
    assert not torch.equal(*(torch.cat([p.flatten() for p in _policy(t)]) for t in (before, after)))
    for name, parameter in agent.model.named_parameters():
        if name in base:
            assert torch.equal(parameter, base[name]), name

    resumed = prepare_training(make_agent(load(checkpoint)), 1e-2)
    load_training_tensors(resumed, after)
    again = training_tensors(resumed)
    assert again.keys() == after.keys()
    assert all(torch.equal(again[name], after[name]) for name in after)
    assert torch.equal(gradient(resumed.agent, written)[0], gradient(agent, written)[0])


def _policy(tensors: dict[str, Tensor]) -> list[Tensor]:
    return [tensor for name, tensor in tensors.items() if name.startswith("policy/")]


def test_a_target_with_full_weights_beside_a_4_bit_agent_has_its_own(checkpoint: str) -> None:
    run = {"device": "cpu", "dtype": "float32", "quantize": "4bit"}
    models = {"agent": {"model": checkpoint}, "target": {"model": checkpoint}}
    words, question = [["yes", "no"]], [[{"role": "user", "content": "Is it so?"}]]
    told = []
    for settings in (run, {**run, "quantize": "none"}, run | {"target": {"quantize": "none"}}):
        config = make_config(models, settings)
        told.append(load_models(config)[1].label_scores(question, words).label_probs)
    assert not torch.equal(told[0], told[1])
    assert torch.equal(told[2], told[1])


def test_the_target_of_a_4_bit_agent_does_not_hear_its_adapters(checkpoint: str) -> None:
    models = {"agent": {"model": checkpoint}, "target": {"model": checkpoint}}
    config = make_config(models, {"device": "cpu", "dtype": "float32", "quantize": "4bit"})
    agent, target = load_models(config)
    words, question = [["yes", "no"]], [[{"role": "user", "content": "Is it so?"}]]
    before = target.label_scores(question, words).label_probs
    disturb(agent.adapted.parameters())
    assert torch.equal(target.label_scores(question, words).label_probs, before)
