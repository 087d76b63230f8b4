"""Phase 2 of a step: PPO on one rollout, in numbers worked by hand."""

import json
import math
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stableprompt.config import PPOConfig
from stableprompt.models.adapters import Role
from stableprompt.models.agent import AgentLLM
from stableprompt.models.training import (
    Trainable,
    load_training_tensors,
    prepare_training,
    training_tensors,
)
from stableprompt.ppo.rollout import Rollout
from stableprompt.tuning.randomness import derive_uniforms
from stableprompt.tuning.update import (
    UpdateStats,
    advantages_of,
    explained_variance,
    learn,
    ppo_update,
)
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

    def forward(self, query_ids: Tensor, responses: Tensor, mask: Tensor, tails: Any = ()) -> Any:
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
    optimizer = torch.optim.SGD(agent.parameters(), lr=9.0)  # the settings say another rate
    trainable: Any = Trainable(None, agent, optimizer, PlainAccelerator())  # type: ignore[arg-type]
    stats = ppo_update(trainable, rollout, config(learning_rate=rate, **settings), seed=seed)
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


def real_rollout(trainable: Trainable) -> Rollout:
    """Six prompts of the policy; its anchor says the same."""
    agent = trainable.agent
    query_ids = agent.query_ids([{"role": "user", "content": "sort one text"}])
    responses = agent.sample(query_ids, derive_uniforms(0, rows=6, length=8))
    policy = agent.evaluate(query_ids, responses.ids, responses.mask, role=Role.POLICY)
    return Rollout(
        query_ids=query_ids,
        response_ids=responses.ids,
        mask=responses.mask,
        old_logprobs=policy.logprobs,
        anchor_logprobs=policy.logprobs,
        entropies=policy.entropies,
        old_values=policy.values,
        rewards=torch.tensor([0.0, 0.2, 0.9, 0.4, 1.0, 0.1]),
    )


def real_update(**settings: Any) -> tuple[UpdateStats, Rollout]:
    trainable = prepare_training(make_agent(), 9.0)
    rollout = real_rollout(trainable)
    return ppo_update(trainable, rollout, config(**settings), seed=0), rollout


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


# --- replayed rows ---


def test_replayed_rows_are_learned_from_but_say_nothing_of_the_policys_distribution() -> None:
    # Three rows of one token, the last of them replayed; the anchor is 0.2, 0 and 5 behind. Mean 1,
    # deviations 0, -1, 1 over the root of 2/3: advantages 0, -1.2247, 1.2247, over 3 tokens.
    written = make_rollout([1.0, 0.0, 2.0], anchor_behind=[[0.2], [0.0], [5.0]])
    rollout = replace(written, num_sampled=2, entropies=torch.tensor([[0.5], [1.0], [99.0]]))
    agent, stats = update(rollout)
    step = 0.1 * math.sqrt(1.5) / 3
    assert moved(agent, rollout) == pytest.approx([0.0, -step, step], abs=1e-6)
    assert stats.anchor_kl == pytest.approx((math.exp(-0.2) - 1 + 0.2) / 2, abs=1e-6)
    assert stats.entropy == pytest.approx(0.75)
    assert update(written)[1].anchor_kl > 1  # where all were written, all count


def test_how_far_an_update_went_is_measured_on_what_was_sampled() -> None:
    trainable, rollout = trained_once()
    before = training_tensors(trainable)
    reached = []
    for count in (6, 2):
        part = replace(rollout, num_sampled=count)
        reached.append(learn(trainable, part, config(max_update_kl=99.0, **FAR), seed=1).update_kl)
        load_training_tensors(trainable, before)
    ppo_update(trainable, rollout, config(**FAR), seed=1)
    first_two = replace(
        rollout,
        response_ids=rollout.response_ids[:2],
        mask=rollout.mask[:2],
        old_logprobs=rollout.old_logprobs[:2],
    )
    assert reached == [
        pytest.approx(kl_of(trainable, rollout), rel=1e-3),
        pytest.approx(kl_of(trainable, first_two), rel=1e-3),
    ]
    assert reached[0] != pytest.approx(reached[1], rel=0.05)


# --- how well the value head foresaw ---


