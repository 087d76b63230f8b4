"""Phase 4 of a step: does the anchor follow, does the policy return, or neither. The rule.

The lead of the policy is an estimate from a few prompts a side. It is paired, prompt by prompt
and example by example, and must be certain before anything is copied; ``anchor_judge`` measures it.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stableprompt.config import AnchorConfig, TuneConfig
from stableprompt.models.adapters import Role
from stableprompt.models.agent import AgentLLM


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
