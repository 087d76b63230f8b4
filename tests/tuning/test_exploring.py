"""The first policy goes on writing: whose prompts are whose, and what each counts for."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import stableprompt.tuning.candidates as candidates_module
from stableprompt.config import MonitorConfig, make_config
from stableprompt.models.adapters import Role
from stableprompt.models.agent import AgentLLM
from stableprompt.presets import METHODS, PRESETS, merge
from stableprompt.scoring.ledger import Ledger
from stableprompt.scoring.scorer import PromptScore, Scorer
from stableprompt.tasks.prompt_checks import PromptFault
from stableprompt.tasks.templates import TargetTemplate
from stableprompt.tuning.candidates import Candidate, CandidatePool
from stableprompt.tuning.collect import Collector
from stableprompt.tuning.monitor import Monitor
from stableprompt.tuning.randomness import derive_uniforms
from stableprompt.tuning.ratings import variances_of, written_together
from stableprompt.tuning.tuner import Tuner
from tests.fakes.agents import disturb
from tests.fakes.word_agent import ScriptedTarget, make_agent, make_task
from tests.tuning.conftest import tiny_config
from tests.tuning.test_collect import FixedGuards

TASK = make_task()
ROWS, LENGTH, STEP = 8, 8, 3


class Bench:
    """A collector, its agent, and who wrote how many rows."""

    def __init__(self, *, rows: int = ROWS, trained: bool = True, **ppo: Any) -> None:
        self.agent: AgentLLM = make_agent()
        if trained:
            with torch.no_grad():
                disturb(self.agent.learned_parameters(), scale=0.3)
        self.config = tiny_config(ppo={"prompts_per_step": rows, "replay": 0, **ppo})
        self.faults: dict[str, PromptFault] = {}
        self.pool = CandidatePool("sort one text")
        self.wrote: list[tuple[Role, int]] = []
        honest = self.agent.sample

        def sample(query_ids: Any, uniforms: Any, **more: Any) -> Any:
            self.wrote.append((more["role"], len(uniforms)))
            return honest(query_ids, uniforms, **more)

        self.agent.sample = sample  # type: ignore[method-assign]

    def collect(self) -> tuple[Any, list[Candidate]]:
        template = TargetTemplate("system", input_format="{text}")
        scorer = Scorer(
            ScriptedTarget(),
            template,
            TASK,
            Ledger(),
            answers=self.config.target,
            reward=self.config.reward,
        )
        guards: Any = FixedGuards(**self.faults)
        collector = Collector(self.agent, scorer, guards, TASK, self.config)
        return collector.collect(STEP, self.pool)


def texts_of(agent: AgentLLM, query_ids: torch.Tensor, rows: slice) -> tuple[str, ...]:
    uniforms = derive_uniforms(0, STEP, "prompts", rows=ROWS, length=LENGTH)
    return agent.sample(query_ids, uniforms[rows], role=Role.POLICY).texts


def test_half_of_the_prompts_are_those_of_an_agent_that_never_learned() -> None:
    bench = Bench(exploration=0.5)
    rollout, candidates = bench.collect()
    assert bench.wrote == [(Role.POLICY, 4), (Role.FIRST, 4)]
    assert [c.writer for c in candidates] == [Role.POLICY] * 4 + [Role.FIRST] * 4
    written = tuple(c.prompt for c in candidates)
    assert written[:4] == texts_of(bench.agent, rollout.query_ids, slice(0, 4))
    assert written[4:] == texts_of(make_agent(), rollout.query_ids, slice(4, 8))
    assert written[4:] != texts_of(bench.agent, rollout.query_ids, slice(4, 8))


def test_all_are_learned_from_and_the_figures_of_the_policy_are_its_own() -> None:
    rollout, candidates = Bench(exploration=0.5).collect()
    assert rollout.rewards.tolist() == pytest.approx([c.reward for c in candidates])
    assert rollout.num_sampled == 4
    assert rollout.sampled_mask.any(dim=1).tolist() == [True] * 4 + [False] * 4
    assert rollout.mask.any(dim=1).all()


def test_what_the_first_policy_writes_is_rated_among_its_own() -> None:
    bench = Bench(exploration=0.5)
    _, candidates = bench.collect()
    groups, steps = (bench.pool.to_dict()[name] for name in ("groups", "steps"))
    by_policy = {c.prompt for c in candidates if c.writer is Role.POLICY}
    by_first = {c.prompt for c in candidates if c.writer is Role.FIRST} - by_policy
    assert by_first
    assert {groups[prompt] for prompt in by_policy} == {STEP}
    assert {groups[prompt] for prompt in by_first} == {0}
    assert {steps[prompt] for prompt in by_policy | by_first} == {STEP}


def test_prompts_of_one_writer_and_one_step_are_written_together() -> None:
    assert written_together([0, 0, 0, 2, 0, 2], [0, 0, 1, 2, 2, 2]) == [0, 0, 1, 2, 3, 2]


def test_the_first_policys_prompts_are_compared_step_by_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool, drawn = CandidatePool("sort one text"), iter(range(1000))
    tables: list[list[int]] = []

    def watched(groups: list[int], *others: Any) -> Any:
        tables.append(groups)
        return variances_of(groups, *others)

    monkeypatch.setattr(candidates_module, "variances_of", watched)
    examples = TASK.train
    for step in range(1, 4):
        own = examples[step * 4 : step * 4 + 4]
        for writer, count in ((step, 1), (0, 5)):  # a policy that repeats itself
            for _ in range(count):
                number = next(drawn)
                rewards = tuple(float((number * 7 + place) % 5) for place in range(4))
                score = PromptScore(0.5, None, 0.5, (), rewards, ())
                pool.add([f"prompt {number}"], [score], own, group=writer, step=step)
    again = CandidatePool.from_dict(json.loads(json.dumps(pool.to_dict())))
    assert [pool.rating("prompt 3"), again.rating("prompt 3")] == [pool.rating("prompt 3")] * 2
    assert tables[0] == tables[1] == [0, *(n for k in (1, 3, 5) for n in (k, *[k + 1] * 5))]
    seen = [{int(e): r for e, r in own} for own in pool.to_dict()["seen"]]
    groups = list(pool.to_dict()["groups"].values())
    assert variances_of(groups, seen) == variances_of([0], [{}])  # unknown: nothing in common
    assert variances_of(tables[0], seen) != variances_of([0], [{}])


def test_a_step_in_which_the_first_policy_alone_was_admitted_is_not_barren() -> None:
    _, candidates = Bench(exploration=0.5).collect()
    refused = [replace(c, fault=PromptFault.BABBLE) for c in candidates[:4]]
    tuner: Any = object.__new__(Tuner)  # what a step is watched with, and no more
    tuner._config, tuner._pool = tiny_config(), CandidatePool("sort one text")
    tuner._monitor = Monitor(MonitorConfig(max_refused_steps=2))
    for _ in range(3):
        tuner._watch([*refused, *candidates[4:]], None)
    assert (tuner._monitor.refused_in_a_row, tuner._monitor.writes_nothing) == (0, False)
    for _ in range(2):
        tuner._watch(refused, None)
    assert (tuner._monitor.refused_in_a_row, tuner._monitor.writes_nothing) == (2, True)


def test_what_both_write_is_the_policys() -> None:
    bench = Bench(exploration=0.5)
    honest = bench.agent.sample

    def sample(*given: Any, **more: Any) -> Any:
        found = honest(*given, **more)
        return type(found)(found.ids, found.mask, ("please",) * 4, found.truncated)

    bench.agent.sample = sample  # type: ignore[method-assign]
    bench.collect()
    assert bench.pool.to_dict()["groups"]["please"] == STEP


@pytest.mark.parametrize(
    ("rows", "explore", "explorers"),
    [(8, 0.5, 4), (8, 0.3, 2), (8, 0.99, 6), (3, 0.5, 1), (2, 0.5, 0), (8, 0.0, 0), (8, 0.1, 0)],
)
def test_two_prompts_at_least_are_the_policys(rows: int, explore: float, explorers: int) -> None:
    bench = Bench(rows=rows, exploration=explore)
    _, candidates = bench.collect()
    found = [c.writer for c in candidates]
    assert found == [Role.POLICY] * (rows - explorers) + [Role.FIRST] * explorers


def test_a_policy_that_is_still_the_first_writes_alone() -> None:
    bench = Bench(exploration=0.5, trained=False)
    bench.collect()
    assert bench.wrote == [(Role.POLICY, ROWS)]


def test_where_the_target_answers_the_first_policy_alone_nothing_is_learned() -> None:
    bench = Bench(exploration=0.5)
    ours = {c.prompt for c in Bench(exploration=0.5).collect()[1] if c.writer is Role.POLICY}
    honest = Scorer.score_each

    def score_each(self: Scorer, asked: Any, purpose: Any) -> Any:
        found = honest(self, asked, purpose)
        return [
            None if prompt in ours else score
            for (prompt, _), score in zip(asked, found, strict=True)
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scorer, "score_each", score_each)
        rollout, candidates = bench.collect()
    assert rollout is None
    assert {c.writer for c in candidates} == {Role.FIRST}


def test_of_the_methods_ours_alone_explores() -> None:
    explores = {
        name: make_config(merge(METHODS[name], {"method": name})).ppo.exploration
        for name in METHODS
    }
    assert explores.pop("appo") == 0.5
    assert set(explores.values()) == {0}
    assert make_config(PRESETS["paper"]).ppo.exploration == 0


def test_a_run_tells_of_the_policy_alone(run: Any) -> None:
    result = run("run", steps=4, anchor={"kind": "fixed"}, ppo={"exploration": 0.5})
    folder = Path(result.run_dir)
    steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    lines = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    writers = []
    for step in steps:
        own = [p for p in lines if p["step"] == step["step"] and p["scored_on"] == "training"]
        policy = [p["reward"] for p in own if p["writer"] == "policy"]
        writers.append({p["writer"] for p in own})
        gain = sum(policy) / len(policy) - step["seed_reward"]
        assert step["monitor"]["readings"]["gain"] == pytest.approx(gain)
        assert step["mean_reward"] == pytest.approx(sum(policy) / len(policy))
        assert step["best_reward"] == max(p["reward"] for p in own)
        unique = {p["prompt"] for p in own if p["writer"] == "policy"}
        assert step["monitor"]["readings"]["unique_share"] == len(unique) / len(policy)
        assert sum(step["faults"].values()) == sum(p["fault"] is not None for p in own)
    assert writers == [{"policy"}] + [{"policy", "first"}] * 3
