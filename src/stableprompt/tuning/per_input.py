"""After the loop: is it worth to write a prompt for each input?

The trained writer is judged as it will be used: greedily, with the demonstrations that it keeps,
the one prompt for all standing in where what it wrote is refused. Policy and anchor are compared
on validation, the better one with the best prompt for all, there and then on test; and with the
agent answering alone, whose knowledge a writer could smuggle into its prompts.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import torch

from stableprompt.config import TuneConfig
from stableprompt.errors import ModelError, TargetError
from stableprompt.models.adapters import Role
from stableprompt.models.targets.interface import Usage
from stableprompt.scoring.ledger import Purpose
from stableprompt.scoring.prompt_score import Outcomes, PromptScore, in_common
from stableprompt.scoring.scorer import Scorer
from stableprompt.tasks.answer_leaks import gives_away
from stableprompt.tasks.example import Example, TaskKind
from stableprompt.tasks.statistics import Estimate, PairedComparison, paired
from stableprompt.tasks.task import Task
from stableprompt.tuning.anchor import paired_lead
from stableprompt.tuning.candidates import CandidatePool
from stableprompt.tuning.collect import Collector, draw_for_use
from stableprompt.tuning.guards import Inspection
from stableprompt.tuning.selection import estimate_of

_AT_ONCE: Final = 32  # prompts that are written in one batch
_PARTS: Final = 3  # of equal size: short, middle and long inputs, and so on


@dataclass(frozen=True, slots=True)
class Slice:
    """Some of the test inputs: does it help there?"""

    name: str
    n: int
    fixed: float
    """Mean value with the one prompt for all, 0-1."""
    per_input: float
    comparison: PairedComparison


@dataclass(frozen=True, slots=True)
class Cost:
    """Tokens of one input, on average over test; what inputs share is counted once for all."""

    agent_read: float
    agent_written: float
    target: float
    """Read and written."""


@dataclass(frozen=True, slots=True)
class PerInputResult:
    """What writing a prompt for each input brings."""

    used: bool
    """Whether the writer is shipped; else the one prompt for all."""
    reason: str
    """Why, in one line."""
    writer: Role
    """Whose weights: those of the policy or of the anchor, by validation."""
    validation: Estimate
    fixed_validation: Estimate
    lead: float
    """On validation, over the one prompt for all."""
    lead_error: float
    """Its standard error."""
    test: Estimate
    fixed_test: Estimate
    agent_alone: Estimate | None
    """The agent, adapters off, in the place of the target, with the one prompt for all. None where
    it cannot stand there."""
    over_fixed: PairedComparison
    """On test: prompts for each input minus the one for all."""
    over_agent_alone: PairedComparison | None
    refused: dict[str, int]
    """Prompts on test that were refused, by reason; the one prompt for all stood in."""
    different: int
    """Different prompts that were written on test."""
    naming_the_answer: int
    """Prompts on test that name a reference which their input does not hold, and were used: in use
    nobody knows the references, so they cannot be refused. 0 where answers are not free."""
    cost: Cost
    fixed_cost: Cost
    slices: tuple[Slice, ...]
    """When it helps: by length of the input, by label, by how sure the target was without it."""

    def to_dict(self) -> dict[str, Any]:
        """For ``result.json``."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Trial:
    answered: PromptScore
    """As if all of these were one prompt."""
    prompts: tuple[Inspection, ...]
    cost: Cost


