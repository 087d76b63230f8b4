"""Phase 4 of a step: does the anchor follow, does the policy return, or neither.

Policy and anchor write several prompts each for the same query, on common random numbers, and
both are scored on the same validation examples. Where the two are equal, so are their prompts,
and the difference is exactly 0: equal policies are never told apart, and nothing is asked.
Otherwise the lead is an estimate from a few prompts a side. It is paired, prompt by prompt and
example by example, and looked at on a growing part of the validation split: what is certain on a
quarter of it costs no more than a quarter.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stableprompt.config import AnchorConfig, TuneConfig
from stableprompt.models.adapters import Role
from stableprompt.models.agent import AgentLLM
from stableprompt.scoring.ledger import Purpose
from stableprompt.scoring.scorer import PromptScore, Scorer
from stableprompt.tasks.example import Example
from stableprompt.tasks.task import Task
from stableprompt.tuning.candidates import Candidate, CandidatePool
from stableprompt.tuning.collect import Collector, draw_examples
from stableprompt.tuning.guards import Guards, Inspection
from stableprompt.tuning.race import look_sizes, validation_order
from stableprompt.tuning.randomness import derive_uniforms


class AnchorDecision(StrEnum):
    """What happens to policy and anchor."""

    UPDATE = "update"
    """The policy is ahead: anchor := copy of the policy."""
    ROLL_BACK = "roll_back"
    """The policy has fallen behind: policy := copy of the anchor, optimizer state fresh."""
    KEEP = "keep"
    """Neither."""


@dataclass(frozen=True, slots=True)
class Lead:
    """By how much the policy's prompts are better than the anchor's, and how sure that is."""

    mean: float
    """Policy minus anchor, by the task's metric."""
    error: float
    """Standard error of the mean: over prompts and over examples."""


def paired_lead(policy: NDArray[np.float64], anchor: NDArray[np.float64]) -> Lead:
    """The lead of prompts over prompts that were written on the same random numbers.

    Prompts and examples are both samples. With D the (P, N) table of differences, its row means
    vary with the prompts, its column means with the examples, and

        error^2 = var(row means) / P + var(column means) / N

    which counts what is left over twice: it is never too small on average.

    Args:
        policy: What each example was worth with each prompt, (P, N), P >= 2. Of one example
            alone nothing is known about others: its part of the error is left out.
        anchor: The same of the anchor's prompts.
    """
    differences = policy - anchor
    means = [differences.mean(axis=axis) for axis in (1, 0)]
    variance = sum(mean.var(ddof=1) / len(mean) for mean in means if len(mean) > 1)
    return Lead(float(differences.mean()), math.sqrt(float(variance)))


def decide(lead: Lead, config: AnchorConfig) -> AnchorDecision:
    """The rule of StablePrompt section 3.2, with its two thresholds, for a lead that is certain.

    Args:
        lead: The policy's, a difference of scores (0-1).
        config: Thresholds, and how many standard errors must lie behind them; with 0 it is the
            paper's rule.
    """
    margin = config.certainty * lead.error
    if lead.mean - margin > config.update_threshold:
        return AnchorDecision.UPDATE
    if -lead.mean - margin > config.rollback_threshold:
        return AnchorDecision.ROLL_BACK
    return AnchorDecision.KEEP


def apply(decision: AnchorDecision, agent: AgentLLM, optimizer: Any) -> None:
    """Copy adapter and value head, by value, in the direction decided."""
    if decision is AnchorDecision.UPDATE:
        agent.copy(Role.POLICY, Role.ANCHOR)
    elif decision is AnchorDecision.ROLL_BACK:
        agent.copy(Role.ANCHOR, Role.POLICY)
        # Momentum gathered on the way that was just abandoned must not lead there again.
        optimizer.state.clear()


def is_due(step: int, config: TuneConfig) -> bool:
    """Whether a decision follows this step (counted from 0)."""
    adaptive = config.anchor.kind == "adaptive" and config.ppo.learning
    return adaptive and (step + 1) % config.anchor.update_period == 0