def test_explained_variance_worked_by_hand() -> None:
    # Returns 1, 0, 2, behind padding 99; values 0.5, 0, 1: what is left is 0.5, 0, 1. Variances:
    # of the returns (0 + 1 + 1) / 3 = 2/3, of what is left (0 + 0.25 + 0.25) / 3 = 1/6.
    mask = [[True, True], [True, False]]
    rollout = make_rollout([0.0, 0.0], mask=mask, values=[[0.5, 0.0], [1.0, -7.0]])
    returns = torch.tensor([[1.0, 0.0], [2.0, 99.0]])
    assert explained_variance(rollout, returns, config(advantage="gae")) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("values", "share"),
    # Of returns 1 and 0: foreseen; a constant, whichever; worse than one: left 2, 0 of 1, 0.
    [([1.0, 0.0], 1.0), ([0.3, 0.3], 0.0), ([9.0, 9.0], 0.0), ([-1.0, 0.0], -3.0)],
)
def test_explained_variance_is_1_at_most_and_0_for_a_constant(
    values: list[float], share: float
) -> None:
    rollout = make_rollout([0.0, 0.0], values=[[v] for v in values])
    returns = torch.tensor([[1.0], [0.0]])
    found = explained_variance(rollout, returns, config(advantage="gae"))
    assert found == pytest.approx(share, abs=1e-6)


def test_without_value_head_or_spread_no_variance_is_explained() -> None:
    rollout = make_rollout([0.0, 0.0], values=[[1.0], [0.0]])
    returns = torch.tensor([[1.0], [0.0]])
    assert explained_variance(rollout, returns, config()) is None
    assert explained_variance(rollout, torch.ones(2, 1), config(advantage="gae")) is None


def test_it_is_told_of_the_values_before_the_update() -> None:
    # Values 0.5 and 0, returns 1 and 0 (one token each): what is left is 0.5 and 0.
    rollout = make_rollout([1.0, 0.0], values=[[0.5], [0.0]])
    _, stats = update(rollout, advantage="gae", value_coef=1.0, ppo_epochs=3)
    assert stats.explained_variance == pytest.approx(0.75)
    assert update(rollout)[1].explained_variance is None


# --- gradients that are no numbers ---


class BrokenAgent(TableAgent):
    """Its numbers are fine; the gradients of some rows, or the numbers themselves, are not."""

    def __init__(self, rollout: Rollout, rows: list[int], *, forward: bool) -> None:
        super().__init__(rollout)
        self.broken, self.in_forward = torch.tensor(rows), forward

    def forward(self, query_ids: Tensor, responses: Tensor, mask: Tensor, tails: Any = ()) -> Any:
        found = super().forward(query_ids, responses, mask, tails)
        [places] = torch.isin(responses[:, 0], self.broken).nonzero(as_tuple=True)
        # The root of 0 is 0, and its gradient has no end; times 0 it is no number.
        ghost = (found.logprobs[places] * 0).sqrt() * 0
        if self.in_forward:
            ghost = ghost + math.nan
        return SimpleNamespace(
            logprobs=found.logprobs.index_add(0, places, ghost), values=found.values
        )


def broken_update(
    rows: list[int], *, forward: bool, **settings: Any
) -> tuple[BrokenAgent, Rollout, UpdateStats]:
    rollout = make_rollout([0.0, 1.0, 2.0, 3.0])
    agent = BrokenAgent(rollout, rows, forward=forward)
    optimizer = torch.optim.AdamW(agent.parameters(), lr=0.1, weight_decay=0.0)
    trainable: Any = Trainable(None, agent, optimizer, PlainAccelerator())  # type: ignore[arg-type]
    return agent, rollout, ppo_update(trainable, rollout, config(**settings), seed=0)


@pytest.mark.parametrize("forward", [True, False], ids=["loss", "gradient"])
def test_an_update_ends_at_the_first_number_that_is_not_finite_and_names_it(forward: bool) -> None:
    agent, rollout, stats = broken_update([1], forward=forward, minibatch_size=1, ppo_epochs=2)
    assert agent.batches[-1] == [1]  # nothing is asked after it
    where = f"in minibatch {len(agent.batches) - 1} of the update"
    what = "policy loss: NaN in 1 of 1" if forward else "gradient of logprobs: NaN in 1 of 4"
    assert stats.broken == f"{where}, {what}"
    assert agent.logprobs.isfinite().all()
    assert moved(agent, rollout)[1] == 0
    json.dumps(asdict(stats), allow_nan=False)