class WriterTrial:
    """Judges the trained writer against the one prompt for all.

    Args:
        collector: Has policy and anchor write, under the rules of use.
        scorer: The target.
        alone: The agent's own checkpoint in the place of the target.
        task: Gives validation and test.
        config: Limits, and what "auto" asks for.
        keep: Saves the writer, which is the policy by then, with the one prompt for all.
    """

    def __init__(
        self,
        collector: Collector,
        scorer: Scorer,
        alone: Scorer,
        task: Task,
        config: TuneConfig,
        *,
        keep: Callable[[str, PerInputResult], None],
    ) -> None:
        self._collector, self._scorer, self._alone = collector, scorer, alone
        self._task, self._config = task, config
        self.keep = keep
        self.seconds: dict[str, float] = {}
        """For one input of test, on average: by the agent, by the target, and without a writer."""

    def judge(self, fixed: str) -> tuple[PerInputResult, list[dict[str, Any]]]:
        """Choose on validation, then read test; and every prompt that was written on test.

        Args:
            fixed: The one prompt for all.
        """
        task, config = self._task, self._config
        seen = self._scorer.score(fixed, task.validation, Purpose.VALIDATION)
        trials = {
            role: self._write(role, task.validation, fixed, Purpose.VALIDATION)
            for role in (Role.ANCHOR, Role.POLICY)
        }
        # Where the two are equal the anchor wins: it has been certain once.
        writer = max(trials, key=lambda role: sum(trials[role].answered.values))
        chosen = trials[writer].answered
        ours, theirs = in_common([chosen, seen], task.validation)[1]
        lead = paired_lead(np.array([ours.values]), np.array([theirs.values]))
        pays = lead.mean > config.per_input.certainty * lead.error
        used = pays or config.per_input.mode == "always"
        before = self._scorer.ledger.target_tokens[Purpose.TEST]
        with self._scorer.nothing_known():  # what is known already would seem to cost nothing
            started = time.perf_counter()
            plain = self._scorer.score(fixed, task.test, Purpose.TEST)
            self.seconds["fixed_target"] = (time.perf_counter() - started) / len(task.test)
            tokens = self._scorer.ledger.target_tokens[Purpose.TEST] - before
        with self._scorer.nothing_known():
            trial = self._write(writer, task.test, fixed, Purpose.TEST)
        alone = self._answers_alone(fixed)
        result = PerInputResult(
            used=used,
            reason=_reason(lead.mean, lead.error, pays=pays, used=used),
            writer=writer,
            validation=self._estimate(task.validation, chosen),
            fixed_validation=self._estimate(task.validation, seen),
            lead=lead.mean,
            lead_error=lead.error,
            test=self._estimate(task.test, trial.answered),
            fixed_test=self._estimate(task.test, plain),
            agent_alone=self._estimate(task.test, alone) if alone else None,
            over_fixed=self._paired(task.test, plain, trial.answered),
            over_agent_alone=self._paired(task.test, alone, trial.answered) if alone else None,
            refused=dict(sorted(Counter(p.fault for p in trial.prompts if p.fault).items())),
            different=len({p.prompt for p in trial.prompts}),
            naming_the_answer=sum(
                p.fault is None and gives_away(p.prompt, e, task.answer_words(e))
                for p, e in zip(trial.prompts, task.test, strict=True)
            ),
            cost=trial.cost,
            fixed_cost=Cost(0.0, 0.0, tokens / len(task.test)),
            slices=tuple(self._slices(plain, trial.answered)),
        )
        return result, [
            {"input": e.text, "prompt": p.prompt, "fault": p.fault, "value": value}
            for (e, p), value in zip(
                trial.answered.answered(list(zip(task.test, trial.prompts, strict=True))),
                trial.answered.values,
                strict=True,
            )
        ]

    def _answers_alone(self, fixed: str) -> PromptScore | None:
        """The control; None where the agent cannot stand there, or a limit leaves no room."""
        limits, ledger = self._scorer.limits, self._scorer.ledger
        if self._alone.judge is not None and limits.room(ledger, Purpose.TEST) == 0:
            return None
        try:
            return self._alone.score(fixed, self._task.test, Purpose.TEST)
        except TargetError:  # a judge's
            raise
        except ModelError:  # its tokenizer cannot tell the label words apart: no control, no harm
            return None
        finally:  # its own calls cost nothing; what a judge makes of them may
            own = self._alone.ledger
            usage = Usage(own.judge_tokens - own.judge_written, own.judge_written)
            ledger.add_judge(usage, calls=own.judge_calls)

    def _write(
        self,
        role: Role,
        examples: Sequence[Example],
        fixed: str,
        purpose: Purpose,
    ) -> _Trial:
        """One prompt for each example, and what came of it."""
        ledger = self._scorer.ledger
        read, written = ledger.agent_tokens_read, ledger.agent_tokens_written
        before = ledger.target_tokens[purpose]
        prompts: list[Inspection] = []
        started = time.perf_counter()
        length = self._config.agent.max_prompt_tokens
        shown = draw_for_use(self._task, self._config)
        nothing_seen = CandidatePool(self._task.seed_prompt)  # in use the instruction is this one
        # As in use, where nobody knows the answers.
        inputs = [replace(example, label="", others=()) for example in examples]
        for start in range(0, len(inputs), _AT_ONCE):
            part = inputs[start : start + _AT_ONCE]
            query = self._collector.query(shown, nothing_seen, part)
            rows = torch.zeros(len(part), length, dtype=torch.float64)
            prompts += self._collector.write(query, rows, role=role, greedy=True)[1]
        written_by = time.perf_counter()
        asked = [
            (p.prompt if p.fault is None else fixed, (e,))
            for p, e in zip(prompts, examples, strict=True)
        ]
        scores = self._scorer.score_each(asked, purpose)
        n = len(examples)
        self.seconds["agent"] = (written_by - started) / n
        self.seconds["target"] = (time.perf_counter() - written_by) / n
        return _Trial(
            _as_one(scores),
            tuple(prompts),
            Cost(
                (ledger.agent_tokens_read - read) / n,
                (ledger.agent_tokens_written - written) / n,
                (ledger.target_tokens[purpose] - before) / n,
            ),
        )

    def _estimate(self, examples: Sequence[Example], found: PromptScore) -> Estimate:
        return estimate_of(self._task, examples, found, seed=self._config.seed)

    def _paired(
        self, examples: Sequence[Example], first: PromptScore, second: PromptScore
    ) -> PairedComparison:
        answered, (one, other) = in_common([first, second], examples)
        return paired(self._task.metric, answered, one, other, seed=self._config.seed)

    def _slices(self, fixed: PromptScore, ours: PromptScore) -> list[Slice]:
        test, (before, now) = in_common([fixed, ours], self._task.test)
        found = thirds("input", [len(e.text) for e in test], ("short", "middle", "long"))
        if self._task.kind is TaskKind.CLASSIFICATION:
            found |= {
                f"label: {label}": [n for n, e in enumerate(test) if e.label == label]
                for label in self._task.labels
            }
        told = fixed.softmax_difference is not None  # by a target that gives probabilities
        if told and self._config.reward.softmax_weight:
            weight = self._config.reward.accuracy_weight
            earned = zip(fixed.answered(self._task.test), fixed.rewards, fixed.values, strict=True)
            sure = {e: abs(reward - weight * value) for e, reward, value in earned}
            found |= thirds("target", [sure[e] for e in test], ("unsure", "fairly sure", "sure"))
        return [
            self._slice(name, [test[row] for row in rows], before.only(rows), now.only(rows))
            for name, rows in found.items()
            if rows
        ]

    def _slice(
        self, name: str, examples: Sequence[Example], before: Outcomes, now: Outcomes
    ) -> Slice:
        n = len(examples)
        compared = paired(self._task.metric, examples, before, now, seed=self._config.seed)
        return Slice(name, n, sum(before.values) / n, sum(now.values) / n, compared)


