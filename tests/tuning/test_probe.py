"""The step that is tried before a run: what it measures, and what it takes from it."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from stableprompt.models.targets.interface import LabelScores, Usage
from stableprompt.models.training import prepare_training
from stableprompt.parts import make_scorer, markup_of
from stableprompt.ppo.rollout import Rollout
from stableprompt.tasks.task import Task
from stableprompt.tuning import probe as module
from stableprompt.tuning.collect import draw_examples
from stableprompt.tuning.forecast import Pattern
from stableprompt.tuning.guards import Guards
from stableprompt.tuning.probe import FirstStep, Probe
from stableprompt.tuning.rules import Rules
from tests.fakes.word_agent import ScriptedTarget, make_agent, make_task
from tests.tuning.conftest import tiny_config

TASK = make_task()  # 24 training examples, 18 of validation, 18 of test
EACH = {"mode": "auto", "prompts": 3}
SHORT = {"max_prompt_tokens": 1}  # some are empty, some are equal


class SlowTarget(ScriptedTarget):
    """Takes a second for whatever it is asked at once, and counts ten tokens a call."""

    def label_scores(
        self, conversations: Sequence[Sequence[dict[str, str]]], words: Sequence[Sequence[str]]
    ) -> LabelScores:
        time.sleep(1)
        found = super().label_scores(conversations, words)
        return replace(found, usage=Usage(10 * len(conversations)))


def take(
    target: ScriptedTarget | None = None, task: Task = TASK, **settings: Any
) -> tuple[Probe, Pattern]:
    config = tiny_config(**settings)
    target = target or ScriptedTarget()
    agent = make_agent(seed=7, temperature=config.agent.temperature)
    guards = Guards(config.guards, agent, Rules.of(task), markup_of(agent, target))
    trainable = prepare_training(agent, config.ppo.learning_rate)
    scorer = make_scorer(task, config, target)
    return FirstStep(task, config, trainable, scorer, target, guards).take()


@pytest.fixture
def rollouts(monkeypatch: pytest.MonkeyPatch) -> list[Rollout]:
    """What was learned from."""
    seen: list[Rollout] = []
    learn = module.learn

    def noting(trainable: Any, rollout: Rollout, config: Any, *, seed: int) -> Any:
        seen.append(rollout)
        return learn(trainable, rollout, config, seed=seed)

    monkeypatch.setattr(module, "learn", noting)
    return seen


@pytest.mark.parametrize(("replay", "rows"), [(0, 6), (4, 10), (8, 14)])
def test_it_learns_from_as_many_prompts_as_later_steps(
    rollouts: list[Rollout], replay: int, rows: int
) -> None:
    probe, pattern = take(ppo={"replay": replay})
    [rollout] = rollouts
    for tensor in (rollout.rewards, rollout.response_ids, rollout.mask, rollout.old_logprobs):
        assert len(tensor) == rows
    assert rollout.num_sampled == 6
    assert rollout.response_ids[6:].equal(rollout.response_ids[[n % 6 for n in range(replay)]])
    assert probe.update_seconds > 0
    assert pattern.step_seconds == probe.writing_seconds + probe.update_seconds


def test_of_prompts_for_single_inputs_none_is_learned_from_again(rollouts: list[Rollout]) -> None:
    take(ppo={"replay": 4}, per_input=EACH)
    assert [len(rollout.rewards) for rollout in rollouts] == [6]


def test_where_nothing_is_learned_an_update_takes_no_time(rollouts: list[Rollout]) -> None:
    probe, _ = take(method="best-of-n")
    assert probe.update_seconds == 0.0
    assert rollouts == []


def test_waiting_for_the_target_is_no_writing() -> None:
    probe, pattern = take(SlowTarget(), method="best-of-n")
    assert 0 < probe.writing_seconds < 1
    # By the token: the step had 36 calls and some of the seed prompt, of ten tokens each.
    calls = 6 * (probe.different + 1)
    waited = pattern.answer_seconds(Usage(10 * calls), 1)
    assert 1 <= waited < 1.5
    assert pattern.answer_seconds(Usage(5 * calls), 1) == pytest.approx(waited / 2)


def test_a_written_seed_prompt_is_no_other_prompt() -> None:
    # Prompts of one word each; one of them is then the seed prompt.
    before, pattern = take(method="best-of-n", seed=3, agent=SHORT)
    assert before.refused > 0
    word = pattern.prompts[0]
    after, other = take(task=make_task(seed_prompt=word), method="best-of-n", seed=3, agent=SHORT)
    assert (after.written, after.refused) == (before.written, before.refused)
    assert after.different == before.different - 1
    assert other.prompts == pattern.prompts[1:]
    assert other.num_different == after.different


def test_typical_prompts_come_first() -> None:
    _, pattern = take(method="best-of-n")
    sizes = [len(prompt) for prompt in pattern.prompts]
    mean = sum(sizes) / len(sizes)
    far = [abs(size - mean) for size in sizes]
    assert far == sorted(far)
    assert far[0] < far[-1]


def test_equal_prompts_for_different_inputs_are_different_calls() -> None:
    target = ScriptedTarget()
    settings: dict[str, Any] = {"method": "best-of-n", "per_input": EACH, "agent": SHORT, "seed": 4}
    probe, pattern = take(target, **settings)
    drawn = draw_examples(TASK, tiny_config(**settings), 0).reward_examples
    assert len(drawn) == 2
    assert len(target.seen) == len(set(target.seen)) == probe.different + 2
    assert pattern.num_different == probe.different
    assert len(pattern.prompts) < probe.different
    assert pattern.share == probe.different / 6


def test_a_decision_has_twice_as_many_prompts_written_as_each_side() -> None:
    # A step writes 6, a decision 3 a side, or one a side for each of 18 validation examples.
    probe, pattern = take()
    assert pattern.decision_seconds == pytest.approx(probe.writing_seconds)
    probe, pattern = take(per_input=EACH)
    assert pattern.decision_seconds == pytest.approx(6 * probe.writing_seconds)


@pytest.mark.parametrize(("method", "shown"), [("few-shot", True), ("seed", False)])
def test_without_a_step_a_few_calls_of_the_selection_are_made(method: str, shown: bool) -> None:
    target = ScriptedTarget()
    probe, pattern = take(target, method=method, steps=0)
    assert probe == Probe(0, 0, 0, 0.0, 0.0)
    assert (pattern.prompts, pattern.share) == ((), 0.0)
    assert len(target.seen) == 6  # as many as a step scores on
    assert all(("Input: " in prompt) is shown for prompt, _ in target.seen)
    assert {text for _, text in target.seen} <= {example.text for example in TASK.validation}
