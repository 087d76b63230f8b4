"""Phase 1 of a step: write prompts for one query and score them on the same examples."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stableprompt.config import TuneConfig
from stableprompt.models.adapters import Role
from stableprompt.models.agent import AgentLLM
from stableprompt.ppo.rollout import Rollout
from stableprompt.scoring.ledger import Purpose
from stableprompt.scoring.scorer import Scorer
from stableprompt.tasks.example import Example
from stableprompt.tasks.meta_prompts import MetaPrompt
from stableprompt.tasks.task import Task
from stableprompt.tuning.candidates import Candidate, CandidatePool
from stableprompt.tuning.guards import Guards, Inspection
from stableprompt.tuning.randomness import derive_random, derive_uniforms


@dataclass(frozen=True, slots=True)
class Draw:
    """What one step shows and asks: disjoint draws from the training split."""

    demonstrations: tuple[Example, ...]
    """Shown to the agent in the meta-prompt."""
    reward_examples: tuple[Example, ...]
    """What all prompts of the step are scored on."""


def draw_examples(task: Task, config: TuneConfig, step: int, purpose: str = "examples") -> Draw:
    """Draw a step's examples without replacement; the last ones drawn are the demonstrations.

    The same for all prompts of the step (common random numbers), fresh every step, so that the
    policy cannot learn one batch by heart.
    """
    shown = config.agent.num_demonstrations
    scored = config.reward.examples_per_step
    drawn = derive_random(config.seed, step, purpose).sample(task.train, shown + scored)
    return Draw(tuple(drawn[scored:]), tuple(drawn[:scored]))


class Collector:
    """Writes and scores the prompts of a step.

    Args:
        agent: Who writes.
        scorer: What the target makes of it.
        guards: What is refused.
        task: Where examples come from.
        config: How many of everything.
    """

    def __init__(
        self, agent: AgentLLM, scorer: Scorer, guards: Guards, task: Task, config: TuneConfig
    ) -> None:
        self._agent = agent
        self._scorer = scorer
        self._guards = guards
        self._task = task
        self._config = config
        self._meta_prompt = MetaPrompt(config.agent.meta_prompt)

    def query_ids(self, draw: Draw, pool: CandidatePool) -> torch.Tensor:
        """The meta-prompt of a draw, as the agent reads it, (Q,)."""
        task = self._task
        pairs = [(example.text, task.shown_answer(example)) for example in draw.demonstrations]
        shown = task.seed_prompt
        if self._config.agent.shown_prompt == "leader":
            shown = next(iter(self._best(pool, 1)), shown)
        messages = self._meta_prompt.messages(shown, task.allowed_outputs, pairs)
        return self._agent.query_ids(messages)

    def collect(self, step: int, pool: CandidatePool) -> tuple[Rollout | None, list[Candidate]]:
        """One rollout: P prompts with tokens, log-probabilities, values and rewards.

        None instead of it where the policy does not learn: then nobody asks how likely it was.

        Args:
            step: Decides what is drawn.
            pool: What was seen in earlier steps; the best of it may be learned from again.
        """
        draw = draw_examples(self._task, self._config, step)
        query_ids = self.query_ids(draw, pool)
        uniforms = derive_uniforms(
            self._config.seed,
            step,
            "prompts",
            rows=self._config.ppo.prompts_per_step,
            length=self._config.agent.max_prompt_tokens,
        )
        responses = self._agent.sample(query_ids, uniforms)
        self._scorer.ledger.add_agent(read=len(query_ids), written=int(responses.mask.sum()))
        candidates = self._judge(step, draw, self._guards.inspect(responses))
        if not self._config.ppo.learning:
            return None, candidates
        rewards = [candidate.reward for candidate in candidates]
        ids, mask = responses.ids, responses.mask
        again = self._to_replay(pool, candidates)
        if again:
            ids, mask = self._agent.append(ids, mask, again)
            [seed_reward] = {c.seed_reward for c in candidates}
            rewards += [(seed_reward or 0.0) + pool.trusted_gain(prompt) for prompt in again]
        return self._rollout(query_ids, ids, mask, rewards, len(candidates)), candidates

    def _rollout(
        self,
        query_ids: torch.Tensor,
        ids: torch.Tensor,
        mask: torch.Tensor,
        rewards: Sequence[float],
        num_sampled: int,
    ) -> Rollout:
        policy = self._agent.evaluate(query_ids, ids, mask, role=Role.POLICY)
        anchor = policy
        # Nothing is asked of the anchor where it says the same, or where nobody listens.
        if self._config.anchor.kind != "none" and not self._agent.equal(Role.POLICY, Role.ANCHOR):
            anchor = self._agent.evaluate(query_ids, ids, mask, role=Role.ANCHOR)
        return Rollout(
            query_ids=query_ids,
            response_ids=ids,
            mask=mask,
            old_logprobs=policy.logprobs,
            anchor_logprobs=anchor.logprobs,
            entropies=policy.entropies,
            old_values=policy.values,
            rewards=torch.tensor(rewards, device=query_ids.device),
            num_sampled=num_sampled,
        )

    def _to_replay(self, pool: CandidatePool, candidates: Sequence[Candidate]) -> list[str]:
        """The best prompts of earlier steps that were not written again just now."""
        written = {candidate.prompt for candidate in candidates}
        best = self._best(pool, self._config.ppo.replay)
        return [prompt for prompt in best if prompt not in written]

    @staticmethod
    def _best(pool: CandidatePool, size: int) -> list[str]:
        """The leaders that are better than the seed prompt at all."""
        return [prompt for prompt in pool.leaderboard(size) if pool.trusted_gain(prompt) > 0]

    def _judge(self, step: int, draw: Draw, inspections: Sequence[Inspection]) -> list[Candidate]:
        """Score the prompts without fault, each text once, and the seed prompt beside them."""
        seed_prompt = self._task.seed_prompt
        accepted = [found.prompt for found in inspections if found.fault is None]
        texts = list(dict.fromkeys([seed_prompt, *accepted]))
        scored = self._scorer.score_all(texts, draw.reward_examples, Purpose.TRAINING)
        scores = dict(zip(texts, scored, strict=True))
        return [
            Candidate.of(
                found,
                scores[found.prompt] if found.fault is None else None,
                self._config.reward.fault_reward,
                step=step,
                writer=Role.POLICY,
                scored_on=Purpose.TRAINING,
                seed_reward=scores[seed_prompt].reward,
            )
            for found in inspections
        ]
