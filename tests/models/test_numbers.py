"""Numbers that are not finite are found, named, and never taken for others."""

import math
from typing import Any

import pytest
import torch

from stableprompt.errors import ModelError, NumberError
from stableprompt.models.adapters import AdaptedModel
from stableprompt.models.head import next_token
from stableprompt.models.likelihood import continues_exactly
from stableprompt.models.numbers import broken_in
from stableprompt.models.targets.local import LocalTarget
from tests.fakes.agents import MESSAGES, make_agent, make_loaded, make_lora


def test_the_first_broken_tensor_is_named_with_what_it_holds() -> None:
    sound, nan = torch.ones(2, 3), torch.tensor([1.0, math.nan, math.inf])
    infinite = torch.tensor([[-math.inf, 1.0]])
    assert broken_in({"a": sound, "b": None, "c": torch.arange(3)}) is None
    assert broken_in({"a": sound, "b": nan, "c": infinite}) == "b: NaN in 2 of 3"
    assert broken_in({"c": infinite}) == "c: infinity in 1 of 2"
    assert broken_in({"a": torch.tensor(math.nan)}) == "a: NaN in 1 of 1"


LOGITS = [[1.0, 2.0, 3.0], [0.0, -math.inf, 1.0]]  # a token may be impossible


@pytest.mark.parametrize("greedy", [False, True])
def test_some_impossible_tokens_are_no_fault(greedy: bool) -> None:
    uniforms = None if greedy else torch.linspace(0, 0.999, 600, dtype=torch.float64)
    logits = torch.tensor(LOGITS).repeat(300, 1)
    drawn = next_token(logits, uniforms, 1.0).view(300, 2)
    assert set(drawn[:, 0].tolist()) == ({2} if greedy else {0, 1, 2})
    assert set(drawn[:, 1].tolist()) == ({2} if greedy else {0, 2})


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", [(0, 0), (1, 2)])
def test_no_token_is_drawn_from_broken_logits(
    place: tuple[int, int], value: float, greedy: bool
) -> None:
    logits = torch.tensor(LOGITS)
    logits[place] = value
    uniforms = None if greedy else torch.full((2,), 0.5, dtype=torch.float64)
    with pytest.raises(NumberError, match=r"logits of the agent.* in 1 of 2"):
        next_token(logits, uniforms, 1.0)


@pytest.mark.parametrize("greedy", [False, True])
def test_where_no_token_is_possible_none_is_drawn(greedy: bool) -> None:
    uniforms = None if greedy else torch.full((1,), 0.5, dtype=torch.float64)
    with pytest.raises(NumberError):
        next_token(torch.full((1, 3), -math.inf), uniforms, 1.0)


def broken_target() -> LocalTarget:
    loaded = make_loaded()
    assert continues_exactly(loaded)  # measured before it breaks
    with torch.no_grad():
        loaded.model.lm_head.weight[5, 0] = math.nan
    return LocalTarget(loaded)


def test_a_target_whose_probabilities_are_broken_is_told() -> None:
    with pytest.raises(ModelError, match=r"'tiny'.*not finite.*target\.dtype=float32.*resume"):
        broken_target().label_scores([MESSAGES], [("yes", "no")])


def test_a_target_whose_logits_are_broken_writes_no_answer() -> None:
    with pytest.raises(ModelError, match=r"'tiny'.*not finite"):
        broken_target().generate([MESSAGES], 4)


def test_a_starting_adapter_that_is_broken_is_refused(tmp_path: Any) -> None:
    agent = make_agent()
    with torch.no_grad():
        agent.adapted.parameters()[1].view(-1)[3] = math.nan
    agent.adapted.save_adapter(tmp_path)
    fresh = AdaptedModel(make_loaded().model, make_lora(), seed=1)
    with pytest.raises(ModelError, match=r"not finite \(.*: NaN in 1 of "):
        fresh.load_adapter(tmp_path)
    assert all(p.isfinite().all() for p in fresh.parameters())
