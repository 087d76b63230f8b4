"""The anchor: when it follows, when the policy returns, and that both are copies."""

import json
from typing import Any

import pytest
import torch

from stableprompt.config import AnchorConfig
from stableprompt.models.adapters import Role
from stableprompt.models.training import Trainable, prepare_training
from stableprompt.ppo.rollout import Rollout
from stableprompt.tuning.anchor import AnchorDecision, apply, decide, is_due
from stableprompt.tuning.randomness import derive_uniforms
from stableprompt.tuning.records import TuneResult
from stableprompt.tuning.update import ppo_update
from tests.fakes.word_agent import ScriptedTarget, make_agent, make_task
from tests.tuning.conftest import Run, tiny_config

RULES = AnchorConfig(update_threshold=0.05, rollback_threshold=0.1)


@pytest.mark.parametrize(
    ("policy", "anchor", "expected"),
    [
        (0.60, 0.50, AnchorDecision.UPDATE),
        (0.5625, 0.5, AnchorDecision.UPDATE),
        (0.54, 0.50, AnchorDecision.KEEP),
        (0.50, 0.50, AnchorDecision.KEEP),
        (0.42, 0.50, AnchorDecision.KEEP),  # behind by 0.08: more than 0.05, less than 0.1
        (0.38, 0.50, AnchorDecision.ROLL_BACK),
    ],
)
def test_decide(policy: float, anchor: float, expected: AnchorDecision) -> None:
    assert decide(policy, anchor, RULES) is expected


def test_the_thresholds_are_separate() -> None:
    strict = AnchorConfig(update_threshold=0.2, rollback_threshold=0.01)
    assert decide(0.6, 0.5, strict) is AnchorDecision.KEEP
    assert decide(0.48, 0.5, strict) is AnchorDecision.ROLL_BACK


def test_decisions_are_due_after_every_period() -> None:
    config = tiny_config(steps=9, anchor={"update_period": 3})
    assert [step for step in range(9) if is_due(step, config)] == [2, 5, 8]


@pytest.mark.parametrize("method", ["ppo-fixed", "ppo-previous", "best-of-n"])
def test_other_methods_take_no_decisions(method: str) -> None:
    config = tiny_config(method=method)
    assert not any(is_due(step, config) for step in range(10))


@pytest.fixture
def trainable() -> Trainable:
    return prepare_training(make_agent(), 1e-2)


def train(trainable: Trainable, *, step: int) -> None:
    """One PPO step on prompts of the policy, the rewards being their lengths."""
    agent = trainable.agent
    query_ids = agent.query_ids([{"role": "user", "content": "sort one text"}])
    responses = agent.sample(query_ids, derive_uniforms(0, step, rows=6, length=8))
    policy = agent.evaluate(query_ids, responses.ids, responses.mask, role=Role.POLICY)
    anchor = agent.evaluate(query_ids, responses.ids, responses.mask, role=Role.ANCHOR)
    rollout = Rollout(
        query_ids=query_ids,
        response_ids=responses.ids,
        mask=responses.mask,
        old_logprobs=policy.logprobs,
        anchor_logprobs=anchor.logprobs,
        entropies=policy.entropies,
        old_values=policy.values,
        rewards=torch.linspace(0, 1, 6),
    )
    config = tiny_config(ppo={"advantage": "gae"}).ppo
    ppo_update(
        trainable.prepared, trainable.optimizer, trainable.accelerator, rollout, config, seed=step
    )


def weights(trainable: Trainable, role: Role) -> dict[str, torch.Tensor]:
    """Adapter and value head of one role, copied, by the name within the role."""
    prefixes = (f"{role}/", f"value/{role}.")
    return {
        name.removeprefix(f"{role}/").replace(f"{role}.", ""): tensor.clone()
        for name, tensor in trainable.agent.tensors().items()
        if name.startswith(prefixes)
    }


