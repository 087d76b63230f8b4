"""A run on paper: what it asks at most, and what it is expected to ask, before anything is asked.

What is drawn follows from the seed, so the examples of every step are known. What is written is
not: every step is taken to write what one step wrote, the same number of different prompts that are
not refused, of the same length.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice
from typing import Final, Self

from stableprompt.config import TuneConfig
from stableprompt.models.targets.interface import Usage
from stableprompt.scoring.ledger import Ledger, Purpose
from stableprompt.scoring.limits import Limits
from stableprompt.tasks.example import Example
from stableprompt.tasks.task import Task
from stableprompt.tuning.anchor import is_due
from stableprompt.tuning.budget import Budget, test_calls
from stableprompt.tuning.collect import draw_examples
from stableprompt.tuning.demonstrations import draw_demonstrations
from stableprompt.tuning.race import PAPER_FINALISTS, looks, race_cost, validation_order

_COUNTED_STEPS: Final = 8  # whose tokens are counted; those of the others are like them
_COUNTED_EXAMPLES: Final = 256  # of one plan

Pair = tuple[str, Example]
"""A prompt, and an example that it is sent with: one call."""


class Phase(StrEnum):
    """What a call is made for; finer than a ledger's purposes."""

    TRAINING = "training"
    DECISIONS = "anchor decisions"
    SELECTION = "selection"
    TEST = "test"
    CURVE = "learning curve"


_BEFORE_TEST: Final = (Phase.TRAINING, Phase.DECISIONS, Phase.SELECTION)
_PURPOSES: Final = {
    Phase.TRAINING: Purpose.TRAINING,
    Phase.DECISIONS: Purpose.VALIDATION,
    Phase.SELECTION: Purpose.VALIDATION,
    Phase.TEST: Purpose.TEST,
    Phase.CURVE: Purpose.CURVE,
}


@dataclass(frozen=True, slots=True)
class Most:
    """Target calls that no run with these settings exceeds."""

    phases: Mapping[Phase, int]
    total: int
    """May be less than their sum: a budget is spent in one phase or in another."""


def most_calls(task: Task, config: TuneConfig) -> Most:
    """How many target calls a run makes at most, within its budget and ``max_target_calls``."""
    n, selection = len(task.validation), config.selection
    budget = Budget(config, n)
    steps = range(config.steps)
    due = sum(is_due(step, config) for step in steps)
    judged = n if config.per_input.wanted else config.anchor.prompts_per_decision
    written = len(steps) * config.ppo.prompts_per_step + due * 2 * judged
    with_seed = {e for step in steps for e in draw_examples(task, config, step).reward_examples}
    # What steps leave over of a budget pays for more finalists, where nothing comes after them.
    all_compete = config.budget is not None and not selection.num_demonstrations
    racers = written if all_compete else min(written, selection.num_finalists)
    choosing = n + race_cost(racers, n, selection.rounds) + budget.trial
    if selection.num_demonstrations:
        choosing += race_cost(selection.demonstration_sets, n, selection.rounds)
    most = {
        # The seed prompt is asked once about each example, however often it is drawn.
        Phase.TRAINING: len(steps) * (budget.step - config.examples_per_step) + len(with_seed),
        Phase.DECISIONS: due * budget.decision,
        Phase.SELECTION: choosing,
        Phase.TEST: num_readings(config, written) * len(task.test),
        Phase.CURVE: len(steps) * n if selection.learning_curve else 0,
    }
    return _within_limits(most, task, config)


def _within_limits(most: dict[Phase, int], task: Task, config: TuneConfig) -> Most:
    """With what budget and ``max_target_calls`` allow; of the other limits calls have no bound."""
    ceiling = config.limits.max_target_calls
    rooms = [] if config.budget is None else [config.budget]
    rooms += [] if ceiling is None else [max(0, ceiling - test_calls(task, config))]
    room = min(rooms, default=sum(most.values()))
    if rooms:  # no step begins that would leave too little for the selection
        before_choosing = max(0, room - Budget(config, len(task.validation)).selection)
        for phase in (Phase.TRAINING, Phase.DECISIONS):
            most[phase] = min(most[phase], before_choosing)
    total = min(room, sum(most[phase] for phase in _BEFORE_TEST))
    most[Phase.SELECTION] = min(most[Phase.SELECTION], room)
    total += most[Phase.TEST] + most[Phase.CURVE]
    if ceiling is None:
        return Most(most, total)
    return Most({phase: min(calls, ceiling) for phase, calls in most.items()}, min(total, ceiling))


