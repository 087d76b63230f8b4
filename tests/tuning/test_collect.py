"""Phase 1 of a step: what is drawn, what is asked of the target, what is earned."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Literal

import pytest
import torch

from stableprompt.config import PPOConfig
from stableprompt.models.adapters import Role
from stableprompt.models.agent import AgentLLM
from stableprompt.models.responses import Responses
from stableprompt.models.training import prepare_training
from stableprompt.ppo.rollout import Rollout
from stableprompt.scoring.ledger import Ledger, Purpose
from stableprompt.scoring.scorer import PromptScore, Scorer
from stableprompt.tasks.example import Example
from stableprompt.tasks.prompt_checks import PromptFault
from stableprompt.tasks.readability import Readability
from stableprompt.tasks.splits import draw_evenly
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import TargetTemplate
from stableprompt.tuning import collect
from stableprompt.tuning.candidates import Candidate, CandidatePool
from stableprompt.tuning.collect import Collector, draw_examples
from stableprompt.tuning.guards import Inspection
from stableprompt.tuning.randomness import derive_uniforms
from stableprompt.tuning.update import advantages_of, ppo_update
from tests.fakes.word_agent import ScriptedTarget, make_agent, make_task
from tests.tuning.conftest import tiny_config

TASK = make_task()  # 24 training examples


# --- drawing ---


@pytest.mark.parametrize("step", range(5))
def test_what_is_shown_is_not_what_is_scored(step: int) -> None:
    draw = draw_examples(TASK, tiny_config(), step)
    drawn = [*draw.demonstrations, *draw.reward_examples]
    assert (len(draw.demonstrations), len(draw.reward_examples)) == (2, 6)
    assert len(set(drawn)) == 8
    assert set(drawn) <= set(TASK.train)


def test_the_same_step_draws_the_same() -> None:
    assert draw_examples(TASK, tiny_config(), 3) == draw_examples(make_task(), tiny_config(), 3)


def test_every_step_and_every_seed_draws_afresh() -> None:
    draws = [draw_examples(TASK, tiny_config(), step) for step in range(4)]
    draws.append(draw_examples(TASK, tiny_config(seed=1), 0))
    assert len({draw.reward_examples for draw in draws}) == 5
    assert len({draw.demonstrations for draw in draws}) == 5


def test_more_demonstrations_change_none_of_the_scored_examples() -> None:
    few = draw_examples(TASK, tiny_config(), 0)
    more = draw_examples(TASK, tiny_config(agent={"num_demonstrations": 5}), 0)
    assert more.reward_examples == few.reward_examples


def test_every_training_example_is_drawn_at_some_time() -> None:
    drawn = {
        example
        for step in range(40)
        for example in draw_examples(TASK, tiny_config(), step).reward_examples
    }
    assert drawn == set(TASK.train)  # 0.75 ** 40 = 1e-5 for each to be missed


def test_every_step_has_answers_in_their_proportions() -> None:
    for step in range(10):
        draw = draw_examples(TASK, tiny_config(), step)
        counts = Counter(example.label for example in draw.reward_examples)
        labels = Counter(example.label for example in TASK.train)
        expected = {label: 6 * count / len(TASK.train) for label, count in labels.items()}
        assert all(abs(counts[label] - share) < 1 for label, share in expected.items())


def test_of_very_many_examples_some_are_drawn_first(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def told(examples: Sequence[Example], size: int, *more: Any) -> list[int]:
        sizes.append(len(examples))
        return draw_evenly(examples, size, *more)

    monkeypatch.setattr(collect, "draw_evenly", told)
    one, other = TASK.labels[:2]
    rows = [Example(f"t {i}", (one, other)[i % 2]) for i in range(5000)]
    task = replace(TASK, splits=replace(TASK.splits, train=tuple(rows)))
    draws = [draw_examples(task, tiny_config(), step) for step in range(100)]
    assert set(sizes) == {1024}  # to sort all of them in every step would be slow for nothing
    assert {Counter(e.label for e in draw.reward_examples)[one] for draw in draws} <= {2, 3, 4}
    assert len({e for draw in draws for e in draw.reward_examples}) > 500
    many = tiny_config(reward={"examples_per_step": 2000})
    assert len(set(draw_examples(task, many, 0).reward_examples)) == 2000


# --- collecting ---


class FixedGuards:
    """Refuses what it is told to."""

    def __init__(self, **faults: PromptFault) -> None:
        self.known = faults

    def inspect(self, responses: Responses, inputs: Sequence[Example] = ()) -> list[Inspection]:
        return [Inspection(t, self.known.get(t), readability_of(t)) for t in responses.texts]


def readability_of(text: str) -> Readability:
    """Numbers that only this text has."""
    return Readability(len(text) / 8, len(text.split()), text.startswith("sort"))


class Bench:
    """A collector whose agent writes given prompts, with everything in reach."""

    def __init__(
        self,
        *texts: str,
        task: Task = TASK,
        fault_reward: float = -0.5,
        method: str = "appo",
        ppo: Mapping[str, Any] | None = None,
        agent: Mapping[str, Any] | None = None,
        **faults: PromptFault,
    ) -> None:
        self.agent, self.target, self.ledger = make_agent(), ScriptedTarget(), Ledger()
        self.config = tiny_config(
            method=method,
            ppo={"prompts_per_step": max(2, len(texts)), "replay": 0, **(ppo or {})},
            agent=dict(agent or {}),
            reward={"fault_reward": fault_reward},
        )
        self.scorer = Scorer(
            self.target,
            TargetTemplate("system", input_format="{text}"),
            task,
            self.ledger,
            answers=self.config.target,
            reward=self.config.reward,
        )
        guards: Any = FixedGuards(**faults)
        self.collector = Collector(self.agent, self.scorer, guards, task, self.config)
        if texts:
            self._write(texts)

    def _write(self, texts: Sequence[str]) -> None:
        honest = self.agent.sample

        def sample(query_ids: Any, uniforms: Any, **more: Any) -> Responses:
            real = honest(query_ids, uniforms, **more)
            return Responses(real.ids, real.mask, tuple(texts), real.truncated)

        self.agent.sample = sample  # type: ignore[method-assign]

    def collect(
        self, step: int = 0, pool: CandidatePool | None = None
    ) -> tuple[Any, list[Candidate]]:
        return self.collector.collect(step, pool or CandidatePool("sort one text"))

    def asked(self) -> list[str]:
        return [prompt for prompt, _ in self.target.seen]


def test_rewards_are_the_score_and_weighted_softmax_difference() -> None:
    bench = Bench("please kindly", "please sort", "sort pick")
    rollout, candidates = bench.collect()
    # p(correct) is 0.2 + 0.7 * share: 0.9, 0.55 and 0.2, of two labels, for every example alike.
    # Rewards 1 + 0.5 * 0.8, 1 + 0.5 * 0.1, 0 - 0.5 * 0.6.
    assert [c.reward for c in candidates] == pytest.approx([1.4, 1.05, -0.3], abs=1e-6)
    assert [c.score for c in candidates] == [1, 1, 0]
    assert [c.softmax_difference for c in candidates] == pytest.approx([0.8, 0.1, -0.6], abs=1e-6)
    assert rollout.rewards.tolist() == pytest.approx([1.4, 1.05, -0.3], abs=1e-6)
    assert [c.seed_reward for c in candidates] == pytest.approx([-0.3] * 3, abs=1e-6)
    assert {(c.step, c.writer, c.scored_on) for c in candidates} == {
        (0, Role.POLICY, Purpose.TRAINING)
    }


def test_refused_prompts_cost_no_target_call_and_earn_the_fault_reward() -> None:
    bench = Bench("good", "bad", "worse", bad=PromptFault.COPY, worse=PromptFault.BABBLE)
    rollout, candidates = bench.collect()
    assert set(bench.asked()) == {"sort one text", "good"}
    assert bench.ledger.total_calls == 2 * 6
    refused = candidates[1:]
    assert [c.fault for c in candidates] == [None, PromptFault.COPY, PromptFault.BABBLE]
    assert [c.reward for c in refused] == [-0.5, -0.5]
    assert [(c.score, c.softmax_difference) for c in refused] == [(None, None)] * 2
    assert rollout.rewards[1:].tolist() == [-0.5, -0.5]


def test_the_fault_reward_is_the_settings() -> None:
    bench = Bench("bad", "bad", fault_reward=-2.0, bad=PromptFault.EMPTY)
    assert bench.collect()[0].rewards.tolist() == [-2.0, -2.0]


def test_equal_texts_are_scored_once_and_each_earns_the_reward() -> None:
    bench = Bench("please", "sort", "please", "please")
    rollout, candidates = bench.collect()
    assert bench.ledger.target_calls["training"] == bench.ledger.total_calls == 3 * 6
    assert [c.prompt for c in candidates] == ["please", "sort", "please", "please"]
    assert len(set(rollout.rewards[[0, 2, 3]].tolist())) == 1


def test_the_seed_prompt_written_again_costs_nothing_more() -> None:
    bench = Bench("sort one text", "please")
    _, candidates = bench.collect()
    assert bench.ledger.total_calls == 2 * 6
    assert candidates[0].reward == candidates[0].seed_reward


def test_all_prompts_of_a_step_are_asked_the_same_examples() -> None:
    bench = Bench("please", "sort")
    bench.collect(step=2)
    wanted = [example.text for example in draw_examples(TASK, bench.config, 2).reward_examples]
    for prompt in ("sort one text", "please", "sort"):
        assert [text for asked, text in bench.target.seen if asked == prompt] == wanted


def test_the_query_shows_the_demonstrations_as_label_words_and_no_scored_text() -> None:
    rows = [{"text": f"note {i}", "label": i % 2} for i in range(60)]
    task = Task.from_records(rows, label_words={0: "red", 1: "green"}, seed_prompt="sort it")
    bench = Bench(task=task)
    seen: list[Any] = []

    def query_ids(messages: Any) -> torch.Tensor:
        seen.extend(messages)
        return torch.tensor([1])

    bench.agent.query_ids = query_ids  # type: ignore[method-assign]
    draw = draw_examples(task, bench.config, 0)
    bench.collector.query(draw.demonstrations, CandidatePool("sort it"))
    [message] = seen
    for example in draw.demonstrations:
        word = {"0": "red", "1": "green"}[example.label]
        assert f"Input: {example.text}\nOutput: {word}" in message["content"]
    assert not any(f"{e.text}\n" in message["content"] for e in draw.reward_examples)
    assert "Current instruction: sort it" in message["content"]


@pytest.fixture
def moved() -> Bench:
    """A bench on which policy and anchor have different weights."""
    bench = Bench()
    with torch.no_grad():
        for number, parameter in enumerate(bench.agent.learned_parameters()):
            generator = torch.Generator().manual_seed(number)
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return bench


def test_the_rollout_is_what_policy_and_anchor_think_of_the_policys_prompts(moved: Bench) -> None:
    agent: AgentLLM = moved.agent
    rollout, candidates = moved.collect(step=1)
    again = agent.sample(
        rollout.query_ids, derive_uniforms(0, 1, "prompts", rows=2, length=8), role=Role.POLICY
    )
    assert torch.equal(rollout.response_ids, again.ids)
    assert torch.equal(rollout.mask, again.mask)
    assert tuple(c.prompt for c in candidates) == again.texts
    sides = {
        role: agent.evaluate(rollout.query_ids, again.ids, again.mask, role=role)
        for role in (Role.POLICY, Role.ANCHOR)
    }
    policy, anchor = sides[Role.POLICY], sides[Role.ANCHOR]
    assert torch.equal(rollout.old_logprobs, policy.logprobs)
    assert torch.equal(rollout.entropies, policy.entropies)
    assert torch.equal(rollout.old_values, policy.values)
    assert torch.equal(rollout.anchor_logprobs, anchor.logprobs)
    assert not torch.equal(policy.logprobs, anchor.logprobs)
    assert policy.values.abs().sum() > 0
    assert not rollout.old_logprobs.requires_grad


def evaluated_roles(bench: Bench) -> list[Role]:
    """Filled with the roles that are evaluated from now on."""
    honest, roles = bench.agent.evaluate, []

    def evaluate(*arguments: Any, role: Role) -> Any:
        roles.append(role)
        return honest(*arguments, role=role)

    bench.agent.evaluate = evaluate  # type: ignore[method-assign]
    return roles


def test_an_anchor_that_equals_the_policy_is_not_read_and_the_figures_are_the_same(
    moved: Bench,
) -> None:
    moved.agent.copy(Role.POLICY, Role.ANCHOR)
    roles = evaluated_roles(moved)
    spared, candidates = moved.collect()
    assert roles == [Role.POLICY]
    moved.agent.equal = lambda one, other: False  # type: ignore[method-assign]
    read, same_candidates = moved.collect()
    assert roles == [Role.POLICY, Role.POLICY, Role.ANCHOR]
    assert candidates == same_candidates
    for field in fields(Rollout):
        one, other = getattr(spared, field.name), getattr(read, field.name)
        same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        assert same, field.name
    assert spared.old_values.abs().sum() > 0


@pytest.mark.parametrize("part", ["adapter", "value head"])
def test_an_anchor_that_differs_in_one_number_is_read(moved: Bench, part: str) -> None:
    moved.agent.copy(Role.POLICY, Role.ANCHOR)
    assert moved.agent.equal(Role.POLICY, Role.ANCHOR)
    head = list(moved.agent.value_heads[Role.POLICY].parameters())
    adapter = moved.agent.adapted.parameters()
    with torch.no_grad():
        (head if part == "value head" else adapter)[-1].view(-1)[-1] += 1e-3
    roles = evaluated_roles(moved)
    moved.collect()
    assert roles == [Role.POLICY, Role.ANCHOR]


def test_without_learning_there_is_no_rollout_but_everything_is_scored() -> None:
    bench = Bench("please", "sort", method="best-of-n")
    roles = evaluated_roles(bench)
    rollout, candidates = bench.collect()
    assert (rollout, roles) == (None, [])
    assert candidates == Bench("please", "sort").collect()[1]


def test_all_prompts_of_a_step_are_scored_in_one_call_and_known_pairs_not_again() -> None:
    bench = Bench("please", "sort", "please")
    calls: list[int] = []
    honest = bench.target.label_scores

    def label_scores(conversations: Any, words: Any) -> Any:
        calls.append(len(conversations))
        return honest(conversations, words)

    bench.target.label_scores = label_scores  # type: ignore[method-assign]
    first = bench.collect(step=0)[1]
    assert calls == [3 * 6]  # the seed prompt, "please" and "sort"
    assert bench.collect(step=0)[1] == first
    assert calls == [3 * 6]
    drawn = [set(draw_examples(TASK, bench.config, step).reward_examples) for step in (0, 1)]
    bench.collect(step=1)
    assert calls[1:] == [3 * len(drawn[1] - drawn[0])]
    assert bench.ledger.total_calls == sum(calls)


def test_the_agents_tokens_are_counted(moved: Bench) -> None:
    rollout, _ = moved.collect()
    assert moved.ledger.agent_tokens_read == len(rollout.query_ids)
    assert moved.ledger.agent_tokens_written == int(rollout.mask.sum())


def test_what_is_known_of_a_prompt_goes_with_it_refused_or_not() -> None:
    bench = Bench("sort it", "bad", bad=PromptFault.COPY)
    _, candidates = bench.collect()
    for found in candidates:
        known = readability_of(found.prompt)
        assert (found.surprise, found.num_words) == (known.surprise, known.num_words)
        assert found.instruction is known.instruction
    assert [found.instruction for found in candidates] == [True, False]


def test_what_was_seen_comes_into_the_pool_the_seed_prompt_too() -> None:
    pool = CandidatePool("sort one text")
    bench = Bench("please kindly", "please sort", "bad", bad=PromptFault.COPY)
    bench.collect(step=4, pool=pool)
    state = pool.to_dict()
    assert state["groups"] == {"sort one text": 0, "please kindly": 4, "please sort": 4}
    assert [len(own) for own in state["seen"]] == [6, 6, 6]
    # All examples alike: 0 - 0.5 * 0.6, 1 + 0.5 * 0.8 and 1 + 0.5 * 0.1.
    found = [pool.rating(prompt) for prompt in state["groups"]]
    assert found == pytest.approx([-0.3, 1.4, 1.05], abs=0.001)
    assert pool.leaderboard(1) == ["please kindly"]


def test_what_was_shown_to_the_agent_led_before_the_step() -> None:
    bench = Bench("please kindly", "sort pick", agent={"shown_prompt": "leader"})
    asked: list[str] = []
    honest = bench.agent.query_ids

    def query_ids(messages: Any) -> torch.Tensor:
        asked.extend(message["content"] for message in messages)
        return honest(messages)

    bench.agent.query_ids = query_ids  # type: ignore[method-assign]
    pool = CandidatePool("sort one text")
    for step in range(2):
        bench.collect(step, pool)
    shown = [text.partition("Current instruction: ")[2].splitlines()[0] for text in asked]
    assert shown == ["sort one text", "please kindly"]


# --- learning again from the best so far ---


def known(**gains: float) -> CandidatePool:
    """Prompts of step 0, by their gain on two examples; the seed prompt always earns -0.3.

    "please" and "please kindly" earn 1.4 in every step, and so gain 1.7.
    """
    pool = CandidatePool("sort one text")
    prompts = ["sort one text", *(name.replace("_", " ") for name in gains)]
    rewards = [-0.3 + gain for gain in (0.0, *gains.values())]
    scores = [PromptScore(0.5, 0.0, reward, (), (reward, reward), ()) for reward in rewards]
    if gains:
        pool.add(prompts, scores, TASK.validation[:2], group=0)
    return pool


def replaying(*texts: str, replay: int = 2, **more: Any) -> Bench:
    return Bench(*texts, ppo={"replay": replay}, **more)


def test_replayed_prompts_earn_the_seed_reward_and_their_gain() -> None:
    bench = replaying("please sort", "sort pick")
    gains = {"please_kindly": 0.75, "please": 0.5, "kindly_team": 0.125}
    plain, candidates = replaying("please sort", "sort pick", replay=0).collect(1, known(**gains))
    pool = known(**gains)
    rollout, same = bench.collect(1, pool)
    assert same == candidates  # what is replayed is no candidate: it would be counted again
    assert len(plain.rewards) == plain.num_sampled == rollout.num_sampled == 2
    assert not rollout.sampled_mask[2:].any()
    assert torch.equal(rollout.sampled_mask[:2], rollout.mask[:2])
    assert rollout.rewards[:2].tolist() == plain.rewards.tolist()
    # The seed prompt earns 0 - 0.5 * 0.6 = -0.3, and with what was seen in this step, too.
    expected = [-0.3 + pool.gain(prompt) for prompt in ("please kindly", "please")]
    assert rollout.rewards[2:].tolist() == pytest.approx(expected, abs=1e-6)
    assert len(set(expected)) == 2
    words = [bench.agent.tokenizer.decode(ids[mask][:-1]) for ids, mask in rows_of(rollout)]
    assert words[2:] == ["please kindly", "please"]
    ends = [int(ids[mask][-1]) for ids, mask in rows_of(rollout)]
    assert ends[2:] == [bench.agent.loaded.end_of_turn_ids[0]] * 2


def rows_of(rollout: Rollout) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(rollout.response_ids, rollout.mask, strict=True))


def test_replayed_prompts_cost_no_target_call() -> None:
    bench = replaying("please sort", "sort pick")
    bench.collect(1, known(please_kindly=0.75, please=0.5))
    assert set(bench.asked()) == {"sort one text", "please sort", "sort pick"}
    assert bench.ledger.total_calls == 3 * 6


def test_what_was_written_again_or_is_no_better_than_the_seed_prompt_is_not_replayed() -> None:
    bench = replaying("please", "sort pick", replay=9)
    pool = known(please=1.7, note=0.25, team=-0.125, word=-0.5)
    rollout, _ = bench.collect(1, pool)
    words = [bench.agent.tokenizer.decode(ids[mask][:-1]) for ids, mask in rows_of(rollout)]
    assert words[2:] == ["note"]


def test_what_was_written_again_takes_no_place_from_the_next_best() -> None:
    bench = replaying("please kindly", "please", replay=2)
    pool = known(please_kindly=1.7, please=1.7, note=0.5, team=0.4, word=0.3)
    rollout, _ = bench.collect(1, pool)
    words = [bench.agent.tokenizer.decode(ids[mask][:-1]) for ids, mask in rows_of(rollout)]
    assert words[2:] == ["note", "team"]


@pytest.mark.parametrize("replay", [0, 2])
def test_with_nothing_to_replay_the_rollout_is_what_was_written(replay: int) -> None:
    bench = replaying("please", "sort pick", replay=replay)
    rollout, candidates = bench.collect(1, known(team=-0.5))
    assert len(rollout.rewards) == len(candidates) == 2


@pytest.mark.parametrize("advantage", ["group", "gae"])
def test_replayed_prompts_have_a_ratio_of_1_before_the_update(
    moved: Bench, advantage: Literal["group", "gae"]
) -> None:
    moved.collector._config = moved.config.model_copy(
        update={"ppo": moved.config.ppo.model_copy(update={"replay": 3})}
    )
    pool = known(please_kindly=0.75, please=0.5, sort_one_text_label_word_team_then_first=0.25)
    rollout, _ = moved.collect(1, pool)
    assert len(rollout.rewards) == 2 + 3
    assert rollout.mask.sum(dim=1).tolist()[2:] == [3, 2, 9]
    trainable = prepare_training(moved.agent, 1e-3)
    settings = PPOConfig(minibatch_size=99, ppo_epochs=1, kl_coef=0.0, advantage=advantage)
    stats = ppo_update(trainable, rollout, settings, seed=0)
    assert (stats.step_kl, stats.clip_fraction) == (0, 0)
    advantages, _ = advantages_of(rollout, settings)
    # With every ratio exactly 1 the loss is the negated mean advantage, to the last bit.
    assert stats.policy_loss == float(-(advantages * rollout.mask).sum() / rollout.mask.sum())
    assert stats.gradient_norm > 0


def test_without_learning_nothing_is_replayed() -> None:
    bench = replaying("please", "sort", method="best-of-n")
    rollout, candidates = bench.collect(1, known(please_kindly=0.75))
    assert (rollout, len(candidates)) == (None, 2)


# --- what the meta-prompt shows, and whom nobody asks ---


@pytest.mark.parametrize(
    ("shown", "pool", "expected"),
    [
        ("seed", {"please_kindly": 0.5}, "sort one text"),
        ("leader", {"please_kindly": 0.5, "note": 0.25}, "please kindly"),
        ("leader", {"note": -0.25, "team": 0.0}, "sort one text"),
        ("leader", {}, "sort one text"),
    ],
)
def test_the_meta_prompt_shows_the_seed_prompt_or_who_leads(
    shown: str, pool: dict[str, float], expected: str
) -> None:
    bench = Bench(agent={"shown_prompt": shown})
    seen: list[Any] = []

    def query_ids(messages: Any) -> torch.Tensor:
        seen.extend(messages)
        return torch.tensor([1])

    bench.agent.query_ids = query_ids  # type: ignore[method-assign]
    bench.collector.query(draw_examples(TASK, bench.config, 0).demonstrations, known(**pool))
    assert f"Current instruction: {expected}\n" in f"{seen[0]['content']}\n"


def test_without_an_anchor_nobody_asks_it(moved: Bench) -> None:
    assert not moved.agent.equal(Role.POLICY, Role.ANCHOR)
    anchor = moved.config.anchor.model_copy(update={"kind": "none"})
    moved.collector._config = moved.config.model_copy(update={"anchor": anchor})
    roles = evaluated_roles(moved)
    rollout, _ = moved.collect()
    assert roles == [Role.POLICY]
    assert torch.equal(rollout.anchor_logprobs, rollout.old_logprobs)