def differs(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


def test_after_an_update_a_ppo_step_leaves_the_anchor_where_it_is(trainable: Trainable) -> None:
    train(trainable, step=0)
    apply(AnchorDecision.UPDATE, trainable.agent, trainable.optimizer)
    anchor = weights(trainable, Role.ANCHOR)
    assert not differs(anchor, weights(trainable, Role.POLICY))
    train(trainable, step=1)
    assert not differs(anchor, weights(trainable, Role.ANCHOR))
    assert differs(anchor, weights(trainable, Role.POLICY))


@pytest.mark.parametrize("depth", [1, 3])
def test_after_a_roll_back_the_policy_is_the_anchor_bit_for_bit(
    trainable: Trainable, depth: int
) -> None:
    train(trainable, step=0)
    apply(AnchorDecision.UPDATE, trainable.agent, trainable.optimizer)
    anchor = weights(trainable, Role.ANCHOR)
    for step in range(1, 1 + depth):
        train(trainable, step=step)
    apply(AnchorDecision.ROLL_BACK, trainable.agent, trainable.optimizer)
    assert not differs(anchor, weights(trainable, Role.POLICY))
    assert not differs(anchor, weights(trainable, Role.ANCHOR))
    assert not trainable.optimizer.state


def test_training_goes_on_after_a_roll_back(trainable: Trainable) -> None:
    train(trainable, step=0)
    apply(AnchorDecision.ROLL_BACK, trainable.agent, trainable.optimizer)
    start = weights(trainable, Role.POLICY)
    train(trainable, step=1)
    assert differs(start, weights(trainable, Role.POLICY))


def test_a_roll_back_before_any_update_returns_to_the_first_policy(trainable: Trainable) -> None:
    first = weights(trainable, Role.POLICY)
    train(trainable, step=0)
    assert differs(first, weights(trainable, Role.POLICY))
    apply(AnchorDecision.ROLL_BACK, trainable.agent, trainable.optimizer)
    assert not differs(first, weights(trainable, Role.POLICY))


def test_keep_changes_nothing(trainable: Trainable) -> None:
    train(trainable, step=0)
    policy, anchor = weights(trainable, Role.POLICY), weights(trainable, Role.ANCHOR)
    apply(AnchorDecision.KEEP, trainable.agent, trainable.optimizer)
    assert not differs(policy, weights(trainable, Role.POLICY))
    assert not differs(anchor, weights(trainable, Role.ANCHOR))
    assert trainable.optimizer.state


def judged_prompts(result: TuneResult) -> list[dict[str, Any]]:
    """The prompts that were written for anchor decisions."""
    lines = (result.run_dir / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["scored_on"] == "validation"]


def test_equal_policies_are_never_told_apart(run: Run) -> None:
    # A learning rate of almost nothing: on common random numbers both write the same prompts.
    thresholds = {"update_threshold": 0.0, "rollback_threshold": 0.0}
    result = run(ppo={"learning_rate": 1e-12}, anchor=thresholds)
    assert result.anchor_decisions == {"keep": 2}
    prompts = [row["prompt"] for row in judged_prompts(result)]
    assert prompts[:3] == prompts[3:6]
    assert prompts[6:9] == prompts[9:]
    assert len(set(prompts)) > 2


def test_both_sides_are_judged_on_the_whole_validation_split_and_nothing_else(
    run: Run, target: ScriptedTarget
) -> None:
    result = run()
    assert sum(result.anchor_decisions.values()) == 2  # 4 steps, a decision after every second
    judged = judged_prompts(result)
    assert [row["writer"] for row in judged] == ["policy"] * 3 + ["anchor"] * 3 + (
        ["policy"] * 3 + ["anchor"] * 3
    )
    validation = {example.text for example in make_task().validation}
    test = {example.text for example in make_task().test}
    train = {example.text for example in make_task().train}
    for row in judged:
        asked = {text for prompt, text in target.seen if prompt == row["prompt"]}
        # The chosen prompt meets test, and a text written for the update too meets train.
        assert validation <= asked <= validation | test | train
