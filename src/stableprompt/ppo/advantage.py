"""From one reward per prompt to one advantage per token."""

import torch
from torch import Tensor


def token_rewards(rewards: Tensor, mask: Tensor) -> Tensor:
    """Put each prompt's reward on its last real token; every other token gets 0.

    Args:
        rewards: One reward per prompt, shape (P,).
        mask: True where a response token is real, shape (P, T); every row starts with True.

    Returns:
        Shape (P, T).
    """
    last = mask.sum(dim=1, keepdim=True) - 1  # (P, 1)
    placed = torch.zeros(mask.shape, dtype=rewards.dtype, device=rewards.device)
    return placed.scatter(1, last, rewards.unsqueeze(1))


def estimate_advantages(
    values: Tensor, rewards: Tensor, mask: Tensor, *, discount: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016; StablePrompt eq. 4).

    The episode ends with the last real token: the value after it is 0.

    Args:
        values: Value of the state before each token, shape (P, T).
        rewards: Token rewards, shape (P, T).
        mask: True where a response token is real, shape (P, T).
        discount: gamma, 0-1.
        gae_lambda: lambda, 0-1.

    Returns:
        Advantages and returns (advantage + value), both (P, T) and 0 where mask is False.
    """
    zero = values.new_zeros(values.shape[0])
    advantages = torch.zeros_like(values)
    next_value, next_advantage = zero, zero
    for t in reversed(range(values.shape[1])):
        real = mask[:, t]
        # delta_t = r_t + gamma * V(s_{t+1}) - V(s_t)
        delta = rewards[:, t] + discount * next_value - values[:, t]
        # A_t = delta_t + gamma * lambda * A_{t+1}
        advantage = (delta + discount * gae_lambda * next_advantage).where(real, zero)
        advantages[:, t] = advantage
        next_advantage = advantage
        next_value = values[:, t].where(real, zero)
    returns = (advantages + values).where(mask, torch.zeros_like(values))
    return advantages, returns


def group_advantages(rewards: Tensor, mask: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Group-relative advantages: reward minus the group's mean, over its standard deviation.

    All prompts of a group were written for the same query and scored on the same examples, so
    the mean is a baseline that needs no value head (Shao et al. 2024, GRPO). Every token of a
    prompt gets the same advantage. A group of equal rewards teaches nothing and gives 0.

    Args:
        rewards: One reward per prompt of the group, shape (P,).
        mask: True where a response token is real, shape (P, T).
        epsilon: Added to the variance.

    Returns:
        Shape (P, T); 0 where mask is False.
    """
    if (rewards == rewards[0]).all():  # rounding of the mean must not become an advantage
        return torch.zeros(mask.shape, dtype=rewards.dtype, device=rewards.device)
    centred = rewards - rewards.mean()
    scaled = centred * (centred.square().mean() + epsilon).rsqrt()
    return scaled.unsqueeze(1) * mask
