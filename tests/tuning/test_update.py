"""Phase 2 of a step: PPO on one rollout, in numbers worked by hand."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stableprompt.config import PPOConfig
from stableprompt.models.adapters import Role
from stableprompt.models.training import prepare_training
from stableprompt.ppo.rollout import Rollout
from stableprompt.tuning.randomness import derive_uniforms
from stableprompt.tuning.update import UpdateStats, advantages_of, ppo_update
from tests.fakes.word_agent import make_agent


def make_rollout(
    rewards: list[float],
    *,
    mask: list[list[bool]] | None = None,
    values: list[list[float]] | None = None,
    anchor_behind: list[list[float]] | None = None,
) -> Rollout:
    """P prompts; the first token id of each is its number, log-probabilities are -1."""
    count = len(rewards)
    real = torch.tensor(mask) if mask else torch.ones(count, 1, dtype=torch.bool)
    logprobs = -torch.ones(real.shape) * real
    behind = torch.tensor(anchor_behind) if anchor_behind else torch.zeros(real.shape)
    return Rollout(
        query_ids=torch.tensor([1]),
        response_ids=torch.arange(count).unsqueeze(1).expand(real.shape),
        mask=real,
        old_logprobs=logprobs,
        anchor_logprobs=logprobs - behind,
        entropies=torch.full(real.shape, 0.75),
        old_values=torch.tensor(values) if values else torch.zeros(real.shape),
        rewards=torch.tensor(rewards),
    )


class TableAgent(nn.Module):
    """A policy with one number for each token: its log-probability, and one for its value."""

    def __init__(self, rollout: Rollout) -> None:
        super().__init__()
        self.logprobs = nn.Parameter(rollout.old_logprobs.clone())
        self.values = nn.Parameter(rollout.old_values.clone())
        self.batches: list[list[int]] = []

    def forward(self, query_ids: Tensor, responses: Tensor, mask: Tensor) -> Any:
        rows = responses[:, 0]
        self.batches.append(rows.tolist())
        return SimpleNamespace(logprobs=self.logprobs[rows], values=self.values[rows])


class PlainAccelerator:
    """What Accelerate does in one process."""

    @staticmethod
    def backward(loss: Tensor) -> None:
        loss.backward()

    @staticmethod
    def clip_grad_norm_(parameters: Any, limit: float) -> Tensor:
        return nn.utils.clip_grad_norm_(parameters, limit)


def config(**settings: Any) -> PPOConfig:
    plain: dict[str, Any] = {
        "ppo_epochs": 1,
        "minibatch_size": 99,
        "kl_coef": 0.0,
        "max_grad_norm": 99.0,
    }
    return PPOConfig(**{**plain, **settings})


def update(
    rollout: Rollout, *, seed: int = 0, rate: float = 0.1, **settings: Any
) -> tuple[TableAgent, UpdateStats]:
    """Plain gradient descent, so that a step is the rate times the gradient."""
    agent = TableAgent(rollout)
    optimizer = torch.optim.SGD(agent.parameters(), lr=rate)
    stats = ppo_update(agent, optimizer, PlainAccelerator(), rollout, config(**settings), seed=seed)
    return agent, stats


def moved(agent: TableAgent, rollout: Rollout) -> list[float]:
    return (agent.logprobs.detach() - rollout.old_logprobs).flatten().tolist()


# --- advantages ---


def test_group_advantages_are_relative_to_the_steps_mean_and_teach_no_value() -> None:
    # Mean 2, deviations -2, 0, 2, mean square 8/3: +-2 / 1.63299 = +-1.224745.
    mask = [[True, False], [True, True], [True, True]]
    rollout = make_rollout([0.0, 2.0, 4.0], mask=mask, values=[[0.3, 0.0], [0.1, 0.2], [0.0, 0.4]])
    advantages, returns = advantages_of(rollout, config())
    a = 1.224745
    assert advantages.tolist() == [
        pytest.approx([-a, 0.0], abs=1e-5),
        pytest.approx([0.0, 0.0], abs=1e-5),
        pytest.approx([a, a], abs=1e-5),
    ]
    assert torch.equal(returns, rollout.old_values)


def test_gae_advantages_are_whitened_and_returns_are_the_value_targets() -> None:
    # One prompt of two tokens, gamma 1, lambda 0.5, reward 1 at the end, values 0.2 and 0.6:
    # A_2 = 1 - 0.6 = 0.4; A_1 = (0.6 - 0.2) + 0.5 * 0.4 = 0.6. Another of one token: 0 - 0.1.
    mask = [[True, True], [True, False]]
    rollout = make_rollout([1.0, 0.0], mask=mask, values=[[0.2, 0.6], [0.1, 9.0]])
    advantages, returns = advantages_of(rollout, config(advantage="gae", gae_lambda=0.5))
    # Mean 0.3, deviations 0.3, 0.1, -0.4, mean square 0.26 / 3, root 0.294392.
    scale = math.sqrt(0.26 / 3)
    assert advantages.tolist() == [
        pytest.approx([0.3 / scale, 0.1 / scale], abs=1e-5),
        pytest.approx([-0.4 / scale, 0.0], abs=1e-5),
    ]
    assert returns.tolist() == [pytest.approx([0.8, 1.0]), pytest.approx([0.0, 0.0])]


def test_gae_takes_discount_and_lambda_from_the_settings() -> None:
    mask = [[True, True], [True, True]]
    rollout = make_rollout([1.0, 0.0], mask=mask, values=[[0.0, 0.0], [0.0, 0.0]])
    _, returns = advantages_of(rollout, config(advantage="gae", gae_lambda=0.5, discount=0.8))
    assert returns[0].tolist() == pytest.approx([0.4, 1.0])


# --- one optimizer step ---


def test_a_step_moves_the_policy_by_advantage_and_kl() -> None:
    # Advantages +1 and -1 over 2 tokens: gradients -1/2 and 1/2. The anchor is 0.2 behind the
    # first: its gradient there is 0.5 * 0.2 / 2 = 0.05.
    rollout = make_rollout([1.0, 0.0], anchor_behind=[[0.2], [0.0]])
    agent, stats = update(rollout, kl_coef=0.5)
    assert moved(agent, rollout) == pytest.approx([0.045, -0.05], abs=1e-6)
    assert stats.policy_loss == pytest.approx(0, abs=1e-7)
    assert stats.gradient_norm == pytest.approx(math.hypot(0.45, 0.5), abs=1e-6)
    assert stats.anchor_kl == pytest.approx((math.exp(-0.2) - 1 + 0.2) / 2, abs=1e-6)
    assert stats.entropy == pytest.approx(0.75)
    assert (stats.step_kl, stats.clip_fraction, stats.value_loss) == (0, 0, 0)


def test_gradients_are_scaled_down_to_the_norm_and_reported_before() -> None:
    rollout = make_rollout([1.0, 0.0])
    agent, stats = update(rollout, max_grad_norm=0.1)
    norm = math.hypot(0.5, 0.5)
    step = 0.1 * 0.5 * 0.1 / norm
    assert moved(agent, rollout) == pytest.approx([step, -step], abs=1e-6)
    assert stats.gradient_norm == pytest.approx(norm, abs=1e-6)


def test_the_value_head_learns_with_gae_by_its_coefficient() -> None:
    # Values 0, returns 1 and 0: loss (1 + 0) / 2 / 2, gradient at the first -1/2.
    rollout = make_rollout([1.0, 0.0])
    agent, stats = update(rollout, advantage="gae", value_coef=0.2)
    assert stats.value_loss == pytest.approx(0.25)
    assert agent.values.flatten().tolist() == pytest.approx([0.1 * 0.2 * 0.5, 0.0], abs=1e-7)


def test_the_value_head_stays_with_group_advantages() -> None:
    rollout = make_rollout([1.0, 0.0], values=[[0.3], [0.1]])
    agent, stats = update(rollout, value_coef=0.5, ppo_epochs=3)
    assert stats.value_loss == 0
    assert torch.equal(agent.values, rollout.old_values)


def test_padding_is_not_learned_from() -> None:
    mask = [[True, False], [True, True]]
    rollout = make_rollout([1.0, 0.0], mask=mask, anchor_behind=[[0.0, 5.0], [0.0, 0.0]])
    agent, stats = update(rollout, kl_coef=1.0, advantage="gae")
    assert moved(agent, rollout)[1] == 0
    assert agent.values[0, 1] == 0
    assert stats.anchor_kl == 0


def test_equal_rewards_teach_nothing() -> None:
    rollout = make_rollout([0.7, 0.7, 0.7])
    agent, stats = update(rollout)
    assert moved(agent, rollout) == [0, 0, 0]
    assert stats.gradient_norm == 0


# --- more than one ---


def test_a_second_epoch_sees_the_moved_policy_clips_it_and_starts_from_fresh_gradients() -> None:
    rollout = make_rollout([1.0, 0.0], anchor_behind=[[0.2], [0.0]])
    agent, stats = update(rollout, kl_coef=0.5, ppo_epochs=2, clip_range=0.04)
    # After the first step the log-ratios are 0.045 and -0.05: both outside 0.96-1.04, on the side
    # that the advantage wants, so only the KL has a gradient: 0.245 / 4 and -0.05 / 4.
    assert moved(agent, rollout) == pytest.approx(
        [0.045 - 0.1 * 0.06125, -0.05 + 0.1 * 0.0125], abs=1e-6
    )
    assert stats.clip_fraction == 0.5  # none of the first, all of the second
    assert stats.gradient_norm == pytest.approx(math.hypot(0.45, 0.5), abs=1e-6)  # the largest
    k3 = [math.exp(0.045) - 1 - 0.045, math.exp(-0.05) - 1 + 0.05]
    assert stats.step_kl == pytest.approx(sum(k3) / 2, rel=1e-3)
    # Losses 0, and -(1.04 - 0.96) / 2 where both are clipped.
    assert stats.policy_loss == pytest.approx(-0.04 / 2, abs=1e-6)
    # Where the anchor is compared with the policy that sampled, not with the moved one.
    assert stats.anchor_kl == pytest.approx((math.exp(-0.2) - 1 + 0.2) / 2, abs=1e-6)


def batches(seed: int = 0, **settings: Any) -> list[list[int]]:
    agent, _ = update(make_rollout([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), seed=seed, **settings)
    return agent.batches


def test_every_prompt_is_in_one_minibatch_of_each_epoch() -> None:
    seen = batches(ppo_epochs=3, minibatch_size=3)
    assert [len(batch) for batch in seen] == [3, 3, 1] * 3
    for epoch in (seen[:3], seen[3:6], seen[6:]):
        assert sorted(row for batch in epoch for row in batch) == [0, 1, 2, 3, 4, 5, 6]


def test_minibatches_are_shuffled_by_the_seed_and_keep_rows_in_order() -> None:
    seen = batches(ppo_epochs=3, minibatch_size=3)
    assert seen == batches(ppo_epochs=3, minibatch_size=3)
    assert seen != batches(ppo_epochs=3, minibatch_size=3, seed=1)
    assert seen[:3] != seen[3:6]
    assert all(batch == sorted(batch) for batch in seen)


@pytest.mark.parametrize("size", [7, 99])
def test_a_minibatch_of_all_is_the_rollout_as_it_is(size: int) -> None:
    assert batches(ppo_epochs=2, minibatch_size=size) == [[0, 1, 2, 3, 4, 5, 6]] * 2


def test_advantages_follow_their_prompts_into_the_minibatches() -> None:
    # Mean 1, deviations -1, -1, 2, mean square 2: advantages -0.7071, -0.7071, 1.4142.
    rollout = make_rollout([0.0, 0.0, 3.0])
    agent, _ = update(rollout, minibatch_size=1)
    root = math.sqrt(2)
    assert moved(agent, rollout) == pytest.approx([-0.1 / root, -0.1 / root, 0.1 * root], abs=1e-6)


# --- with a real agent ---


def real_update(**settings: Any) -> tuple[UpdateStats, Rollout]:
    trainable = prepare_training(make_agent(), settings.pop("learning_rate"))
    agent = trainable.agent
    query_ids = agent.query_ids([{"role": "user", "content": "sort one text"}])
    responses = agent.sample(query_ids, derive_uniforms(0, rows=6, length=8))
    policy = agent.evaluate(query_ids, responses.ids, responses.mask, role=Role.POLICY)
    rollout = Rollout(
        query_ids=query_ids,
        response_ids=responses.ids,
        mask=responses.mask,
        old_logprobs=policy.logprobs,
        anchor_logprobs=policy.logprobs,
        entropies=policy.entropies,
        old_values=policy.values,
        rewards=torch.tensor([0.0, 0.2, 0.9, 0.4, 1.0, 0.1]),
    )
    stats = ppo_update(
        trainable.prepared,
        trainable.optimizer,
        trainable.accelerator,
        rollout,
        config(**settings),
        seed=0,
    )
    return stats, rollout


@pytest.mark.parametrize("advantage", ["group", "gae"])
def test_the_first_ratio_is_exactly_1(advantage: str) -> None:
    stats, rollout = real_update(learning_rate=1e-2, advantage=advantage)
    assert stats.step_kl == 0
    assert stats.clip_fraction == 0
    advantages, _ = advantages_of(rollout, config(advantage=advantage))
    # With every ratio exactly 1 the loss is the negated mean advantage, to the last bit.
    assert stats.policy_loss == float(-(advantages * rollout.mask).sum() / rollout.mask.sum())
    assert stats.gradient_norm > 0


def test_without_a_learning_rate_to_speak_of_the_policy_does_not_move() -> None:
    stats, _ = real_update(learning_rate=1e-12, ppo_epochs=3, minibatch_size=2)
    assert 0 <= stats.step_kl < 1e-9
    assert stats.clip_fraction == 0


def test_with_one_it_moves() -> None:
    stats, _ = real_update(learning_rate=1e-2, ppo_epochs=2)
    assert stats.step_kl > 1e-6


def test_an_anchor_that_is_the_policy_has_no_kl() -> None:
    stats, _ = real_update(learning_rate=1e-2)
    assert stats.anchor_kl == 0
