"""Rows that begin alike: written and judged together as each would be alone."""

from typing import Any

import pytest
import torch

from stableprompt.models.adapters import Role
from stableprompt.models.agent import AgentLLM
from stableprompt.models.tails import apart, by_tail, left_pad, positions, split_off
from stableprompt.tuning.randomness import derive_uniforms
from tests.fakes.word_agent import make_agent

QUERIES = [[1, 5, 6, 7, 8, 2, 9], [1, 5, 6, 9, 2], [1, 5, 6, 10, 11, 12, 13, 14, 2, 9]]


def agent_of(kind: str, monkeypatch: pytest.MonkeyPatch) -> AgentLLM:
    """One that reads rows together, or one whose architecture cannot."""
    agent = make_agent(seed=3, temperature=0.7)
    with torch.no_grad():
        for number, parameter in enumerate(agent.adapted.parameters()):
            parameter.add_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)),
                alpha=0.1,
            )
    if kind == "apart":
        monkeypatch.setattr(AgentLLM, "_continues", False)
    return agent


def test_the_common_beginning_leaves_a_token_to_each_row() -> None:
    assert split_off(QUERIES) == ([1, 5, 6], [tuple(query[3:]) for query in QUERIES])
    assert split_off([[1, 2, 3]] * 2) == ([1, 2], [(3,), (3,)])
    assert split_off([[1, 2, 3], [1, 2]]) == ([1], [(2, 3), (2,)])


def test_tails_are_padded_on_the_left_and_positions_do_not_count_it() -> None:
    ids, real = left_pad([(4, 5, 6), (7,)], 0, torch.device("cpu"))
    assert ids.tolist() == [[4, 5, 6], [0, 0, 7]]
    assert real.tolist() == [[True] * 3, [False, False, True]]
    seen = torch.cat([torch.ones(2, 2, dtype=torch.bool), real], dim=1)
    assert positions(seen).tolist() == [[0, 1, 2, 3, 4], [0, 1, 1, 1, 2]]


def test_rows_of_the_same_tail_are_one_query() -> None:
    found = by_tail(torch.tensor([1]), [(2, 3), (4,), (2, 3)])
    assert [(query.tolist(), rows) for query, rows in found] == [([1, 2, 3], [0, 2]), ([1, 4], [1])]


@pytest.mark.parametrize("kind", ["together", "apart"])
@pytest.mark.parametrize("greedy", [False, True])
def test_prompts_are_those_that_each_query_has_alone(
    kind: str, greedy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = agent_of(kind, monkeypatch)
    shared, tails = split_off(QUERIES)
    uniforms = derive_uniforms(5, "test", rows=3, length=9)
    found = agent.sample(torch.tensor(shared), uniforms, tails=tails, greedy=greedy)
    for row, query in enumerate(QUERIES):
        alone = agent.sample(torch.tensor(query), uniforms[row : row + 1], greedy=greedy)
        assert found.texts[row] == alone.texts[0]
        assert found.truncated[row] == alone.truncated[0]
        assert found.ids[row][found.mask[row]].tolist() == alone.ids[0][alone.mask[0]].tolist()


def test_greedy_takes_the_most_probable_token_whatever_the_numbers() -> None:
    agent = make_agent(seed=3)
    query = torch.tensor(QUERIES[0])
    one, other = (derive_uniforms(seed, "test", rows=2, length=6) for seed in (1, 2))
    assert (
        agent.sample(query, one, greedy=True).texts == agent.sample(query, other, greedy=True).texts
    )
    assert len(set(agent.sample(query, one).texts)) == 2


def judged(agent: AgentLLM, query: Any, responses: Any, mask: Any, **more: Any) -> Any:
    return agent.evaluate(torch.tensor(query), responses, mask, role=Role.POLICY, **more)


@pytest.mark.parametrize("kind", ["together", "apart"])
def test_prompts_are_as_likely_as_behind_each_query_alone(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = agent_of(kind, monkeypatch)
    shared, tails = split_off(QUERIES)
    responses = torch.tensor([[5, 6, 2, 0], [9, 2, 0, 0], [8, 7, 6, 2]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    found = judged(agent, shared, responses, mask, tails=tails)
    for row, query in enumerate(QUERIES):
        one = slice(row, row + 1)
        alone = judged(agent, query, responses[one], mask[one])
        assert torch.allclose(found.logprobs[one], alone.logprobs, atol=1e-5)
        assert torch.allclose(found.entropies[one], alone.entropies, atol=1e-5)


@pytest.mark.parametrize("kind", ["together", "apart"])
def test_gradients_are_those_of_each_query_alone(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = agent_of(kind, monkeypatch)
    shared, tails = split_off(QUERIES)
    responses = torch.tensor([[5, 6, 2], [9, 2, 0], [8, 7, 2]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1]]).bool()
    agent(torch.tensor(shared), responses, mask, tails).logprobs.sum().backward()
    together = [p.grad.clone() for p in agent.adapted.parameters()]
    agent.zero_grad()
    for row, query in enumerate(QUERIES):
        one = slice(row, row + 1)
        agent(torch.tensor(query), responses[one], mask[one]).logprobs.sum().backward()
    for p, grad in zip(agent.adapted.parameters(), together, strict=True):
        assert p.grad is not None
        assert torch.allclose(p.grad, grad, atol=1e-5)


def test_what_is_read_apart_comes_back_in_the_order_of_the_rows() -> None:
    def run(whole: torch.Tensor, rows: list[int]) -> tuple[torch.Tensor, ...]:
        return torch.tensor([[int(whole.sum()), row] for row in rows]), torch.tensor(rows)

    sums, numbers = apart(torch.tensor([1]), [(2,), (30,), (2,), (4,)], run)
    assert sums.tolist() == [[3, 0], [31, 1], [3, 2], [5, 3]]
    assert numbers.tolist() == [0, 1, 2, 3]
