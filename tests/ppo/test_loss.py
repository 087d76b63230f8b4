import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stableprompt.ppo.loss import (
    anchor_kl,
    anchor_kl_loss,
    clip_fraction,
    clipped_policy_loss,
    clipped_value_loss,
)

ONE = torch.ones(1, 1, dtype=torch.bool)
POLICY_LOGITS = [0.3, -1.2, 0.9, 2.0]
ANCHOR_LOGITS = [1.1, 0.4, -0.7, 0.0]


def scalar(value: float, *, learn: bool = False) -> Tensor:
    return torch.tensor([[value]], dtype=torch.float64, requires_grad=learn)


# A token of ratio r and advantage A gives loss -min(A r, A clamp(r, 0.8, 1.2)). Where the min takes
# A r, the derivative by the log-probability is -A r; where it takes the clamped one, it is 0.
@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.5, 2.0, -2.4, 0.0),  # min(3, 2.4) = 2.4: good enough already
        (1.5, -2.0, 3.0, 3.0),  # min(-3, -2.4) = -3: a bad step is held back at full strength
        (0.5, 2.0, -1.0, -1.0),  # min(1, 1.6) = 1: likewise
        (0.5, -2.0, 1.6, 0.0),  # min(-1, -1.6) = -1.6: bad enough already
        (1.1, 2.0, -2.2, -2.2),  # inside the trust region nothing is clipped
        (0.9, -2.0, 1.8, 1.8),
    ],
)
def test_policy_loss_by_hand(ratio: float, advantage: float, loss: float, slope: float) -> None:
    old = scalar(-3.0)
    logprobs = scalar(-3.0 + math.log(ratio), learn=True)
    got = clipped_policy_loss(logprobs, old, scalar(advantage), ONE, clip_range=0.2)
    assert got.item() == pytest.approx(loss, rel=1e-12)
    got.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.item() == pytest.approx(slope, rel=1e-12, abs=0)


