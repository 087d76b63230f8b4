"""Random numbers: the same for the same purpose, in any process, whatever else is drawn."""

import random

import pytest
import torch

from stableprompt.tuning.randomness import derive_random, derive_seed, derive_uniforms

PURPOSES = [(0, "prompts"), (0, "anchor"), (1, "prompts"), ("prompts",), (0, "prompts", 0), ()]


@pytest.mark.parametrize(
    ("seed", "purpose", "expected"),
    [
        # printf 0/lora | sha256sum: the first 16 digits, halved.
        (0, ("lora",), 454_834_134_919_360_235),
        (7, (3, "prompts"), 1_715_429_795_114_450_198),
    ],
)
def test_seeds_are_the_same_on_every_machine(
    seed: int, purpose: tuple[str | int, ...], expected: int
) -> None:
    assert derive_seed(seed, *purpose) == expected
    assert 0 <= expected < 2**63


def test_every_purpose_has_its_own_seed() -> None:
    seeds = [derive_seed(seed, *purpose) for seed in (0, 1, 10) for purpose in PURPOSES]
    assert len(set(seeds)) == len(seeds)


def test_choices_repeat_themselves_and_differ_between_purposes() -> None:
    first = derive_random(0, 3, "examples").sample(range(1000), 20)
    random.seed(5)  # the global generators play no part
    assert derive_random(0, 3, "examples").sample(range(1000), 20) == first
    for other in ((0, 4, "examples"), (1, 3, "examples"), (0, 3, "minibatches")):
        assert derive_random(*other).sample(range(1000), 20) != first


def uniforms(*purpose: str | int, rows: int = 4, length: int = 50) -> torch.Tensor:
    return derive_uniforms(0, *purpose, rows=rows, length=length)


def test_uniforms_repeat_themselves() -> None:
    first = uniforms(3, "prompts")
    torch.manual_seed(1)
    assert torch.equal(uniforms(3, "prompts"), first)
    assert first.shape == (4, 50)
    assert first.dtype == torch.float64


def test_uniforms_do_not_move_the_global_generator() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    uniforms(0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_a_row_does_not_depend_on_how_many_there_are(rows: int) -> None:
    shared = min(rows, 4)
    assert torch.equal(uniforms("x", rows=rows)[:shared], uniforms("x", rows=4)[:shared])


def test_a_row_begins_the_same_whatever_its_length() -> None:
    assert torch.equal(uniforms("x", length=7), uniforms("x", length=50)[:, :7])


def test_rows_and_purposes_share_no_number() -> None:
    drawn = torch.cat([uniforms(step, name) for step in (0, 1) for name in ("prompts", "anchor")])
    assert len(drawn.unique()) == drawn.numel()


def test_uniforms_are_uniform_on_0_to_1() -> None:
    drawn = uniforms("x", rows=20, length=500)
    assert 0 <= drawn.min() < 0.01
    assert 0.99 < drawn.max() < 1
    # 10 000 numbers: the standard error of the mean is 0.0029, of a tenth's share 0.003.
    assert abs(drawn.mean() - 0.5) < 0.015
    tenths = torch.histc(drawn, bins=10, min=0, max=1) / drawn.numel()
    assert (tenths - 0.1).abs().max() < 0.015
