"""Phase 4 of a step: does the anchor follow, does the policy return, or neither.

Policy and anchor write several prompts each for the same query, on common random numbers, and
both are scored on the same validation examples. Where the two are equal, so are their prompts,
and the difference is exactly 0: equal policies are never told apart. Otherwise the difference is
an estimate from a few prompts a side, with the noise of one; a refused prompt weighs heavily.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from stableprompt.config import AnchorConfig, TuneConfig
from stableprompt.models.adapters import Role
from stableprompt.models.agent import AgentLLM
from stableprompt.scoring.ledger import Purpose
from stableprompt.scoring.scorer import Scorer
from stableprompt.tasks.prompt_checks import PromptFault
from stableprompt.tasks.task import Task
from stableprompt.tuning.candidates import Candidate, CandidatePool
from stableprompt.tuning.collect import Collector, draw_examples
from stableprompt.tuning.guards import Guards
from stableprompt.tuning.randomness import derive_uniforms


class AnchorDecision(StrEnum):
    """What happens to policy and anchor."""

    UPDATE = "update"
    """The policy is ahead: anchor := copy of the policy."""
    ROLL_BACK = "roll_back"
    """The policy has fallen behind: policy := copy of the anchor, optimizer state fresh."""
    KEEP = "keep"
    """Neither."""


def decide(policy_score: float, anchor_score: float, config: AnchorConfig) -> AnchorDecision:
    """The rule of StablePrompt section 3.2, with its two thresholds.

    Args:
        policy_score: Mean validation score of the policy's prompts, 0-1.
        anchor_score: The same of the anchor's.
        config: Thresholds, as differences of scores (0-1).
    """
    lead = policy_score - anchor_score
    if lead > config.update_threshold:
        return AnchorDecision.UPDATE
    if -lead > config.rollback_threshold:
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
    """Mean score of the policy's prompts, 0-1; a refused prompt counts as 0."""
    anchor_score: float
    """The same of the anchor's."""


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
        self._task = task
        self._config = config

    def judge(
        self, step: int, collector: Collector, pool: CandidatePool
    ) -> tuple[Judgement, list[Candidate]]:
        """Write and score the prompts of both; what was paid for is kept in the pool."""
        config = self._config
        # A query of its own: the policy has just been trained on the step's.
        draw = draw_examples(self._task, config, step, "anchor-examples")
        query_ids = collector.query_ids(draw)
        uniforms = derive_uniforms(
            config.seed,
            step,
            "anchor",
            rows=config.anchor.prompts_per_decision,
            length=config.agent.max_prompt_tokens,
        )
        written = {}
        for role in (Role.POLICY, Role.ANCHOR):
            responses = self._agent.sample(query_ids, uniforms, role=role)
            self._scorer.ledger.add_agent(read=len(query_ids), written=int(responses.mask.sum()))
            faults = self._guards.faults(responses)
            written[role] = list(zip(responses.texts, faults, strict=True))
        accepted = [p for side in written.values() for p, fault in side if fault is None]
        pool.validate(accepted, self._scorer, self._task.validation)
        judged = {
            role: [self._candidate(step, role, prompt, fault, pool) for prompt, fault in side]
            for role, side in written.items()
        }
        candidates = [*judged[Role.POLICY], *judged[Role.ANCHOR]]
        pool.add(candidates)
        policy, anchor = (
            sum(c.score or 0.0 for c in judged[role]) / len(judged[role]) for role in judged
        )
        return Judgement(decide(policy, anchor, config.anchor), policy, anchor), candidates

    def _candidate(
        self, step: int, role: Role, prompt: str, fault: PromptFault | None, pool: CandidatePool
    ) -> Candidate:
        score = pool.validated[prompt] if fault is None else None
        return Candidate(
            step=step,
            writer=role,
            scored_on=Purpose.VALIDATION,
            prompt=prompt,
            fault=fault,
            reward=score.reward if score else self._config.reward.fault_reward,
            score=score.score if score else None,
            softmax_difference=score.softmax_difference if score else None,
            seed_reward=None,
        )
