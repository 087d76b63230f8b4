"""Phase 2 of a step: PPO on one rollout."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stableprompt.config import PPOConfig
from stableprompt.models.memory import free_memory, ran_out_of_memory
from stableprompt.ppo.advantage import estimate_advantages, group_advantages, token_rewards
from stableprompt.ppo.loss import (
    anchor_kl,
    anchor_kl_loss,
    clip_fraction,
    clipped_policy_loss,
    clipped_value_loss,
)
from stableprompt.ppo.masked import masked_mean, whiten
from stableprompt.ppo.rollout import Rollout


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """One update in numbers; averages over its optimizer steps unless said otherwise."""

    policy_loss: float
    value_loss: float
    anchor_kl: float
    """KL(policy || anchor) before the first optimizer step, k3, nats per token."""
    step_kl: float
    """KL(old policy || policy) at the last forward pass, k3, nats per token."""
    clip_fraction: float
    """0-1."""
    gradient_norm: float
    """Before it is clipped; the largest."""
    entropy: float
    """Of the policy that sampled, nats per token."""


def advantages_of(rollout: Rollout, config: PPOConfig) -> tuple[Tensor, Tensor]:
    """Advantages and value targets of a rollout, (P, T) each.

    "group": relative to the step's mean reward; the value targets are then the old values, so
    that the value loss is 0. "gae": StablePrompt eq. 4, whitened over the step's tokens.
    """
    if config.advantage == "group":
        return group_advantages(rollout.rewards, rollout.mask), rollout.old_values
    rewards = token_rewards(rollout.rewards, rollout.mask)
    advantages, returns = estimate_advantages(
        rollout.old_values,
        rewards,
        rollout.mask,
        discount=config.discount,
        gae_lambda=config.gae_lambda,
    )
    return whiten(advantages, rollout.mask), returns


def ppo_update(
    agent: Any, optimizer: Any, accelerator: Any, rollout: Rollout, config: PPOConfig, *, seed: int
) -> UpdateStats:
    """Train the policy on a rollout (StablePrompt eq. 12).

    Args:
        agent: The agent as Accelerate prepared it; called for log-probabilities and values.
        optimizer: Over the agent's learned parameters.
        accelerator: Runs backward and clips gradients.
        rollout: What was collected.
        config: Coefficients and sizes.
        seed: Shuffles the minibatches.
    """
    advantages, returns = advantages_of(rollout, config)
    records = []
    rows_at_once = config.minibatch_size
    for chosen in _minibatches(len(rollout.rewards), config, seed):

        def learn(part: Tensor, share: Tensor) -> Tensor:
            return _backward(
                agent, accelerator, rollout, (advantages, returns), part, share, config
            )

        rows_at_once, figures = _in_parts(optimizer, rollout.mask, chosen, rows_at_once, learn)
        norm = accelerator.clip_grad_norm_(agent.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        records.append([*figures.tolist(), float(norm)])
    losses, value_losses, fractions, moves, norms = zip(*records, strict=True)
    return UpdateStats(
        policy_loss=sum(losses) / len(losses),
        value_loss=sum(value_losses) / len(value_losses),
        anchor_kl=float(anchor_kl(rollout.old_logprobs, rollout.anchor_logprobs, rollout.mask)),
        step_kl=moves[-1],
        clip_fraction=sum(fractions) / len(fractions),
        gradient_norm=max(norms),
        entropy=float(masked_mean(rollout.entropies, rollout.mask)),
    )


def _backward(
    agent: Any,
    accelerator: Any,
    rollout: Rollout,
    goals: tuple[Tensor, Tensor],
    rows: Tensor,
    share: Tensor,
    config: PPOConfig,
) -> Tensor:
    """Gradients of some rows of a minibatch, weighted by their share of its tokens.

    Returns:
        Policy loss, value loss, clip fraction and KL(old policy || policy), each times the share.
    """
    advantages, returns = (goal[rows] for goal in goals)
    old_logprobs, mask = rollout.old_logprobs[rows], rollout.mask[rows]
    now = agent(rollout.query_ids, rollout.response_ids[rows], mask)
    policy_loss = clipped_policy_loss(
        now.logprobs, old_logprobs, advantages, mask, clip_range=config.clip_range
    )
    value_loss = clipped_value_loss(
        now.values, rollout.old_values[rows], returns, mask, clip_range=config.clip_range
    )
    kl_loss = anchor_kl_loss(now.logprobs, rollout.anchor_logprobs[rows], mask)
    loss = policy_loss + config.value_coef * value_loss + config.kl_coef * kl_loss
    accelerator.backward(loss * share)
    logprobs = now.logprobs.detach()
    fraction = clip_fraction(logprobs, old_logprobs, mask, clip_range=config.clip_range)
    moved = anchor_kl(old_logprobs, logprobs, mask)
    return torch.stack([policy_loss.detach(), value_loss.detach(), fraction, moved]) * share


def _in_parts(
    optimizer: Any,
    mask: Tensor,
    chosen: Tensor,
    size: int,
    learn: Callable[[Tensor, Tensor], Tensor],
) -> tuple[int, Tensor]:
    """The gradients of a minibatch, in parts of ``size`` rows, fewer where memory runs out.

    Returns:
        The size that fitted, and the sum of what ``learn`` returned.
    """
    total = mask[chosen].sum()
    while True:
        try:
            parts = torch.split(chosen, size)
            return size, sum(
                (learn(part, mask[part].sum() / total) for part in parts),
                start=torch.zeros((), device=mask.device),
            )
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not ran_out_of_memory(error):
                raise
        optimizer.zero_grad()  # a part may have left its gradients, the failed one some of them
        free_memory()
        size = (min(size, len(chosen)) + 1) // 2


def _minibatches(count: int, config: PPOConfig, seed: int) -> Iterator[Tensor]:
    """Shuffled indices, every prompt once an epoch; the last minibatch may be smaller.

    Within a minibatch rows keep their order: a whole-rollout minibatch is then the very batch
    whose log-probabilities were recorded, and its first ratio is exactly 1.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(config.ppo_epochs):
        order = torch.randperm(count, generator=generator)
        for start in range(0, count, config.minibatch_size):
            yield order[start : start + config.minibatch_size].sort().values
