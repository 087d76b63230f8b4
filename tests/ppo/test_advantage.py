import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stableprompt.ppo.advantage import estimate_advantages, group_advantages, token_rewards

# Two prompts, of three tokens and of two.
MASK = torch.tensor([[True, True, True], [True, True, False]])
VALUES = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 70.0]])
REWARDS = torch.tensor([[0.0, 0.0, 4.0], [0.5, 3.0, 90.0]])


def test_the_reward_lies_on_the_last_real_token() -> None:
    mask = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    rewards = torch.tensor([1.5, -2.0, 0.25])
    expected = torch.tensor([[0.0, 0.0, 1.5], [0.0, -2.0, 0.0], [0.25, 0.0, 0.0]])
    assert torch.equal(token_rewards(rewards, mask), expected)


def test_token_rewards_keep_their_precision() -> None:
    rewards = torch.tensor([0.1], dtype=torch.float64)
    assert token_rewards(rewards, torch.ones(1, 2, dtype=torch.bool))[0, 1].item() == 0.1


def test_advantages_and_returns_by_hand() -> None:
    advantages, returns = estimate_advantages(VALUES, REWARDS, MASK, discount=0.5, gae_lambda=0.8)
    # gamma * lambda = 0.4. Row 0, from the end:
    #   delta = 4 - 3 = 1                A = 1
    #   delta = 0 + 0.5 * 3 - 2 = -0.5   A = -0.5 + 0.4 * 1 = -0.1
    #   delta = 0 + 0.5 * 2 - 1 = 0      A = 0 + 0.4 * -0.1 = -0.04
    # Row 1 ends with its second token: the 70 and the 90 behind it do not exist.
    #   delta = 3 - 2 = 1                A = 1
    #   delta = 0.5 + 0.5 * 2 - 1 = 0.5  A = 0.5 + 0.4 * 1 = 0.9
    expected = torch.tensor([[-0.04, -0.1, 1.0], [0.9, 1.0, 0.0]])
    torch.testing.assert_close(advantages, expected, rtol=1e-6, atol=1e-7)
    # return = advantage + value
    expected = torch.tensor([[0.96, 1.9, 4.0], [1.9, 3.0, 0.0]])
    torch.testing.assert_close(returns, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("padding", [0.0, 1e6, math.nan, math.inf])
def test_what_lies_behind_the_last_real_token_does_not_matter(padding: float) -> None:
    filler = torch.tensor(padding)
    got = estimate_advantages(
        VALUES.where(MASK, filler),
        REWARDS.where(MASK, filler),
        MASK,
        discount=0.5,
        gae_lambda=0.8,
    )
    alone = estimate_advantages(
        VALUES[1:, :2], REWARDS[1:, :2], MASK[1:, :2], discount=0.5, gae_lambda=0.8
    )
    for padded, trimmed in zip(got, alone, strict=True):
        assert torch.equal(padded[1:, :2], trimmed)
        assert padded[1, 2] == 0


def test_without_discounting_the_return_is_the_reward_to_come() -> None:
    # gamma = lambda = 1: values cancel. Row 0: 4 from everywhere; row 1: 0.5 + 3, then 3.
    advantages, returns = estimate_advantages(VALUES, REWARDS, MASK, discount=1.0, gae_lambda=1.0)
    assert torch.equal(returns, torch.tensor([[4.0, 4.0, 4.0], [3.5, 3.0, 0.0]]))
    assert torch.equal(advantages, torch.tensor([[3.0, 2.0, 1.0], [2.5, 1.0, 0.0]]))


def test_with_lambda_0_the_advantage_is_the_one_step_error() -> None:
    advantages, _ = estimate_advantages(VALUES, REWARDS, MASK, discount=0.5, gae_lambda=0.0)
    assert torch.equal(advantages, torch.tensor([[0.0, -0.5, 1.0], [0.5, 1.0, 0.0]]))


fractions = st.floats(0, 1)
numbers = st.floats(-5, 5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6), fractions, fractions)
def test_advantages_are_the_discounted_sum_of_one_step_errors(
    tokens: list[tuple[float, float]], discount: float, gae_lambda: float
) -> None:
    values = [value for value, _ in tokens] + [0.0]
    errors = [r + discount * values[t + 1] - values[t] for t, (_, r) in enumerate(tokens)]
    expected = [
        sum((discount * gae_lambda) ** k * error for k, error in enumerate(errors[t:]))
        for t in range(len(tokens))
    ]
    table = torch.tensor(tokens, dtype=torch.float64)
    advantages, _ = estimate_advantages(
        table[:, 0].unsqueeze(0),
        table[:, 1].unsqueeze(0),
        torch.ones(1, len(tokens), dtype=torch.bool),
        discount=discount,
        gae_lambda=gae_lambda,
    )
    assert advantages[0].tolist() == pytest.approx(expected, abs=1e-12)


def test_group_advantages_by_hand() -> None:
    # mean 3; variance (4 + 1 + 1 + 4) / 4 = 2.5
    mask = torch.tensor([[True, True], [True, False], [True, True], [True, False]])
    far, near = 2 / math.sqrt(2.5), 1 / math.sqrt(2.5)
    expected = torch.tensor([[-far, -far], [-near, 0.0], [near, near], [far, 0.0]])
    advantages = group_advantages(torch.tensor([1.0, 2.0, 4.0, 5.0]), mask)
    torch.testing.assert_close(advantages, expected, rtol=1e-6, atol=1e-7)


def test_the_epsilon_of_a_group_is_added_to_the_variance() -> None:
    # mean 0, variance 1e-8, plus 1e-8: 1e-4 / sqrt(2e-8) = 1 / sqrt(2)
    rewards = torch.tensor([1e-4, -1e-4], dtype=torch.float64)
    advantages = group_advantages(rewards, torch.ones(2, 1, dtype=torch.bool), epsilon=1e-8)
    expected = torch.tensor([[1.0], [-1.0]], dtype=torch.float64) / math.sqrt(2)
    torch.testing.assert_close(advantages, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("reward", [0.0, 0.25, -1.0])
def test_a_group_of_equal_rewards_teaches_nothing(reward: float) -> None:
    advantages = group_advantages(torch.full((4,), reward), torch.ones(4, 2, dtype=torch.bool))
    assert (advantages == 0).all()


def test_equal_rewards_teach_nothing_however_the_mean_is_rounded() -> None:
    rewards = torch.full((12,), 11.975903511047363)
    assert (group_advantages(rewards, torch.ones(12, 1, dtype=torch.bool)) == 0).all()
