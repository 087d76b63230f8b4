"""The agent on other architectures; what it does is tested on Llama, in test_agent.py."""

import warnings

import pytest
import torch
from peft import LoraConfig

from stableprompt.models.adapters import AdaptedModel, Role
from stableprompt.models.agent import AgentLLM
from stableprompt.models.head import _gumbel
from tests.fakes.agents import MESSAGES, disturb, make_loaded, plain_logits, plain_logprobs
from tests.fakes.architectures import make_architecture

# The layers that get an adapter.
LAYERS = {
    "llama": "all-linear",
    "mistral": "all-linear",
    "gemma2": "all-linear",
    "bloom": "all-linear",
    "gpt2": ["c_attn", "c_proj"],
    "bamba": ["q_proj", "v_proj", "gate_proj"],
    "qwen3-next": ["q_proj", "v_proj", "in_proj_qkvz"],
    "mamba": ["in_proj", "x_proj"],
}
STATEFUL = {"bamba", "qwen3-next", "mamba"}
TEMPERATURE = 0.8


@pytest.fixture(scope="module", params=LAYERS)
def agent(request: pytest.FixtureRequest) -> AgentLLM:
    loaded = make_loaded(model=make_architecture(request.param))
    lora = LoraConfig(
        r=4,
        lora_alpha=12,
        target_modules=LAYERS[request.param],
        fan_in_fan_out=request.param == "gpt2",  # its weights are stored the other way round
    )
    agent = AgentLLM(loaded, AdaptedModel(loaded.model, lora, seed=0), temperature=TEMPERATURE)
    disturb(agent.learned_parameters())
    with warnings.catch_warnings():
        if request.param in STATEFUL:
            warnings.filterwarnings("ignore", "tiny cannot go on from a beginning")
        assert agent._shares is (request.param not in STATEFUL)
    return agent


def test_prompts_are_drawn_from_what_plain_forward_passes_say(agent: AgentLLM) -> None:
    query = agent.query_ids(MESSAGES)
    uniforms = torch.rand((4, 10), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    written = agent.sample(query, uniforms)
    assert written.mask.sum() > 20
    for row in range(4):
        n = int(written.mask[row].sum())
        ids = written.ids[row, :n]
        with torch.no_grad():
            logits = plain_logits(agent.model, query.tolist(), ids.tolist()).double()
        noise = _gumbel(uniforms[row, :n], logits.shape[-1])
        scores = logits / TEMPERATURE + noise
        # Each token has the largest sum, but for rounding.
        assert (scores[torch.arange(n), ids] >= scores.amax(dim=-1) - 1e-3).all()


def test_prompts_are_judged_as_by_plain_forward_passes(agent: AgentLLM) -> None:
    query = agent.query_ids(MESSAGES)
    rows = [[50, 60, 70, 80, 90, 100], [51, 61, 2], [2]]
    mask = torch.arange(6).unsqueeze(0) < torch.tensor([len(row) for row in rows]).unsqueeze(1)
    ids = torch.tensor([row + [0] * (6 - len(row)) for row in rows])
    got = agent.evaluate(query, ids, mask, role=Role.POLICY).logprobs
    with torch.no_grad():
        for number, row in enumerate(rows):
            expected = plain_logprobs(agent.model, query.tolist(), row, TEMPERATURE)
            torch.testing.assert_close(got[number, : len(row)], expected, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_plain_forward_passes(agent: AgentLLM) -> None:
    query = agent.query_ids(MESSAGES)
    rows = [[50, 60, 70, 80], [51, 61, 71, 2]]
    parameters = agent.adapted.parameters()
    told = agent(query, torch.tensor(rows), torch.ones((2, 4), dtype=torch.bool)).logprobs
    got = torch.autograd.grad(told.square().sum(), parameters)
    plain = torch.stack(
        [plain_logprobs(agent.model, query.tolist(), row, TEMPERATURE) for row in rows]
    )
    expected = torch.autograd.grad(plain.square().sum(), parameters)
    for one, other in zip(got, expected, strict=True):
        scale = max(1.0, other.abs().max().item())
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * scale)