def num_readings(config: TuneConfig, competing: int) -> int:
    """How often each test example is read: with the seed prompt, with the chosen prompt, ...

    Args:
        config: With all guards on, the chosen prompt is readable; else a readable one is read, too.
        competing: Prompts that could be chosen, those with demonstrations aside.
    """
    guards, selection = config.guards, config.selection
    guarded = guards.max_surprise is not None and guards.require_instruction
    others = 1 + (not guarded) + (PAPER_FINALISTS if selection.paper_protocol else 0)
    readings = 1 + min(others, competing + bool(selection.num_demonstrations))
    # As one prompt for all and as a prompt for each input, as if nothing were known.
    return readings + 2 * config.per_input.wanted


@dataclass(frozen=True, slots=True)
class Pattern:
    """What every step is taken to be like, and what an answer costs."""

    prompts: tuple[str, ...]
    """Different ones of a step that were not refused, the seed prompt aside; typical ones first."""
    num_written: int
    """Prompts of the step, refused and equal ones included."""
    num_different: int
    """Those that are asked about; for one input each, equal ones for different inputs as well."""
    step_seconds: float
    """Of the agent in a step."""
    decision_seconds: float
    count: Callable[[Sequence[Pair]], Usage]
    """Tokens of some pairs that are sent together, none of them known."""
    answer_seconds: Callable[[Usage, int], float]
    """Of the target for so many tokens and calls."""

    @property
    def share(self) -> float:
        """Of what is written, what is asked about."""
        return self.num_different / self.num_written if self.num_written else 0.0