def _as_one(scores: Sequence[PromptScore | None]) -> PromptScore:
    """Prompts that were each asked about one example of their own, as if they were one prompt."""
    known = [score for score in scores if score is not None]
    n = len(known) or 1
    return PromptScore(
        sum(score.score for score in known) / n,
        None,
        sum(score.reward for score in known) / n,
        tuple(score.values[0] for score in known),
        tuple(score.rewards[0] for score in known),
        tuple(score.predictions[0] for score in known),
        tuple(number for number, score in enumerate(scores) if score is None),
    )


def thirds(name: str, keys: Sequence[float], labels: Sequence[str]) -> dict[str, list[int]]:
    """Row numbers in parts of nearly equal size by a key, the smallest first.

    >>> thirds("input", [5, 1, 3], ("short", "middle", "long"))
    {'input: short': [1], 'input: middle': [2], 'input: long': [0]}
    """
    order = sorted(range(len(keys)), key=lambda row: (keys[row], row))
    cuts = [len(order) * part // _PARTS for part in range(_PARTS + 1)]
    return {
        f"{name}: {label}": order[low:high]
        for label, low, high in zip(labels, cuts[:-1], cuts[1:], strict=True)
    }


def _reason(lead: float, error: float, *, pays: bool, used: bool) -> str:
    said = (
        f"on validation prompts for each input lead by {lead:+.3f} with standard error {error:.3f}"
    )
    if pays:
        return f"{said}: they pay"
    return f"{said}: not enough to pay for them" + ("; kept as asked for" if used else "")
