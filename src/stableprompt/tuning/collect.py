"""Phase 1 of a step: write prompts for one query and score them on the same examples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch

from stableprompt.config import TuneConfig
from stableprompt.errors import TargetError
from stableprompt.models.adapters import Role
from stableprompt.models.agent import AgentLLM
from stableprompt.models.responses import Responses
from stableprompt.ppo.rollout import Rollout
from stableprompt.scoring.ledger import Purpose
from stableprompt.scoring.limits import LimitReached
from stableprompt.scoring.prompt_score import PromptScore
from stableprompt.scoring.scorer import Scorer
from stableprompt.tasks.example import Example
from stableprompt.tasks.splits import draw_evenly
from stableprompt.tasks.task import Task
from stableprompt.tuning.asking import Asking, Query
from stableprompt.tuning.candidates import Candidate, CandidatePool
from stableprompt.tuning.guards import Guards, Inspection
from stableprompt.tuning.randomness import derive_random, derive_uniforms
from stableprompt.tuning.spread import answer_of

_FEWEST: Final = 2  # prompts that something can be learned from
_ENOUGH: Final = 1024  # examples that say in which proportions there are answers

OnPrompt = Callable[[int, str], None]
"""Told of a prompt that was written, by row."""


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
    policy cannot learn one batch by heart; answers in their proportions (``draw_evenly``).
    """
    shown, scored = config.agent.num_demonstrations, config.examples_per_step
    rng, enough = derive_random(config.seed, step, purpose), max(_ENOUGH, shown + scored)
    some = task.train if len(task.train) <= enough else rng.sample(task.train, enough)
    taken = draw_evenly(some, scored, rng, answer_of)
    rest = sorted(set(range(len(some))) - set(taken))
    drawn = rng.sample(rest, shown)
    return Draw(tuple(some[place] for place in drawn), tuple(some[place] for place in taken))