def test_at_ratio_1_the_policy_gradient_is_the_advantage() -> None:
    logprobs = torch.tensor([[-1.0, -2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([[3.0, -0.5, 9.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False]])
    loss = clipped_policy_loss(logprobs, logprobs.detach(), advantages, mask, clip_range=0.2)
    # -(3 - 0.5) / 2
    assert loss.item() == pytest.approx(-1.25, rel=1e-12)
    loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[-1.5, 0.25, 0.0]]


# max((v - R)^2, (clamp(v, old - 0.5, old + 0.5) - R)^2) / 2, old = 1
@pytest.mark.parametrize(
    ("value", "target", "loss", "slope"),
    [
        (1.2, 2.0, 0.32, -0.8),  # inside: 0.8^2 / 2
        (3.0, 5.0, 6.125, 0.0),  # max(4, 3.5^2 = 12.25) / 2: far enough upwards
        (3.0, 0.0, 4.5, 3.0),  # max(9, 1.5^2) / 2: went the wrong way, may come back
        (0.0, -5.0, 15.125, 0.0),  # max(25, 5.5^2 = 30.25) / 2: far enough downwards
        (0.0, 2.0, 2.0, -2.0),  # max(4, 1.5^2) / 2
    ],
)
def test_value_loss_by_hand(value: float, target: float, loss: float, slope: float) -> None:
    values = scalar(value, learn=True)
    got = clipped_value_loss(values, scalar(1.0), scalar(target), ONE, clip_range=0.5)
    assert got.item() == pytest.approx(loss, rel=1e-12)
    got.backward()
    assert values.grad is not None
    assert values.grad.item() == pytest.approx(slope, rel=1e-12, abs=0)


def test_anchor_kl_loss_by_hand() -> None:
    logprobs, anchor = torch.tensor([[-1.0, -3.0, 7.0]]), torch.tensor([[-1.5, -2.0, 0.0]])
    # log-ratios 0.5 and -1: (0.25 + 1) / 2 / 2
    assert anchor_kl_loss(logprobs, anchor, torch.tensor([[True, True, False]])).item() == 0.3125


def test_anchor_kl_by_hand() -> None:
    half = math.log(0.5)
    logprobs = torch.tensor([[half, -1.0, -5.0]], dtype=torch.float64)
    anchor = torch.tensor([[-0.0, -1.0 + half, 5.0]], dtype=torch.float64)
    # x = anchor - policy = ln 2 and -ln 2; e^x - 1 - x = 2 - 1 - ln 2 and 1/2 - 1 + ln 2.
    # Mean: (1 - ln 2 - 1/2 + ln 2) / 2 = 0.25
    got = anchor_kl(logprobs, anchor, torch.tensor([[True, True, False]]))
    assert got.item() == pytest.approx(0.25, rel=1e-12)
    first = anchor_kl(logprobs, anchor, torch.tensor([[True, False, False]]))
    assert first.item() == pytest.approx(1 - math.log(2), rel=1e-12)


def test_equal_policies_have_no_kl() -> None:
    logprobs = torch.tensor([[-0.1, -7.3]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert anchor_kl(logprobs, logprobs, mask).item() == 0
    assert anchor_kl_loss(logprobs, logprobs, mask).item() == 0


finite = st.lists(st.floats(-20, 0), min_size=4, max_size=4)


@settings(max_examples=50, deadline=None)
@given(finite, finite)
def test_anchor_kl_is_never_negative(one: list[float], other: list[float]) -> None:
    logprobs, anchor = (torch.tensor([row], dtype=torch.float64) for row in (one, other))
    # Not below 0 but for rounding: near x = 0 three numbers near 1 are subtracted.
    assert anchor_kl(logprobs, anchor, torch.ones(1, 4, dtype=torch.bool)).item() >= -1e-15


@pytest.mark.parametrize("difference", [1e-3, 1e-4, -1e-4, 3e-5])
def test_a_small_anchor_kl_is_precise_in_float32(difference: float) -> None:
    anchor = torch.tensor([[difference]])
    x = anchor.double().item()
    # e^x - 1 - x = x^2 / 2 + x^3 / 6 + ...
    got = anchor_kl(torch.zeros(1, 1), anchor, ONE).item()
    assert got == pytest.approx(x**2 / 2 + x**3 / 6, rel=1e-2)


def distributions() -> tuple[Tensor, Tensor, Tensor]:
    """Logits to learn, and log-probabilities of policy and anchor over four outcomes."""
    logits = torch.tensor(POLICY_LOGITS, dtype=torch.float64, requires_grad=True)
    anchor = torch.tensor(ANCHOR_LOGITS, dtype=torch.float64).log_softmax(0)
    return logits, logits.log_softmax(0), anchor


def expectation(
    estimator: Callable[[Tensor, Tensor, Tensor], Tensor], policy: Tensor, anchor: Tensor
) -> Tensor:
    """Over all outcomes, each as often as the policy draws it; the weights carry no gradient."""
    return torch.stack(
        [
            chance * estimator(policy[k].view(1, 1), anchor[k].view(1, 1), ONE)
            for k, chance in enumerate(policy.detach().exp())
        ]
    ).sum()


def test_anchor_kl_is_the_kl_in_expectation() -> None:
    _, policy, anchor = distributions()
    exact = (policy.exp() * (policy - anchor)).sum().item()
    assert expectation(anchor_kl, policy, anchor).item() == pytest.approx(exact, rel=1e-12)


def test_the_gradient_of_anchor_kl_loss_is_that_of_the_kl_in_expectation() -> None:
    logits, policy, anchor = distributions()
    [exact] = torch.autograd.grad((policy.exp() * (policy - anchor)).sum(), logits)
    logits, policy, anchor = distributions()
    [estimated] = torch.autograd.grad(expectation(anchor_kl_loss, policy, anchor), logits)
    assert exact.abs().max() > 0.1
    torch.testing.assert_close(estimated, exact, rtol=1e-12, atol=1e-14)


def test_clip_fraction_by_hand() -> None:
    ratios = torch.tensor([[1.5, 0.5, 1.1], [1.0, 0.85, 9.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    # 1.5 and 0.5 of five real tokens are outside 0.8 ... 1.2
    got = clip_fraction(ratios.log(), torch.zeros_like(ratios), mask, clip_range=0.2)
    assert got.item() == pytest.approx(0.4, rel=1e-6)


@pytest.mark.parametrize("padding", [math.nan, 1e3, -1e3])
def test_padding_leaks_into_no_term(padding: float) -> None:
    mask = torch.tensor([[True, True, False]])
    clean = [torch.tensor([[0.1 * k, -0.3, 0.0]]) for k in range(4)]
    dirty = [tensor.where(mask, torch.tensor(padding)) for tensor in clean]
    terms: list[Callable[[list[Tensor]], Tensor]] = [
        lambda x: clipped_policy_loss(x[3], x[1], x[2], mask, clip_range=0.2),
        lambda x: clipped_value_loss(x[3], x[1], x[2], mask, clip_range=0.2),
        lambda x: anchor_kl_loss(x[3], x[1], mask),
        lambda x: anchor_kl(x[3], x[1], mask),
        lambda x: clip_fraction(x[3], x[1], mask, clip_range=0.1),
    ]
    for term in terms:
        assert term(clean).item() != 0
        assert torch.equal(term(dirty), term(clean))
