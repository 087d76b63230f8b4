"""Phase 4 of a step: by how much is the policy ahead of the anchor? The measurement.

Policy and anchor write prompts for the same query, on common random numbers, and both are scored
on the same validation examples. Where the two are equal, so are their prompts, and the difference
is exactly 0: equal policies are never told apart, and nothing is asked. The lead is looked at on
a growing part of the validation split: what is certain on a quarter of it costs no more than a
quarter. Writers of prompts for single inputs each write one for each of these examples, greedily,
as they will in use.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stableprompt.config import TuneConfig
from stableprompt.models.adapters import Role
from stableprompt.models.agent import AgentLLM
from stableprompt.scoring.ledger import Purpose
from stableprompt.scoring.scorer import PromptScore, Scorer
from stableprompt.tasks.example import Example
from stableprompt.tasks.task import Task
from stableprompt.tuning.anchor import AnchorDecision, Judgement, decide, paired_lead
from stableprompt.tuning.candidates import Candidate, CandidatePool
from stableprompt.tuning.collect import Collector, draw_examples, draw_for_use
from stableprompt.tuning.guards import Inspection
from stableprompt.tuning.race import look_sizes, validation_order
from stableprompt.tuning.randomness import derive_uniforms

_Examples = tuple[Example, ...]
_Asked = tuple[str, _Examples]  # a prompt, and what it is scored on
_Scored = tuple[Inspection, _Examples, PromptScore | None]


@dataclass(frozen=True, slots=True)
class Side:
    """What one of the two wrote: prompts for all inputs, or one for each input."""

    prompts: tuple[Inspection, ...]
    inputs: _Examples = ()
    """The input of each prompt; () where they are for all inputs."""

    def asked(self, examples: _Examples) -> list[_Asked | None]:
        """Each prompt with what it is to be scored on; None for a refused one.

        Of prompts for one input those whose input is among the first ``len(examples)``.
        """
        each: list[_Examples] = [(example,) for example in self.inputs[: len(examples)]]
        pairs = zip(self.prompts, each or [examples] * len(self.prompts), strict=False)
        return [(p.prompt, own) if p.fault is None else None for p, own in pairs]

    def scored(
        self, scores: Mapping[_Asked, PromptScore], examples: _Examples
    ) -> Iterator[_Scored]:
        """Each prompt, what it was asked about, and its score; None without an answer."""
        for found, asked in zip(self.prompts, self.asked(examples), strict=False):
            yield found, *((asked[1], scores.get(asked)) if asked is not None else ((), None))

    def values(
        self, scores: Mapping[_Asked, PromptScore], asked: _Examples, examples: _Examples
    ) -> NDArray[np.float64]:
        """What each example was worth with each prompt, (P, N); 0 with a refused one.

        One row, where each example has a prompt of its own.

        Args:
            scores: Of prompts with the examples that they were asked about.
            asked: These examples.
            examples: Those that were answered, N of them.
        """
        wanted = self.asked(asked)
        if not self.inputs:
            nothing = (0.0,) * len(examples)
            return np.array([nothing if one is None else scores[one].values for one in wanted])
        kept = [one for one, e in zip(wanted, asked, strict=True) if e in examples]
        return np.array([[0.0 if one is None else scores[one].values[0] for one in kept]])


class AnchorJudge:
    """Compares policy and anchor on the validation split.

    Args:
        agent: Carries both.
        scorer: Scores on validation; a prompt that was refused scores 0.
        collector: Has them write.
        task: Gives the validation split.
        config: Period, thresholds, prompts a side.
        agree: Takes what this process decides, gives what the first one does.
    """

    def __init__(
        self,
        agent: AgentLLM,
        scorer: Scorer,
        collector: Collector,
        task: Task,
        config: TuneConfig,
        *,
        agree: Callable[[AnchorDecision], AnchorDecision] = lambda mine: mine,
    ) -> None:
        self._agent = agent
        self._agree = agree
        self._scorer = scorer
        self._collector = collector
        self._config = config
        # One order for the whole run: a part that was looked at before is known already.
        order = tuple(validation_order(task, config))
        # A prompt for one input is one call: then no part of the split is too dear.
        most = None if config.per_input.wanted else config.anchor.max_examples
        self._order = order[:most]
        self._task = task

    def judge(self, step: int, pool: CandidatePool) -> tuple[Judgement, list[Candidate]]:
        """Write and score the prompts of both; the target's answers stay known."""
        if self._agent.equal(Role.POLICY, Role.ANCHOR):
            return Judgement(AnchorDecision.KEEP, 0.0, 0.0, 0.0, 0), []
        policy, anchor = self._write(step, pool)
        for size in look_sizes(len(self._order), self._config.anchor.rounds):
            examples = self._order[:size]
            scores = self._score([*policy.asked(examples), *anchor.asked(examples)])
            # An example that the target failed to answer once counts for neither of the two.
            lost = self._unanswered(scores, [*policy.asked(examples), *anchor.asked(examples)])
            answered = tuple(example for example in examples if example not in lost)
            if not answered:
                return Judgement(AnchorDecision.KEEP, 0.0, 0.0, 0.0, 0), []
            ours, theirs = (side.values(scores, examples, answered) for side in (policy, anchor))
            lead = paired_lead(ours, theirs)
            decision = self._agree(decide(lead, self._config.anchor))
            if decision is not AnchorDecision.KEEP:
                break
        judgement = Judgement(
            decision, float(ours.mean()), float(theirs.mean()), lead.error, len(answered)
        )
        candidates = [
            *self._remember(step, Role.POLICY, policy.scored(scores, examples), pool, group=step),
            *self._remember(
                step, Role.ANCHOR, anchor.scored(scores, examples), pool, group=pool.anchor_group
            ),
        ]
        pool.count_faults(candidates)
        if decision is AnchorDecision.UPDATE:
            pool.anchor_group = step
        if len(examples) == len(self._task.validation) and not policy.inputs:
            pool.validate((p for p, _ in scores), self._scorer, self._task.validation)
        return judgement, candidates

    def _remember(
        self, step: int, role: Role, scored: Iterable[_Scored], pool: CandidatePool, *, group: int
    ) -> list[Candidate]:
        """From now on what one side wrote competes like the prompts of the steps."""
        candidates = []
        for found, examples, score in scored:
            if score is not None:
                pool.add([found.prompt], [score], examples, group=group)
            elif found.fault is None:
                continue  # the target failed to answer
            refused = self._config.reward.fault_reward
            candidates.append(
                Candidate.of(
                    found, score, refused, step=step, writer=role, scored_on=Purpose.VALIDATION
                )
            )
        return candidates

    def _write(self, step: int, pool: CandidatePool) -> tuple[Side, Side]:
        config = self._config
        per_input = config.per_input.wanted
        inputs = self._order if per_input else ()
        # A query of its own: the policy has just been trained on the step's.
        draw = draw_examples(self._task, config, step, "anchor-examples")
        shown = draw_for_use(self._task, config) if per_input else draw.demonstrations
        query = self._collector.query(shown, pool, inputs)
        uniforms = derive_uniforms(
            config.seed,
            step,
            "anchor",
            rows=len(inputs) or config.anchor.prompts_per_decision,
            length=config.agent.max_prompt_tokens,
        )
        first = self._order[: look_sizes(len(self._order), config.anchor.rounds)[0]]
        each_own: list[_Examples] = [(example,) for example in first]
        asked = each_own if per_input else [first] * len(uniforms)
        begin = self._collector.ahead(Purpose.VALIDATION, asked, writers=2)
        policy, anchor = (
            self._collector.write(query, uniforms, role=role, greedy=per_input, on_prompt=begin)[1]
            for role in (Role.POLICY, Role.ANCHOR)
        )
        return Side(tuple(policy), inputs), Side(tuple(anchor), inputs)

    def _score(self, asked: Sequence[_Asked | None]) -> dict[_Asked, PromptScore]:
        wanted = list(dict.fromkeys(one for one in asked if one is not None))
        if not wanted:
            return {}
        found = self._scorer.score_each(wanted, Purpose.VALIDATION)
        return {one: score for one, score in zip(wanted, found, strict=True) if score is not None}

    @staticmethod
    def _unanswered(
        scores: Mapping[_Asked, PromptScore], asked: Sequence[_Asked | None]
    ) -> set[Example]:
        lost: set[Example] = set()
        for one in asked:
            if one is not None:
                score = scores.get(one)
                lost |= set(one[1]) - set(score.answered(one[1]) if score is not None else ())
        return lost