def draw_for_use(task: Task, config: TuneConfig) -> tuple[Example, ...]:
    """The demonstrations that a writer of prompts for single inputs shows in use, and when it is
    judged; while it learns, every step has others."""
    drawn = derive_random(config.seed, "writer").sample(task.train, config.agent.num_demonstrations)
    return tuple(drawn)


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
        self._asking = Asking.of(task, config)

    def query(
        self,
        demonstrations: Sequence[Example],
        pool: CandidatePool,
        inputs: Sequence[Example] = (),
    ) -> Query:
        """What the agent reads: the same for all rows, or for each row its own input."""
        asking = self._asking
        if self._config.agent.shown_prompt == "leader":
            asking = replace(asking, prompt=next(iter(self._best(pool, 1)), asking.prompt))
        asking = asking.showing(self._task, demonstrations)
        if not inputs:
            return Query(self._agent.query_ids(asking.messages()))
        ids, tails = asking.encoded(self._agent, inputs)
        return Query(ids, tuple(inputs), tails)

    def write(
        self,
        query: Query,
        uniforms: torch.Tensor,
        *,
        role: Role = Role.POLICY,
        greedy: bool = False,
        on_prompt: OnPrompt | None = None,
    ) -> tuple[Responses, list[Inspection]]:
        """A prompt for each row of random numbers, and what is wrong with it.

        Args:
            query: What the agent reads.
            uniforms: Random numbers, (P, T).
            role: Who writes.
            greedy: Take the most probable token instead.
            on_prompt: Told of prompts without fault, by row, while others are still written.
        """

        def ended(rows: Sequence[int], texts: Sequence[str]) -> None:
            own = query.only(rows).inputs
            found = self._guards.inspect_texts(texts, [False] * len(texts), own)
            for row, one in zip(rows, found, strict=True):
                if one.fault is None and on_prompt is not None:
                    on_prompt(row, one.prompt)

        responses = self._agent.sample(
            query.ids,
            uniforms,
            role=role,
            tails=query.tails,
            greedy=greedy,
            on_end=None if on_prompt is None else ended,
        )
        self._scorer.ledger.add_agent(read=query.num_tokens, written=int(responses.mask.sum()))
        return responses, self._guards.inspect(responses, query.inputs)

    def collect(self, step: int, pool: CandidatePool) -> tuple[Rollout | None, list[Candidate]]:
        """One rollout: P prompts with tokens, log-probabilities, values and rewards.

        None instead of it where the policy does not learn: then nobody asks how likely it was.

        Args:
            step: Decides what is drawn.
            pool: What was seen in earlier steps, of which the best may be learned from again; what
                is seen now comes into it.
        """
        config = self._config
        draw = draw_examples(self._task, config, step)
        each = config.per_input.prompts if config.per_input.wanted else 0
        inputs = [example for example in draw.reward_examples for _ in range(each)]
        query = self.query(draw.demonstrations, pool, inputs)
        rows, length = config.ppo.prompts_per_step, config.agent.max_prompt_tokens
        uniforms = derive_uniforms(config.seed, step, "prompts", rows=rows, length=length)
        each_own: list[tuple[Example, ...]] = [(example,) for example in inputs]
        examples = each_own or [draw.reward_examples] * rows
        begin = self.ahead(Purpose.TRAINING, examples, prompts=[self._task.seed_prompt])
        own = rows - self._explorers()
        responses, inspections = self.write(query, uniforms[:own], on_prompt=begin)
        if own < rows:
            more, found = self.write(query, uniforms[own:], role=Role.FIRST, on_prompt=begin)
            responses, inspections = responses.above(more), [*inspections, *found]
        judged = self._judge(step, draw, query, inspections, pool, own=own)
        candidates = [candidate for candidate in judged if candidate is not None]
        # What the target failed to answer has no reward, so nothing is learned from it.
        kept = [row for row, candidate in enumerate(judged) if candidate is not None]
        sampled = sum(row < own for row in kept)  # by the policy; the others say nothing about it
        if not config.ppo.learning or not sampled or len(kept) < _FEWEST:
            return None, candidates
        if len(kept) < len(judged):
            query, responses = query.only(kept), responses.only(kept)
        rewards = [candidate.reward for candidate in candidates]
        ids, mask = responses.ids, responses.mask
        again = () if inputs else self._to_replay(pool, candidates)
        if again:
            ids, mask = self._agent.append(ids, mask, again)
            seed_reward = candidates[0].seed_reward or 0.0
            rewards += [seed_reward + pool.gain(prompt) for prompt in again]
        return self._rollout(query, ids, mask, rewards, sampled), candidates

    def _explorers(self) -> int:
        """How many of a step's prompts the first policy writes; two at least are the policy's."""
        config = self._config
        if config.per_input.wanted or not config.ppo.exploration or self._agent.adapted.untrained:
            return 0
        rows = config.ppo.prompts_per_step
        return min(int(rows * config.ppo.exploration), rows - _FEWEST)

    def ahead(
        self,
        purpose: Purpose,
        examples: Sequence[tuple[Example, ...]],
        *,
        writers: int = 1,
        prompts: Sequence[str] = (),
    ) -> OnPrompt | None:
        """Has the target begin with each prompt as it is written; None where that gains nothing.

        Args:
            purpose: Of these calls.
            examples: What the prompt of each row will be scored on; later rows are not sent.
            writers: So many will write for each row.
            prompts: To begin with at once, on all of these examples.
        """
        beside = [(prompt, own) for prompt in prompts for own in dict.fromkeys(examples)]
        calls = writers * sum(map(len, examples)) + sum(len(own) for _, own in beside)
        ahead = self._scorer.ahead(purpose, calls)
        if not ahead.wanted:
            return None
        for prompt, own in beside:
            ahead.ask(prompt, own)

        def begin(row: int, prompt: str) -> None:
            if row < len(examples):
                ahead.ask(prompt, examples[row])

        return begin

    def _rollout(
        self,
        query: Query,
        ids: torch.Tensor,
        mask: torch.Tensor,
        rewards: Sequence[float],
        num_sampled: int,
    ) -> Rollout:
        read = query.ids, ids, mask, query.tails
        policy = self._agent.evaluate(*read, role=Role.POLICY)
        anchor = policy
        # Nothing is asked of the anchor where it says the same, or where nobody listens.
        if self._config.anchor.kind != "none" and not self._agent.equal(Role.POLICY, Role.ANCHOR):
            anchor = self._agent.evaluate(*read, role=Role.ANCHOR)
        numbers = {example: number for number, example in enumerate(dict.fromkeys(query.inputs))}
        return Rollout(
            query_ids=query.ids,
            response_ids=ids,
            mask=mask,
            old_logprobs=policy.logprobs,
            anchor_logprobs=anchor.logprobs,
            entropies=policy.entropies,
            old_values=policy.values,
            rewards=torch.tensor(rewards, device=query.ids.device),
            tails=query.tails,
            groups=torch.tensor([numbers[e] for e in query.inputs]) if numbers else None,
            num_sampled=num_sampled,
        )

    def _to_replay(self, pool: CandidatePool, candidates: Sequence[Candidate]) -> list[str]:
        """The best prompts of earlier steps that were not written again just now."""
        written = {candidate.prompt for candidate in candidates}
        size = self._config.ppo.replay
        best = self._best(pool, size + len(written))
        return [prompt for prompt in best if prompt not in written][:size]

    @staticmethod
    def _best(pool: CandidatePool, size: int) -> list[str]:
        """The leaders that are better than the seed prompt at all."""
        return [prompt for prompt in pool.leaderboard(size) if pool.gain(prompt) > 0]

    def _judge(
        self,
        step: int,
        draw: Draw,
        query: Query,
        inspections: Sequence[Inspection],
        pool: CandidatePool,
        *,
        own: int,
    ) -> list[Candidate | None]:
        """Score the prompts without fault, and the seed prompt beside them, each pair once.

        The first ``own`` prompts are the policy's, the others the first policy's.

        Where a limit of the run cuts it short, what was paid for counts.

        Raises:
            TargetError: none of them was answered, and no limit was the reason.
        """
        seed_prompt = self._task.seed_prompt
        per_row: list[tuple[Example, ...]] = [(example,) for example in query.inputs]
        examples = per_row or [draw.reward_examples] * len(inspections)
        asked = [(seed_prompt, seen) for seen in dict.fromkeys(examples)]
        asked += [
            (found.prompt, seen)
            for found, seen in zip(inspections, examples, strict=True)
            if found.fault is None
        ]
        asked = list(dict.fromkeys(asked))
        cut_short = False
        try:
            scored = self._scorer.score_each(asked, Purpose.TRAINING)
        except LimitReached:
            scored, cut_short = self._scorer.remembered(asked), True
        scores = {one: score for one, score in zip(asked, scored, strict=True) if score is not None}
        by_policy = {found.prompt for found in inspections[:own]}
        for (prompt, seen), score in scores.items():
            group = step if prompt in by_policy else 0
            pool.add([prompt], [score], seen, group=group, step=step)
        judged = [
            self._candidate(
                found,
                scores.get((found.prompt, seen)),
                scores.get((seed_prompt, seen)),
                step=step,
                writer=Role.POLICY if row < own else Role.FIRST,
            )
            for row, (found, seen) in enumerate(zip(inspections, examples, strict=True))
        ]
        if not cut_short and not any(judged):
            raise TargetError(
                "the target answered none of the prompts of a step, on any example "
                f"({self._scorer.trouble}); what was answered before is kept: see to the target "
                "and resume the run"
            )
        return judged

    def _candidate(
        self,
        found: Inspection,
        score: PromptScore | None,
        seed: PromptScore | None,
        *,
        step: int,
        writer: Role,
    ) -> Candidate | None:
        """What became of a prompt; None where the target failed to answer."""
        if found.fault is None and score is None:
            return None
        return Candidate.of(
            found,
            score if found.fault is None else None,
            self._config.reward.fault_reward,
            step=step,
            writer=writer,
            scored_on=Purpose.TRAINING,
            seed_reward=seed.reward if seed is not None else None,
        )