class PaperRun:
    """The loop on paper, with the budget and the limits that the real one has.

    Args:
        task: What is tuned for.
        config: Every setting.
        pattern: What a step is like.
        price: Dollars for a million tokens read and written; None where nobody knows.

    Attributes:
        calls: Expected, by phase.
        usage: Expected, by phase.
        ledger: The same as the real run would count it.
        seconds: Expected, from the first step on.
        target_seconds: How many of them the target takes.
        num_steps: That budget and limits pay for.
        num_decisions: Of the anchor.
        cut_short: Whether a limit leaves too little for a step, selection and test.
    """

    def __init__(
        self,
        task: Task,
        config: TuneConfig,
        pattern: Pattern,
        price: tuple[float, float] | None,
    ) -> None:
        self._task, self._config, self._pattern = task, config, pattern
        self.calls = dict.fromkeys(Phase, 0)
        self.usage = dict.fromkeys(Phase, Usage())
        self.ledger = Ledger()
        self.seconds = self.target_seconds = 0.0
        self.num_steps = self.num_decisions = 0
        self.cut_short = False
        self._limits = Limits(
            config.limits,
            price,
            kept=test_calls(task, config),
            selection=Budget(config, len(task.validation)).selection,
            clock=lambda: self.seconds,
        )
        self._budget = Budget(config, len(task.validation), self._limits)
        self._order = validation_order(task, config)
        self._known: set[Example] = set()  # asked about with the seed prompt
        self._competing = 0.0

    def go(self) -> Self:
        """From the first step to the end."""
        for step in range(self._config.steps):
            self._limits.steps = step
            if not self._budget.affords_step(self.ledger):
                break
            self._step(step)
            if is_due(step, self._config) and self._budget.affords_decision(self.ledger):
                self._decide()
        self.cut_short |= self._limits.any and self.num_steps == 0 < self._config.steps
        sets = self._select()
        self._read_test(sets)
        if self._config.selection.learning_curve:
            self._draw_curve()
        return self

    def _step(self, step: int) -> None:
        prompts, seed_prompt = self._pattern.prompts, self._task.seed_prompt
        examples = draw_examples(self._task, self._config, step).reward_examples
        new = [example for example in examples if example not in self._known]
        self._known.update(new)
        one_each = self._config.per_input.wanted
        pairs = self._pairs(prompts, examples, one_each=one_each)
        calls = len(new) + self._pattern.num_different * (1 if one_each else len(examples))
        self._ask(Phase.TRAINING, [*self._pairs([seed_prompt], new), *pairs], calls)
        self.seconds += self._pattern.step_seconds
        self.num_steps += 1
        self._competing += len(prompts)

    def _decide(self) -> None:
        """Both sides write what the step wrote, and nothing is certain before the last look."""
        anchor, one_each = self._config.anchor, self._config.per_input.wanted
        most = None if one_each else anchor.max_examples
        order = self._order[:most]
        sides = 2 if one_each else 2 * anchor.prompts_per_decision
        for _, new in looks(sides, len(order), anchor.rounds):
            pairs = self._pairs(
                self._pattern.prompts[:sides], order[new.start : new.stop], one_each=one_each
            )
            self._ask(Phase.DECISIONS, pairs, round(self._pattern.share * sides * len(new)))
        self.seconds += self._pattern.decision_seconds
        self.num_decisions += 1
        if len(order) < len(self._order):  # else they are validated: they need no race
            self._competing += self._pattern.share * sides

    def _select(self) -> list[str]:
        """The prompts with demonstrations that are tried."""
        task, config, selection = self._task, self._config, self._config.selection
        seen = self._pairs([task.seed_prompt], self._order)
        self._ask(Phase.SELECTION, seen, len(self._order))
        competing = round(self._competing)
        wanted = min(selection.num_finalists, competing)
        self._race(self._pattern.prompts, min(self._room(wanted), competing))
        sets: list[str] = []
        if selection.num_demonstrations:
            room = self._room(selection.demonstration_sets, last=True)
            drawn = islice(draw_demonstrations(task.seed_prompt, task, config), room)
            sets = list(dict.fromkeys(drawn))
            self._race(sets, len(sets))
        trial = self._pairs(self._pattern.prompts, self._order, one_each=True)
        self._ask(Phase.SELECTION, trial, round(self._pattern.share * self._budget.trial))
        return sets

    def _room(self, wanted: int, *, last: bool = False) -> int:
        """How many prompts to compare."""
        room = self._budget.racers(self.ledger, wanted, last=last)
        self.cut_short |= self._config.budget is None and room < wanted
        return room

    def _race(self, prompts: Sequence[str], num_racers: int) -> None:
        rounds = self._config.selection.rounds
        for left, new in looks(num_racers, len(self._order), rounds):
            pairs = self._pairs(prompts[:left], self._order[new.start : new.stop])
            self._ask(Phase.SELECTION, pairs, left * len(new))

    def _read_test(self, sets: Sequence[str]) -> None:
        test, prompts = self._task.test, self._pattern.prompts
        readings = num_readings(self._config, round(self._competing))
        shown = [self._task.seed_prompt, *(sets or prompts)][:readings]
        self._ask(Phase.TEST, self._pairs(shown, test), readings * len(test))

    def _draw_curve(self) -> None:
        """A new prompt leads after the n-th step with probability 1 / n; one of them is known."""
        leaders = sum(1 / step for step in range(1, self.num_steps + 1)) - 1
        pairs = self._pairs(self._pattern.prompts[:1], self._order)
        self._ask(Phase.CURVE, pairs, max(0, round(leaders * len(self._order))))

    def _pairs(
        self, prompts: Sequence[str], examples: Sequence[Example], *, one_each: bool = False
    ) -> list[Pair]:
        """Pairs to count, rather some than too many: all, or another prompt for each example."""
        examples = examples[:_COUNTED_EXAMPLES]
        if one_each:
            return list(zip(cycle(prompts), examples, strict=False))
        return [(prompt, example) for prompt in prompts for example in examples]

    def _ask(self, phase: Phase, pairs: Sequence[Pair], calls: int) -> None:
        """Count calls, as far as the limits go, with the tokens of pairs that are like them."""
        if not pairs or not calls:
            return
        purpose = _PURPOSES[phase]
        room = self._limits.room(self.ledger, purpose)
        made = calls if room is None else min(calls, room)
        self.cut_short |= made < calls
        usage = self._usage(phase, pairs, made)
        self.ledger.add_target(purpose, usage, calls=made)
        self.calls[phase] += made
        self.usage[phase] += usage
        waited = self._pattern.answer_seconds(usage, made)
        self.seconds += waited
        self.target_seconds += waited
        self._limits.waited = self.target_seconds

    def _usage(self, phase: Phase, pairs: Sequence[Pair], calls: int) -> Usage:
        if phase is Phase.TRAINING and self.num_steps >= _COUNTED_STEPS:
            found, asked = self.usage[phase], self.calls[phase]
        else:
            found, asked = self._pattern.count(pairs), len(pairs)
        return Usage(
            math.ceil(found.read * calls / asked), math.ceil(found.written * calls / asked)
        )