@pytest.mark.parametrize("forward", [True, False], ids=["loss", "gradient"])
def test_where_all_is_broken_the_policy_stays_and_the_record_can_be_written(forward: bool) -> None:
    agent, rollout, stats = broken_update([0, 1, 2, 3], forward=forward, ppo_epochs=3)
    assert stats.broken is not None
    assert moved(agent, rollout) == [0, 0, 0, 0]
    assert (stats.policy_loss, stats.gradient_norm, stats.step_kl) == (0, 0, 0)
    json.dumps(asdict(stats), allow_nan=False)


def test_a_broken_gradient_is_not_left_behind() -> None:
    agent, _, _ = broken_update([0, 1, 2, 3], forward=False)
    assert all(p.grad is None or not p.grad.any() for p in agent.parameters())


def test_a_sound_update_names_nothing() -> None:
    _, _, stats = broken_update([], forward=False, minibatch_size=1)
    assert stats.broken is None


# --- updates that go too far ---


def trained_once() -> tuple[Trainable, Rollout]:
    """An agent whose optimizer has a state, and its next rollout."""
    trainable = prepare_training(make_agent(), 9.0)
    ppo_update(trainable, real_rollout(trainable), config(learning_rate=1e-2), seed=0)
    assert trainable.optimizer.state
    return trainable, real_rollout(trainable)


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


FAR: dict[str, Any] = {"learning_rate": 5e-2, "ppo_epochs": 2, "minibatch_size": 3}


def kl_of(trainable: Trainable, rollout: Rollout) -> float:
    """KL(old policy || policy) by its definition's k3 estimator, token by token."""
    now = trainable.agent.evaluate(
        rollout.query_ids, rollout.response_ids, rollout.mask, role=Role.POLICY
    )
    ratios = (now.logprobs - rollout.old_logprobs)[rollout.mask].double()
    return float((ratios.exp() - 1 - ratios).mean())


def test_an_update_that_goes_too_far_is_undone_bit_for_bit() -> None:
    trainable, rollout = trained_once()
    before = training_tensors(trainable)
    assert any(name.startswith("optimizer/") for name in before)
    stats = learn(trainable, rollout, config(max_update_kl=1e-30, **FAR), seed=1)
    assert_same(training_tensors(trainable), before)
    assert (stats.undone, stats.update_kl) == (6, 0)


def test_a_fresh_optimizer_is_fresh_again() -> None:
    trainable = prepare_training(make_agent(), 9.0)
    rollout = real_rollout(trainable)
    learn(trainable, rollout, config(max_update_kl=1e-30, **FAR), seed=1)
    assert not trainable.optimizer.state


def test_it_is_made_again_with_half_the_rate_until_it_is_near_enough() -> None:
    trainable, rollout = trained_once()
    before = training_tensors(trainable)
    reached = []
    for halvings in range(4):
        rate = FAR["learning_rate"] / 2**halvings
        ppo_update(trainable, rollout, config(**{**FAR, "learning_rate": rate}), seed=1)
        reached.append((kl_of(trainable, rollout), training_tensors(trainable)))
        load_training_tensors(trainable, before)
    distances = [distance for distance, _ in reached]
    assert distances == sorted(distances, reverse=True)
    limit = (distances[1] + distances[2]) / 2  # two halvings are enough, one is not
    stats = learn(trainable, rollout, config(max_update_kl=limit, **FAR), seed=1)
    assert stats.undone == 2
    assert stats.learning_rate == FAR["learning_rate"] / 4
    assert stats.update_kl == pytest.approx(distances[2], rel=1e-3)
    assert stats.update_kl <= limit
    assert_same(training_tensors(trainable), reached[2][1])


@pytest.mark.parametrize("limit", [None, 99.0])
def test_an_update_within_the_limit_is_an_update_as_without_one(limit: float | None) -> None:
    trainable, rollout = trained_once()
    before = training_tensors(trainable)
    plain = ppo_update(trainable, rollout, config(**FAR), seed=1)
    after, distance = training_tensors(trainable), kl_of(trainable, rollout)
    load_training_tensors(trainable, before)
    stats = learn(trainable, rollout, config(max_update_kl=limit, **FAR), seed=1)
    assert_same(training_tensors(trainable), after)
    assert stats.undone == 0
    assert plain.update_kl is None
    assert stats.policy_loss == plain.policy_loss
    if limit is None:
        assert stats == plain
    else:
        assert stats.update_kl == pytest.approx(distance, rel=1e-3)


def test_the_anchor_stays_where_updates_are_undone() -> None:
    trainable, rollout = trained_once()
    anchor = {n: t.clone() for n, t in trainable.agent.tensors().items() if "anchor" in n}
    assert anchor
    learn(trainable, rollout, config(max_update_kl=1e-30, **FAR), seed=1)
    now = trainable.agent.tensors()
    assert_same({name: now[name] for name in anchor}, anchor)


