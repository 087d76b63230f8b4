"""The anchor: when it follows, when the policy returns, and that both are copies."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from stableprompt.config import AnchorConfig, TuneConfig
from stableprompt.models.adapters import Role
from stableprompt.models.training import Trainable, prepare_training
from stableprompt.ppo.rollout import Rollout
from stableprompt.scoring.ledger import Ledger, Purpose
from stableprompt.scoring.scorer import PromptScore
from stableprompt.tasks.example import Example
from stableprompt.tasks.prompt_checks import PromptFault
from stableprompt.tasks.readability import Readability
from stableprompt.tuning.anchor import (
    AnchorDecision,
    Judgement,
    Lead,
    apply,
    decide,
    is_due,
    paired_lead,
)
from stableprompt.tuning.anchor_judge import AnchorJudge
from stableprompt.tuning.candidates import Candidate, CandidatePool
from stableprompt.tuning.guards import Inspection
from stableprompt.tuning.race import validation_order
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
    assert decide(Lead(policy - anchor, error=0.0), RULES) is expected


def test_the_thresholds_are_separate() -> None:
    strict = AnchorConfig(update_threshold=0.2, rollback_threshold=0.01)
    assert decide(Lead(0.1, 0.0), strict) is AnchorDecision.KEEP
    assert decide(Lead(-0.02, 0.0), strict) is AnchorDecision.ROLL_BACK


def test_decisions_are_due_after_every_period() -> None:
    config = tiny_config(steps=9, anchor={"update_period": 3})
    assert [step for step in range(9) if is_due(step, config)] == [2, 5, 8]


@pytest.mark.parametrize("method", ["ppo-fixed", "ppo-previous", "grpo", "best-of-n"])
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
    ppo_update(trainable, rollout, config, seed=step)


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
    result = run(anchor={"rounds": 1})
    assert sum(result.anchor_decisions.values()) == 2  # 4 steps, a decision after every second
    judged = judged_prompts(result)
    assert [row["writer"] for row in judged] == ["policy"] * 3 + ["anchor"] * 3 + (
        ["policy"] * 3 + ["anchor"] * 3
    )
    validation = {example.text for example in make_task().validation}
    test = {example.text for example in make_task().test}
    train = {example.text for example in make_task().train}
    accepted = [row for row in judged if row["fault"] is None]
    assert {row["writer"] for row in accepted} == {"policy", "anchor"}
    for row in accepted:
        asked = {text for prompt, text in target.seen if prompt == row["prompt"]}
        # The chosen prompt meets test, and a text written for the update too meets train.
        assert validation <= asked <= validation | test | train


def test_policies_that_are_equal_to_the_last_bit_cost_no_call(run: Run) -> None:
    # No update is small enough to stay, so that the policy never leaves the anchor.
    result = run(ppo={"max_update_kl": 1e-30})
    assert result.anchor_decisions == {"keep": 2}
    assert judged_prompts(result) == []
    steps = (result.run_dir / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    decisions = [json.loads(line)["anchor"] for line in steps]
    assert [d["n"] for d in decisions if d] == [0, 0]
    same = run("without", method="grpo", ppo={"max_update_kl": 1e-30})
    assert result.cost["target_calls"] == same.cost["target_calls"]


# --- the lead ---

Table = Sequence[Sequence[float]]


def lead_of(policy: Table, anchor: Table) -> Lead:
    return paired_lead(np.array(policy, dtype=float), np.array(anchor, dtype=float))


@pytest.mark.parametrize(
    ("policy", "anchor", "mean", "squared_error"),
    [
        # Differences 1 0 / 1 0: rows 0.5, 0.5 with variance 0; columns 1, 0 with 0.5, by 2.
        ([[1, 1], [1, 0]], [[0, 1], [0, 0]], 0.5, 0.25),
        # 1 0 / 0 0: rows 0.5, 0 with variance 0.125, by 2; columns alike.
        ([[1, 1], [0, 1]], [[0, 1], [0, 1]], 0.25, 0.125),
        # 1 1 / -1 -1: rows 1, -1 with variance 2, by 2; columns 0, 0.
        ([[1, 1], [0, 0]], [[0, 0], [1, 1]], 0.0, 1.0),
        # 1 1 / 1 1: certain.
        ([[1, 1], [1, 1]], [[0, 0], [0, 0]], 1.0, 0.0),
        # One example, differences 1 / 0: rows with variance 0.5, by 2; nothing of examples.
        ([[1], [0]], [[0], [0]], 0.5, 0.25),
        # 1 0 1 / 0 0 1: rows 2/3, 1/3 with variance 1/18, by 2; columns 1/2, 0, 1 with 1/4, by 3.
        ([[1, 0, 1], [0, 0, 1]], [[0, 0, 0], [0, 0, 0]], 0.5, 1 / 36 + 1 / 12),
    ],
)
def test_the_lead_worked_by_hand(
    policy: Table, anchor: Table, mean: float, squared_error: float
) -> None:
    lead = lead_of(policy, anchor)
    assert lead.mean == pytest.approx(mean)
    assert lead.error == pytest.approx(math.sqrt(squared_error))
    other = lead_of(anchor, policy)
    assert (other.mean, other.error) == (pytest.approx(-mean), pytest.approx(lead.error))


def test_the_error_is_that_of_prompts_and_of_examples() -> None:
    # Differences d_pn = a_p + b_n + e_pn with variances 0.04, 0.09 and 0.25: the mean of a table of
    # 4 prompts and 10 examples has variance 0.04 / 4 + 0.09 / 10 + 0.25 / 40 = 0.02525. The
    # estimate counts the last part twice: 0.0315 on average. A plain error over 40 numbers that
    # were independent would be 0.38 / 40 = 0.0095, and far too sure.
    rng = np.random.default_rng(0)
    found = []
    for _ in range(4000):
        a, b = 0.2 * rng.standard_normal((4, 1)), 0.3 * rng.standard_normal((1, 10))
        found.append(paired_lead(a + b + 0.5 * rng.standard_normal((4, 10)), np.zeros((4, 10))))
    spread = np.var([lead.mean for lead in found])
    told = np.mean([lead.error**2 for lead in found])
    # Standard errors of the two over 4000 tables: 0.02525 * sqrt(2 / 4000) = 0.0006, and less.
    assert spread == pytest.approx(0.02525, abs=0.002)
    assert told == pytest.approx(0.0315, abs=0.0015)


@pytest.mark.parametrize(
    ("mean", "error", "certainty", "expected"),
    [
        (0.16, 0.1, 1.0, AnchorDecision.UPDATE),  # 0.06 is above 0.05
        (0.14, 0.1, 1.0, AnchorDecision.KEEP),
        (0.14, 0.1, 0.5, AnchorDecision.UPDATE),
        (0.14, 0.1, 2.0, AnchorDecision.KEEP),
        (-0.21, 0.1, 1.0, AnchorDecision.ROLL_BACK),  # 0.11 is above 0.1
        (-0.19, 0.1, 1.0, AnchorDecision.KEEP),
        (-0.19, 0.1, 0.0, AnchorDecision.ROLL_BACK),
        (0.06, 9.0, 0.0, AnchorDecision.UPDATE),  # the paper asks for no certainty
    ],
)
def test_so_many_standard_errors_lie_behind_the_threshold(
    mean: float, error: float, certainty: float, expected: AnchorDecision
) -> None:
    rules = RULES.model_copy(update={"certainty": certainty})
    assert decide(Lead(mean, error), rules) is expected


# --- the judge ---

TASK = make_task(size=120)  # 36 validation examples


class Hall:
    """A judge before whom policy and anchor say given prompts, worth given values.

    What each example is worth with a prompt is a function of its place in the run's order.
    """

    def __init__(
        self, policy: Sequence[str], anchor: Sequence[str], worth: Any, **settings: Any
    ) -> None:
        self.sides = {Role.POLICY: tuple(policy), Role.ANCHOR: tuple(anchor)}
        self.worth = worth
        self.same = False
        self.ledger = Ledger()
        self.asked: list[tuple[tuple[str, ...], int]] = []
        self.pool = CandidatePool("seed prompt")
        self.config: TuneConfig = tiny_config(
            anchor={"prompts_per_decision": len(policy), **settings}
        )
        self.order = validation_order(TASK, self.config)
        bench: Any = self
        self.judge = AnchorJudge(bench, bench, bench, TASK, self.config)

    def __call__(self, step: int = 0) -> tuple[Judgement, list[Candidate]]:
        return self.judge.judge(step, self.pool)

    # As agent, collector and scorer:

    def equal(self, one: Role, other: Role) -> bool:
        assert {one, other} == {Role.POLICY, Role.ANCHOR}
        return self.same

    def query(
        self, demonstrations: Any, pool: CandidatePool, inputs: Sequence[Example]
    ) -> Sequence[Example]:
        return inputs

    def ahead(self, purpose: Purpose, examples: Sequence[Any], *, writers: int) -> None:
        assert (purpose, writers) == (Purpose.VALIDATION, 2)

    def write(
        self,
        inputs: Sequence[Example],
        uniforms: torch.Tensor,
        *,
        role: Role,
        greedy: bool,
        on_prompt: None,
    ) -> tuple[None, list[Inspection]]:
        texts = self.sides[role]
        assert greedy is bool(inputs)
        assert len(uniforms) == len(texts) == (len(inputs) or len(texts))
        faults = [PromptFault.COPY if text.startswith("bad") else None for text in texts]
        plain = Readability(0.0, 1, True)
        return None, [Inspection(t, f, plain) for t, f in zip(texts, faults, strict=True)]

    def score_each(
        self, asked: Sequence[tuple[str, Sequence[Example]]], purpose: Purpose
    ) -> list[PromptScore]:
        assert purpose is Purpose.VALIDATION
        sizes = {len(examples) for _, examples in asked}
        self.asked.append((tuple(prompt for prompt, _ in asked), max(sizes)))
        return [self._score(prompt, examples) for prompt, examples in asked]

    def score_all(
        self, prompts: Sequence[str], examples: Sequence[Example], purpose: Purpose
    ) -> list[PromptScore]:
        assert purpose is Purpose.VALIDATION
        return [self._score(prompt, examples) for prompt in prompts]

    def _score(self, prompt: str, examples: Sequence[Example]) -> PromptScore:
        values = tuple(float(self.worth(prompt, self.order.index(e))) for e in examples)
        mean = sum(values) / len(values)
        return PromptScore(mean, 0.0, mean, values, values, ("",) * len(values))


def liked(prompt: str, place: int) -> bool:
    return prompt.startswith("good")


@pytest.mark.parametrize(
    ("policy", "anchor", "expected"),
    [
        (["good 1", "good 2"], ["poor 1", "poor 2"], AnchorDecision.UPDATE),
        (["poor 1", "poor 2"], ["good 1", "good 2"], AnchorDecision.ROLL_BACK),
    ],
)
def test_a_lead_that_is_certain_early_stops_at_the_first_look(
    policy: list[str], anchor: list[str], expected: AnchorDecision
) -> None:
    hall = Hall(policy, anchor, liked, rounds=3)
    judgement, candidates = hall()
    assert hall.asked == [((*policy, *anchor), 9)]  # looks at 9, 18 and 36
    assert judgement.decision is expected
    assert (judgement.n, judgement.error) == (9, 0)
    assert [c.writer for c in candidates] == [Role.POLICY] * 2 + [Role.ANCHOR] * 2
    # A part of the split is no comparison with others.
    assert hall.pool.validated == {}


def test_a_lead_that_is_certain_later_stops_then() -> None:
    # Ahead on every other example among the first 9, on all of the next: 5 of 9, then 14 of 18.
    # Threshold 0.6: 14/18 - 0.6 = 0.178; columns of 14 ones and 4 zeros have variance 56/18/17.
    def worth(prompt: str, place: int) -> bool:
        return prompt.startswith("good") and (place % 2 == 0 or place >= 9)

    hall = Hall(["good 1", "good 2"], ["poor 1", "poor 2"], worth, rounds=3, update_threshold=0.6)
    judgement, _ = hall()
    assert [size for _, size in hall.asked] == [9, 18]
    assert judgement.decision is AnchorDecision.UPDATE
    assert (judgement.policy_score, judgement.anchor_score) == (14 / 18, 0)
    assert judgement.error == pytest.approx(math.sqrt(56 / 18 / 17 / 18))


def test_where_nothing_is_certain_all_is_looked_at_and_competes_in_the_selection() -> None:
    def even(prompt: str, place: int) -> bool:
        return place % 2 == 0

    hall = Hall(["a", "b"], ["c", "b"], even, rounds=3)
    judgement, _ = hall()
    assert [size for _, size in hall.asked[:3]] == [9, 18, 36]
    assert (judgement.decision, judgement.n) == (AnchorDecision.KEEP, 36)
    assert hall.pool.validated.keys() == {"a", "b", "c"}
    assert {score.score for score in hall.pool.validated.values()} == {0.5}


@pytest.mark.parametrize(
    ("policy_wins", "expected"),
    [
        (20, AnchorDecision.UPDATE),  # 4 / 72 = 0.0556
        (19, AnchorDecision.KEEP),  # 0.0417
        (15, AnchorDecision.KEEP),  # -0.0139
        (14, AnchorDecision.ROLL_BACK),  # -0.0278
    ],
)
def test_without_certainty_and_with_one_look_it_is_the_papers_rule(
    policy_wins: int, expected: AnchorDecision
) -> None:
    # One of two prompts is worth 1 on some of 36 examples, the anchor's on 16 of them: the lead is
    # the difference of the mean scores, whatever its error.
    def worth(prompt: str, place: int) -> bool:
        return {"ours": place < policy_wins, "theirs": place >= 36 - 16}.get(prompt, False)

    rules = {"update_threshold": 0.05, "rollback_threshold": 0.02}
    hall = Hall(["ours", "x"], ["theirs", "y"], worth, certainty=0, rounds=1, **rules)
    judgement, _ = hall()
    assert judgement.decision is expected
    lead = judgement.policy_score - judgement.anchor_score
    assert lead == pytest.approx((policy_wins - 16) / 72)
    assert judgement.error > 0.05  # with certainty it would be another answer, or none
    assert hall.asked[0] == (("ours", "x", "theirs", "y"), 36)


def test_equal_policies_write_nothing_and_ask_nothing() -> None:
    hall = Hall(["good 1", "good 2"], ["poor 1", "poor 2"], liked)
    hall.same = True
    judgement, candidates = hall()
    assert judgement == Judgement(AnchorDecision.KEEP, 0.0, 0.0, 0.0, 0)
    assert (candidates, hall.asked, hall.ledger) == ([], [], Ledger())


def test_a_refused_prompt_is_worth_nothing_and_is_not_asked_about() -> None:
    hall = Hall(["good", "bad"], ["bad", "bad too"], liked, certainty=0, rounds=1)
    judgement, candidates = hall()
    assert hall.asked[0] == (("good",), 36)
    assert (judgement.policy_score, judgement.anchor_score) == (0.5, 0)
    assert [(c.fault, c.score) for c in candidates] == [
        (None, 1.0),
        *[(PromptFault.COPY, None)] * 3,
    ]
    assert hall.pool.faults == {"copy": 3}


def test_where_all_prompts_are_refused_nothing_is_decided() -> None:
    hall = Hall(["bad", "bad 2"], ["bad", "bad 2"], liked)
    assert hall()[0].decision is AnchorDecision.KEEP
    assert hall.asked == []


def test_a_decision_takes_so_many_examples_at_most() -> None:
    hall = Hall(["good", "x"], ["good", "x"], liked, max_examples=16, rounds=2)
    judgement, _ = hall()
    assert [size for _, size in hall.asked] == [8, 16]
    assert judgement.n == 16
    assert hall.pool.validated == {}


def test_prompts_of_a_decision_lead_like_those_of_the_steps() -> None:
    hall = Hall(["good", "poor"], ["poor", "bad"], liked, rounds=1)
    hall()
    assert hall.pool.leaderboard(9) == ["good", "poor"]
    assert hall.pool.num_unique == 2  # not the refused one
    assert hall.pool.rating("good") > hall.pool.rating("poor")


def test_they_also_do_after_a_look_at_a_part_of_the_split() -> None:
    hall = Hall(["good 1", "good 2"], ["poor 1", "poor 2"], liked, rounds=3)
    assert hall()[0].n == 9
    assert sorted(hall.pool.leaderboard(9)) == ["good 1", "good 2", "poor 1", "poor 2"]
    assert {len(own) for own in hall.pool.to_dict()["seen"]} == {0, 9}  # 0 of the seed prompt


def test_each_side_is_of_the_group_of_the_policy_that_wrote_it() -> None:
    hall = Hall(["good 1", "good 2"], ["poor 1", "poor 2"], liked)
    assert hall(step=3)[0].decision is AnchorDecision.UPDATE
    # The anchor was the first policy, and is that of step 3 from now on.
    groups = hall.pool.to_dict()["groups"]
    assert groups == {"seed prompt": 0, "good 1": 3, "good 2": 3, "poor 1": 0, "poor 2": 0}
    assert hall.pool.anchor_group == 3
    hall.sides = {Role.POLICY: ("poor 1", "poor 3"), Role.ANCHOR: ("good 1", "good 3")}
    assert hall(step=5)[0].decision is AnchorDecision.ROLL_BACK
    groups = hall.pool.to_dict()["groups"]
    assert (groups["poor 3"], groups["good 3"]) == (5, 3)
    assert (groups["poor 1"], groups["good 1"]) == (0, 3)  # as they were
    assert hall.pool.anchor_group == 3


def test_a_decision_that_changes_nothing_leaves_the_anchor_who_it_was() -> None:
    def even(prompt: str, place: int) -> bool:
        return place % 2 == 0

    hall = Hall(["a", "b"], ["c", "b"], even, rounds=1)
    assert hall(step=7)[0].decision is AnchorDecision.KEEP
    assert hall.pool.anchor_group == 0
    groups = hall.pool.to_dict()["groups"]
    assert groups == {"seed prompt": 0, "a": 7, "b": 7, "c": 0}  # what both wrote is the policy's
