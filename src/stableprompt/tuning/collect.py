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
from stableprompt.tasks.prompt_checks import PromptFault
from stableprompt.tasks.task import Task
from stableprompt.tuning.candidates import Candidate
from stableprompt.tuning.guards import Guards
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

    def query_ids(self, draw: Draw) -> torch.Tensor:
        """The meta-prompt of a draw, as the agent reads it, (Q,)."""
        task = self._task
        pairs = [(example.text, task.shown_answer(example)) for example in draw.demonstrations]
        messages = self._meta_prompt.messages(task.seed_prompt, task.allowed_outputs, pairs)
        return self._agent.query_ids(messages)

    def collect(self, step: int) -> tuple[Rollout | None, list[Candidate]]:
        """One rollout: P prompts with tokens, log-probabilities, values and rewards.

        None instead of it where the policy does not learn: then nobody asks how likely it was.
        """
        draw = draw_examples(self._task, self._config, step)
        query_ids = self.query_ids(draw)
        uniforms = derive_uniforms(
            self._config.seed,
            step,
            "prompts",
            rows=self._config.ppo.prompts_per_step,
            length=self._config.agent.max_prompt_tokens,
        )
        responses = self._agent.sample(query_ids, uniforms)
        self._scorer.ledger.add_agent(read=len(query_ids), written=int(responses.mask.sum()))
        candidates = self._judge(step, draw, responses.texts, self._guards.faults(responses))
        if not self._config.ppo.learning:
            return None, candidates
        policy = self._agent.evaluate(query_ids, responses.ids, responses.mask, role=Role.POLICY)
        anchor = policy
        if not self._agent.equal(Role.POLICY, Role.ANCHOR):
            anchor = self._agent.evaluate(
                query_ids, responses.ids, responses.mask, role=Role.ANCHOR
            )
        rollout = Rollout(
            query_ids=query_ids,
            response_ids=responses.ids,
            mask=responses.mask,
            old_logprobs=policy.logprobs,
            anchor_logprobs=anchor.logprobs,
            entropies=policy.entropies,
            old_values=policy.values,
            rewards=torch.tensor([c.reward for c in candidates], device=query_ids.device),
        )
        return rollout, candidates

    def _judge(
        self, step: int, draw: Draw, prompts: Sequence[str], faults: Sequence[PromptFault | None]
    ) -> list[Candidate]:
        """Score the prompts without fault, each text once, and the seed prompt beside them."""
        accepted = [p for p, fault in zip(prompts, faults, strict=True) if fault is None]
        texts = list(dict.fromkeys([self._task.seed_prompt, *accepted]))
        found = self._scorer.score_all(texts, draw.reward_examples, Purpose.TRAINING)
        scores = dict(zip(texts, found, strict=True))
        seed = scores[self._task.seed_prompt]
        candidates = []
        for prompt, fault in zip(prompts, faults, strict=True):
            score = scores[prompt] if fault is None else None
            candidates.append(
                Candidate(
                    step=step,
                    writer=Role.POLICY,
                    scored_on=Purpose.TRAINING,
                    prompt=prompt,
                    fault=fault,
                    reward=score.reward if score else self._config.reward.fault_reward,
                    score=score.score if score else None,
                    softmax_difference=score.softmax_difference if score else None,
                    seed_reward=seed.reward,
                )
            )
        return candidates
