"""Agents on the tiny model, what a plain forward pass says, and random numbers on demand."""

from collections.abc import Sequence

import torch
from peft import LoraConfig
from torch import Tensor, nn

from stableprompt.models.adapters import AdaptedModel
from stableprompt.models.agent import AgentLLM
from stableprompt.models.head import next_token
from stableprompt.models.loading import LoadedModel
from tests.fakes.tiny_model import make_model, make_tokenizer

MESSAGES = [{"role": "user", "content": "Write a better instruction for this task."}]


def make_loaded(*, seed: int = 0, model: nn.Module | None = None) -> LoadedModel:
    """The tiny model as ``load_model`` would give it."""
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer), seed=seed) if model is None else model
    model.requires_grad_(False)
    return LoadedModel("tiny", model, tokenizer, torch.device("cpu"))


def make_lora(rank: int = 4) -> LoraConfig:
    """LoRA on every linear layer but the head."""
    return LoraConfig(r=rank, lora_alpha=12, target_modules="all-linear")


def make_agent(*, temperature: float = 1.0, seed: int = 0) -> AgentLLM:
    """An agent that has not been trained: policy, anchor and base say the same."""
    loaded = make_loaded()
    return AgentLLM(
        loaded, AdaptedModel(loaded.model, make_lora(), seed=seed), temperature=temperature
    )


@torch.no_grad()
def disturb(parameters: Sequence[Tensor], *, seed: int = 0, scale: float = 0.1) -> None:
    """Add noise, as training would have."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def plain_logits(model: nn.Module, query: Sequence[int], answer: Sequence[int]) -> Tensor:
    """Logits before each token of the answer: one row, no cache, no padding, (T, V)."""
    ids = torch.tensor([[*query, *answer]])
    return model(input_ids=ids, use_cache=False).logits[0, len(query) - 1 : -1]


def plain_logprobs(
    model: nn.Module, query: Sequence[int], answer: Sequence[int], temperature: float = 1.0
) -> Tensor:
    """Log-probability of each token of the answer, by a plain forward pass, (T,)."""
    logprobs = (plain_logits(model, query, answer) / temperature).log_softmax(dim=-1)
    return logprobs[torch.arange(len(answer)), torch.tensor(answer)]


@torch.no_grad()
def uniforms_for(agent: AgentLLM, query: Tensor, rows: Sequence[Sequence[int]]) -> Tensor:
    """Random numbers that make the policy write exactly these tokens, (P, T); tried out."""
    uniforms = torch.empty(len(rows), len(rows[0]), dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for number, row in enumerate(rows):
        logits = plain_logits(agent.model, query.tolist(), row)
        for place, token in enumerate(row):
            found: list[float] = []
            while not found:
                tried = torch.rand(2000, generator=generator, dtype=torch.float64)
                drawn = next_token(logits[place].expand(2000, -1), tried, agent.temperature)
                found = tried[drawn == token].tolist()
            uniforms[number, place] = found[0]
    return uniforms
