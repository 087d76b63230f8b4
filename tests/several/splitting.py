"""What is asked of an agent that two processes hold together, by ``tests/several/worker.py``."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from stableprompt.models.adapters import Role
from stableprompt.models.agent import AgentLLM
from stableprompt.models.ranks import ALONE, Ranks
from stableprompt.models.responses import Responses
from stableprompt.speakers import load_agent
from stableprompt.tuning.randomness import derive_uniforms
from tests.fakes.agents import MESSAGES
from tests.several.runs import local_config

Rows = Sequence[int]


def check_split(ranks: Ranks, model: Path) -> None:
    """It is the one that each could hold alone, however unequal what they ask of it."""
    config = local_config(model)
    alone, together = load_agent(config), load_agent(config, ranks)
    check_parts(alone, together)
    query = alone.query_ids(MESSAGES)
    uniforms = derive_uniforms(1, rows=5, length=8)
    written = alone.sample(query, uniforms)

    # Of one row the second process has none, and makes idle calls alone.
    for mine in ([[0], []], [[0], [1, 2, 3, 4]]):
        rows = mine[ranks.number]
        found = ranks.each(lambda rows=rows: rows and together.sample(query, uniforms[rows]).texts)
        assert [text for part in found for text in part] == [
            written.texts[row] for part in mine for row in part
        ]
    read = (query, written.ids, written.mask)
    judged = ranks.first_does(lambda: together.evaluate(*read, role=Role.ANCHOR).logprobs)
    torch.testing.assert_close(judged, alone.evaluate(*read, role=Role.ANCHOR).logprobs)

    # Backward passes by process, and the calls of each: two beside none, one call beside two.
    check_gradients(alone, together, ranks, written, [[[[0]], [[1, 2]]], []])
    check_gradients(alone, together, ranks, written, [[[[0]]], [[[1, 2], [3, 4]]]])
    tails = [alone.query_ids([{"role": "user", "content": text}]) for text in "abcde"]
    check_gradients(alone, together, ranks, written, [[[[0]], [[1, 2]]], []], tails)


def check_parts(alone: AgentLLM, together: AgentLLM) -> None:
    """Each process holds half of all layers but what learns, and nothing of them twice."""
    layers = alone.loaded.model.base_model.layers
    learned = {id(weight) for weight in alone.adapted.weights()}
    frozen = sum(p.numel() for p in layers.parameters() if id(p) not in learned)
    split = [
        p for p in together.loaded.model.base_model.layers.parameters() if isinstance(p, DTensor)
    ]
    assert sum(p.numel() for p in split) == frozen
    assert sum(p.to_local().numel() for p in split) == frozen // 2


def check_gradients(
    alone: AgentLLM,
    together: AgentLLM,
    ranks: Ranks,
    written: Responses,
    passes: Sequence[Sequence[Sequence[Rows]]],
    tails: Sequence[Tensor] = (),
) -> None:
    """What the processes add up is what one alone finds."""
    for own in passes:
        for calls in own:
            learn(alone, written, calls, ALONE, tails)
    for calls in passes[ranks.number]:
        learn(together, written, calls, ranks, tails)
    for one, other in zip(alone.learned_parameters(), together.learned_parameters(), strict=True):
        [summed] = ranks.add([torch.zeros_like(other) if other.grad is None else other.grad])
        assert one.grad is not None
        torch.testing.assert_close(summed, one.grad, rtol=1e-4, atol=1e-5)
        one.grad = other.grad = None


def learn(
    agent: AgentLLM,
    written: Responses,
    calls: Sequence[Rows],
    ranks: Ranks,
    tails: Sequence[Tensor],
) -> None:
    """One backward pass of several calls; with tails they do not read on from the query's end."""
    losses: list[Tensor] = []
    for rows in calls:
        own = [tuple(tails[row].tolist()) for row in rows] if tails else ()
        told = agent(agent.query_ids(MESSAGES), written.ids[rows], written.mask[rows], own)
        losses.append(told.logprobs.sum() + told.values.sum())
    ranks.lockstep.backward(torch.stack(losses).sum(), torch.Tensor.backward)