@dataclass(frozen=True, slots=True)
class Judgement:
    """Both sides' validation scores and what follows from them."""

    decision: AnchorDecision
    policy_score: float
    """Mean score of the policy's prompts on what was looked at, 0-1; a refused prompt counts 0."""
    anchor_score: float
    """The same of the anchor's."""
    error: float
    """Standard error of the difference."""
    n: int
    """Validation examples looked at; 0 where policy and anchor are equal."""


_Side = list[Inspection]  # what one of the two wrote


def _accepted(side: _Side) -> list[str]:
    return [found.prompt for found in side if found.fault is None]


def _values(side: _Side, scores: Mapping[str, PromptScore], n: int) -> NDArray[np.float64]:
    """What each example was worth with each prompt, (P, N); 0 for a refused one."""
    nothing = (0.0,) * n
    return np.array([scores[f.prompt].values if f.fault is None else nothing for f in side])


class AnchorJudge:
    """Compares policy and anchor on the validation split.

    Args:
        agent: Carries both.
        scorer: Scores on validation.
        guards: A prompt that could not be returned scores 0.
        task: Gives the validation split.
        config: Period, thresholds, prompts a side.
    """

    def __init__(
        self, agent: AgentLLM, scorer: Scorer, guards: Guards, task: Task, config: TuneConfig
    ) -> None:
        self._agent = agent
        self._scorer = scorer
        self._guards = guards
        self._config = config
        # One order for the whole run: a part that was looked at before is known already.
        self._order = validation_order(task, config)[: config.anchor.max_examples]
        self._task = task

    def judge(
        self, step: int, collector: Collector, pool: CandidatePool
    ) -> tuple[Judgement, list[Candidate]]:
        """Write and score the prompts of both; the target's answers stay known."""
        if self._agent.equal(Role.POLICY, Role.ANCHOR):
            return Judgement(AnchorDecision.KEEP, 0.0, 0.0, 0.0, 0), []
        policy, anchor = self._write(step, collector, pool)
        texts = list(dict.fromkeys([*_accepted(policy), *_accepted(anchor)]))
        for examples in self._looks():
            scores = self._score(texts, examples)
            ours, theirs = (_values(side, scores, len(examples)) for side in (policy, anchor))
            lead = paired_lead(ours, theirs)
            decision = decide(lead, self._config.anchor)
            if decision is not AnchorDecision.KEEP:
                break
        judgement = Judgement(
            decision, float(ours.mean()), float(theirs.mean()), lead.error, len(examples)
        )
        candidates = [
            Candidate.of(
                found,
                scores[found.prompt] if found.fault is None else None,
                self._config.reward.fault_reward,
                step=step,
                writer=role,
                scored_on=Purpose.VALIDATION,
            )
            for role, side in ((Role.POLICY, policy), (Role.ANCHOR, anchor))
            for found in side
        ]
        pool.add(candidates)
        if len(examples) == len(
            self._task.validation
        ):  # known by now: these compete in the selection
            pool.validate(texts, self._scorer, self._task.validation)
        return judgement, candidates

    def _write(self, step: int, collector: Collector, pool: CandidatePool) -> tuple[_Side, _Side]:
        config = self._config
        # A query of its own: the policy has just been trained on the step's.
        draw = draw_examples(self._task, config, step, "anchor-examples")
        query_ids = collector.query_ids(draw, pool)
        uniforms = derive_uniforms(
            config.seed,
            step,
            "anchor",
            rows=config.anchor.prompts_per_decision,
            length=config.agent.max_prompt_tokens,
        )
        sides = []
        for role in (Role.POLICY, Role.ANCHOR):
            responses = self._agent.sample(query_ids, uniforms, role=role)
            self._scorer.ledger.add_agent(read=len(query_ids), written=int(responses.mask.sum()))
            sides.append(self._guards.inspect(responses))
        policy, anchor = sides
        return policy, anchor

    def _looks(self) -> list[list[Example]]:
        """Growing parts of the examples that a decision may take, the last of them all."""
        sizes = look_sizes(len(self._order), self._config.anchor.rounds)
        return [self._order[:size] for size in sizes]

    def _score(self, prompts: Sequence[str], examples: Sequence[Example]) -> dict[str, PromptScore]:
        if not prompts:
            return {}
        found = self._scorer.score_all(prompts, examples, Purpose.VALIDATION)
        return dict(zip(prompts, found, strict=True))
