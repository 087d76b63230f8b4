"""Phase 2 of a step: PPO on one rollout."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from stableprompt.config import PPOConfig
from stableprompt.models.adapters import Role
from stableprompt.models.memory import free_memory, ran_out_of_memory
from stableprompt.models.numbers import broken_in
from stableprompt.models.training import (
    Trainable,
    add_gradients,
    backward,
    learned_tensors,
    load_training_tensors,
    training_tensors,
)
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
_FIGURES: Final = ("policy loss", "value loss", "clip fraction", "step KL")


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
    explained_variance: float | None
    """1 - var(returns - values) / var(returns) over tokens, before the update; None without a value
    head, or where all returns are equal."""
    learning_rate: float
    kl_coef: float
    undone: int
    """Updates of this step that were taken back: they moved the policy too far, or broke."""
    update_kl: float | None
    """KL(old policy || policy) after the update that stayed, k3, nats per token; None where it has
    no limit, 0 where none stayed."""
    broken: str | None = None
    """Why none stayed, where it was a number that is not finite: what it is, and where."""


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
    out: the policy stays as it was. So is an update in which, or after which, a number is not
    finite; where there is no limit, it is not made again.
    """
    limit = config.max_update_kl
    attempts = 1 if limit is None else _ATTEMPTS
    before = training_tensors(trainable)
    for attempt in range(attempts):
        slower = config.model_copy(update={"learning_rate": config.learning_rate / 2**attempt})
        stats = ppo_update(trainable, rollout, slower, seed=seed)
        moved, broken = _judged(trainable, rollout, stats.broken)
        if broken is None and (limit is None or moved <= limit):
            return replace(stats, undone=attempt, update_kl=None if limit is None else moved)
        load_training_tensors(trainable, before)
    return replace(stats, undone=attempts, update_kl=None if limit is None else 0.0, broken=broken)


def _judged(trainable: Trainable, rollout: Rollout, during: str | None) -> tuple[float, str | None]:
    """How far the policy has moved, k3, nats per token; what of it is broken, if anything is.

    The weights first: where they broke, what broke ``during`` the update is a consequence.
    """
    broken = broken_in(learned_tensors(trainable))
    if broken is not None:
        return 0.0, f"after the update, {broken}"
    if during is not None:
        return 0.0, during
    now = trainable.agent.evaluate(
        rollout.query_ids, rollout.response_ids, rollout.mask, rollout.tails, role=Role.POLICY
    )
    broken = broken_in({"logprobs": now.logprobs, "values": now.values})
    moved = float(anchor_kl(rollout.old_logprobs, now.logprobs, rollout.sampled_mask))
    return moved, None if broken is None else f"after the update, {broken}"


def ppo_update(
    trainable: Trainable, rollout: Rollout, config: PPOConfig, *, seed: int
) -> UpdateStats:
    """Train the policy on a rollout (StablePrompt eq. 12), as far as the numbers are finite.

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
    broken = None
    rows_at_once = config.minibatch_size
    for number, chosen in enumerate(_minibatches(len(rollout.rewards), config, seed)):

        def run(part: Tensor, share: Tensor) -> Tensor:
            return _backward(trainable, rollout, (advantages, returns), part, share, config)

        rows_at_once, figures = _in_parts(trainable, rollout.mask, chosen, rows_at_once, run)
        figures = add_gradients(trainable, figures)
        # Before they are clipped: one broken gradient would make all others NaN, and hide.
        norm = float(get_total_norm([p.grad for p in agent.parameters() if p.grad is not None]))
        broken = _broken_minibatch(agent, figures, norm)
        if broken is None:
            accelerator.clip_grad_norm_(agent.parameters(), config.max_grad_norm)
            optimizer.step()
            records.append([*figures.tolist(), norm])
        optimizer.zero_grad()
        if broken is not None:
            broken = f"in minibatch {number} of the update, {broken}"
            break
    # Where the first gradient was broken there is nothing to average.
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
        learning_rate=config.learning_rate,
        kl_coef=config.kl_coef,
        undone=0,
        update_kl=None,
        broken=broken,
    )


def _broken_minibatch(agent: Any, figures: Tensor, norm: float) -> str | None:
    """The first of its numbers that is not finite, the losses before the gradients."""
    losses = dict(zip(_FIGURES, figures, strict=True))
    found = broken_in(losses)
    if found is None and not math.isfinite(norm):
        # Finite gradients may have a norm that is too large a number: clipped they would be 0.
        gradients = {f"gradient of {name}": p.grad for name, p in agent.named_parameters()}
        found = broken_in(gradients) or f"gradient norm: {norm}"
    return found


def explained_variance(rollout: Rollout, returns: Tensor, config: PPOConfig) -> float | None:
    """The share of the returns' variance that the value head foresaw, at most 1."""
    if config.advantage != "gae":
        return None
    wanted, known = returns[rollout.mask], rollout.old_values[rollout.mask]
    spread = wanted.var(correction=0)
    return float(1 - (wanted - known).var(correction=0) / spread) if spread > 0 else None


def _backward(
    trainable: Trainable,
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
    now = trainable.prepared(rollout.query_ids, rollout.response_ids[rows], mask, tails)
    policy_loss = clipped_policy_loss(
        now.logprobs, old_logprobs, advantages, mask, clip_range=config.clip_range
    )
    value_loss = clipped_value_loss(
        now.values, rollout.old_values[rows], returns, mask, clip_range=config.clip_range
    )
    kl_loss = anchor_kl_loss(now.logprobs, rollout.anchor_logprobs[rows], mask)
    loss = policy_loss + config.value_coef * value_loss + config.kl_coef * kl_loss
    backward(trainable, loss * share)
    logprobs = now.logprobs.detach()
    fraction = clip_fraction(logprobs, old_logprobs, mask, clip_range=config.clip_range)
    moved = anchor_kl(old_logprobs, logprobs, mask)
    return torch.stack([policy_loss.detach(), value_loss.detach(), fraction, moved]) * share


def _in_parts(
    trainable: Trainable,
    mask: Tensor,
    chosen: Tensor,
    size: int,
    run: Callable[[Tensor, Tensor], Tensor],
) -> tuple[int, Tensor]:
    """The gradients of this process's share of a minibatch, in parts of ``size`` rows, fewer where
    memory runs out.

    Returns:
        The size that fitted, and the sum of what ``run`` returned.
    """
    total = mask[chosen].sum()  # of the whole minibatch: the shares of all processes add up to 1
    mine = chosen[trainable.ranks.share(len(chosen))]
    while True:
        try:
            parts = torch.split(mine, size) if len(mine) else ()
            return size, sum(
                (run(part, mask[part].sum() / total) for part in parts),
                start=torch.zeros(len(_FIGURES), device=mask.device),
            )
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not ran_out_of_memory(error):
                raise
            trainable.ranks.lockstep.require_alone(error)
        trainable.optimizer.zero_grad()  # a part may have left its gradients, or some of them
        free_memory()
        size = (min(size, len(mine)) + 1) // 2


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
