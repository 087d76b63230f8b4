"""Phase 2 of a step: PPO on one rollout."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from stableprompt.config import PPOConfig
from stableprompt.models.adapters import Role
from stableprompt.models.memory import free_memory, ran_out_of_memory
from stableprompt.models.training import Trainable, load_training_tensors, training_tensors
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

_ATTEMPTS: Final = 6


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
    """Before it is clipped; the largest that is a number."""
    entropy: float
    """Of the policy that sampled, nats per token."""
    explained_variance: float | None
    """1 - var(returns - values) / var(returns) over tokens, before the update; None without a value
    head, or where all returns are equal."""
    skipped_minibatches: int
    """Whose gradient was no number; nothing was learned from them."""
    learning_rate: float
    kl_coef: float
    undone: int
    """Updates of this step that moved the policy too far and were taken back."""
    update_kl: float | None
    """KL(old policy || policy) after the update that stayed, k3, nats per token; None where it has
    no limit, 0 where none stayed."""


def advantages_of(rollout: Rollout, config: PPOConfig) -> tuple[Tensor, Tensor]:
    """Advantages and value targets of a rollout, (P, T) each.

    "group": relative to the mean reward of the prompts for the same meta-prompt; the value targets
    are then the old values, so that the value loss is 0. "gae": StablePrompt eq. 4, whitened over
    the step's tokens.
    """
    if config.advantage == "group":
        return _group_advantages(rollout), rollout.old_values
    rewards = token_rewards(rollout.rewards, rollout.mask)
    advantages, returns = estimate_advantages(
        rollout.old_values,
        rewards,
        rollout.mask,
        discount=config.discount,
        gae_lambda=config.gae_lambda,
    )
    return whiten(advantages, rollout.mask), returns


def _group_advantages(rollout: Rollout) -> Tensor:
    if rollout.groups is None:
        return group_advantages(rollout.rewards, rollout.mask)
    advantages = torch.zeros_like(rollout.old_logprobs)
    for group in range(int(rollout.groups.max()) + 1):
        rows = rollout.groups == group
        advantages[rows] = group_advantages(rollout.rewards[rows], rollout.mask[rows])
    return advantages


def learn(trainable: Trainable, rollout: Rollout, config: PPOConfig, *, seed: int) -> UpdateStats:
    """Train the policy on a rollout, within the limit that is set on how far it may move.

    An update that moves it further than ``max_update_kl`` is taken back, weights and optimizer
    state, and made again with half the learning rate. What is too far after ``_ATTEMPTS`` is left
    out: the policy stays as it was.
    """
    if config.max_update_kl is None:
        return ppo_update(trainable, rollout, config, seed=seed)
    before = training_tensors(trainable)
    for attempt in range(_ATTEMPTS):
        slower = config.model_copy(update={"learning_rate": config.learning_rate / 2**attempt})
        stats = ppo_update(trainable, rollout, slower, seed=seed)
        now = trainable.agent.evaluate(
            rollout.query_ids,
            rollout.response_ids,
            rollout.mask,
            rollout.tails,
            role=Role.POLICY,
        )
        moved = float(anchor_kl(rollout.old_logprobs, now.logprobs, rollout.sampled_mask))
        if moved <= config.max_update_kl:  # false for what is no number, too
            return replace(stats, undone=attempt, update_kl=moved)
        load_training_tensors(trainable, before)
    return replace(stats, undone=_ATTEMPTS, update_kl=0.0)


def ppo_update(
    trainable: Trainable, rollout: Rollout, config: PPOConfig, *, seed: int
) -> UpdateStats:
    """Train the policy on a rollout (StablePrompt eq. 12).

    Args:
        trainable: The agent as Accelerate prepared it, and its optimizer.
        rollout: What was collected.
        config: Coefficients and sizes.
        seed: Shuffles the minibatches.
    """
    agent, optimizer = trainable.prepared, trainable.optimizer
    accelerator = trainable.accelerator
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate
    advantages, returns = advantages_of(rollout, config)
    records = []
    skipped = 0
    rows_at_once = config.minibatch_size
    for chosen in _minibatches(len(rollout.rewards), config, seed):

        def backward(part: Tensor, share: Tensor) -> Tensor:
            return _backward(
                agent, accelerator, rollout, (advantages, returns), part, share, config
            )

        rows_at_once, figures = _in_parts(optimizer, rollout.mask, chosen, rows_at_once, backward)
        norm = float(accelerator.clip_grad_norm_(agent.parameters(), config.max_grad_norm))
        sound = math.isfinite(norm) and bool(figures.isfinite().all())
        if sound:
            optimizer.step()
            records.append([*figures.tolist(), norm])
        skipped += not sound
        optimizer.zero_grad()
    # Where every gradient was broken there is nothing to average: the counts say it.
    losses, value_losses, fractions, moves, norms = zip(*(records or [[0.0] * 5]), strict=True)
    return UpdateStats(
        policy_loss=sum(losses) / len(losses),
        value_loss=sum(value_losses) / len(value_losses),
        anchor_kl=float(
            anchor_kl(rollout.old_logprobs, rollout.anchor_logprobs, rollout.sampled_mask)
        ),
        step_kl=moves[-1],
        clip_fraction=sum(fractions) / len(fractions),
        gradient_norm=max(norms),
        entropy=float(masked_mean(rollout.entropies, rollout.sampled_mask)),
        explained_variance=explained_variance(rollout, returns, config),
        skipped_minibatches=skipped,
        learning_rate=config.learning_rate,
        kl_coef=config.kl_coef,
        undone=0,
        update_kl=None,
    )


def explained_variance(rollout: Rollout, returns: Tensor, config: PPOConfig) -> float | None:
    """The share of the returns' variance that the value head foresaw, at most 1."""
    if config.advantage != "gae":
        return None
    wanted, known = returns[rollout.mask], rollout.old_values[rollout.mask]
    spread = wanted.var(correction=0)
    return float(1 - (wanted - known).var(correction=0) / spread) if spread > 0 else None


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
    tails = [rollout.tails[row] for row in rows.tolist()] if rollout.tails else ()
    now = agent(rollout.query_ids, rollout.response_ids[rows], mask, tails)
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
    backward: Callable[[Tensor, Tensor], Tensor],
) -> tuple[int, Tensor]:
    """The gradients of a minibatch, in parts of ``size`` rows, fewer where memory runs out.

    Returns:
        The size that fitted, and the sum of what ``backward`` returned.
    """
    total = mask[chosen].sum()
    while True:
        try:
            parts = torch.split(chosen, size)
            return size, sum(
                (backward(part, mask[part].sum() / total) for part in parts),
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