# --- updates that break ---


@pytest.mark.parametrize("limit", [None, 0.3], ids=["no limit", "limit"])
def test_an_update_that_breaks_is_undone_bit_for_bit(limit: float | None) -> None:
    trainable, rollout = trained_once()
    before = training_tensors(trainable)
    settings = {**FAR, "learning_rate": 1e30, "max_update_kl": limit}
    stats = learn(trainable, rollout, config(**settings), seed=1)
    assert stats.broken is not None
    assert stats.undone == (1 if limit is None else 6)
    assert_same(training_tensors(trainable), before)
    json.dumps(asdict(stats), allow_nan=False)


def test_an_update_that_breaks_is_made_again_with_half_the_rate() -> None:
    trainable, rollout = trained_once()
    honest, tried = trainable.optimizer.step, []

    def step() -> None:
        honest()
        tried.append(trainable.optimizer.param_groups[0]["lr"])
        if len(tried) == 1:
            trainable.agent.learned_parameters()[3].data.fill_(math.inf)

    trainable.optimizer.step = step
    settings = {**FAR, "learning_rate": 1e-3, "minibatch_size": 99, "ppo_epochs": 1}
    stats = learn(trainable, rollout, config(max_update_kl=9.0, **settings), seed=1)
    assert tried == [1e-3, 5e-4]
    assert (stats.undone, stats.broken) == (1, None)
    assert stats.learning_rate == 5e-4


@pytest.mark.parametrize("kind", ["exp_avg", "exp_avg_sq"])
def test_moments_that_break_are_found_and_named(kind: str) -> None:
    trainable, rollout = trained_once()
    before = training_tensors(trainable)
    honest = trainable.optimizer.step

    def step() -> None:
        honest()
        parameter = trainable.agent.learned_parameters()[0]
        trainable.optimizer.state[parameter][kind].view(-1)[0] = math.nan

    trainable.optimizer.step = step
    stats = learn(trainable, rollout, config(max_update_kl=None, learning_rate=1e-3), seed=1)
    assert stats.broken is not None
    assert f"optimizer state {kind} of " in stats.broken
    assert "NaN in 1 of " in stats.broken
    assert_same(training_tensors(trainable), before)


# --- memory that runs out ---


class Full:
    """Passes on batches of some rows, and has no memory for more."""

    def __init__(self, agent: AgentLLM, most: int) -> None:
        self.agent, self.most = agent, most
        self.tried: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.agent, name)

    def __call__(self, query_ids: Tensor, ids: Tensor, mask: Tensor, tails: Any = ()) -> Any:
        self.tried.append(len(ids))
        found = self.agent(query_ids, ids, mask, tails)
        if len(ids) > self.most:
            found.logprobs.sum().backward()  # what it leaves behind must not be learned from
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return found


def gradients_of(most: int) -> tuple[Tensor, list[int]]:
    """Of one minibatch, where so many rows fit; the sizes that were tried."""
    trainable = prepare_training(make_agent(), 9.0)
    rollout, full = real_rollout(trainable), Full(trainable.agent, most)
    found: list[Tensor] = []

    def note() -> None:
        learned = trainable.agent.learned_parameters()
        found.append(torch.cat([p.grad.flatten() for p in learned if p.grad is not None]))

    trainable.optimizer.step = note
    short = replace(trainable, prepared=full)
    ppo_update(short, rollout, config(learning_rate=1e-3, minibatch_size=6), seed=0)
    [gradients] = found
    return gradients, full.tried


def test_where_memory_runs_out_a_minibatch_is_halved_and_the_same_is_learned() -> None:
    whole, tried = gradients_of(99)
    assert tried == [6]
    parts, tried = gradients_of(2)
    assert tried == [6, 3, 2, 2, 2]
    assert whole.abs().max() > 0
    assert torch.allclose(whole, parts, rtol=1e-4, atol=1e-7)


def test_a_single_row_that_does_not_fit_ends_the_update() -> None:
    trainable = prepare_training(make_agent(), 9.0)
    rollout = real_rollout(trainable)
    short = replace(trainable, prepared=Full(trainable.agent, 0))
    with pytest.raises(torch.OutOfMemoryError):
        ppo_update(short, rollout, config(minibatch_size=6), seed=0)
