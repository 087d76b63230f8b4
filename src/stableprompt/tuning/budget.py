"""How many target calls a run may still make, and what a step or a comparison costs at most."""

from dataclasses import dataclass
from typing import Final

from stableprompt.config import TuneConfig
from stableprompt.errors import ConfigError
from stableprompt.scoring.ledger import Ledger, Purpose
from stableprompt.scoring.limits import Limits
from stableprompt.tasks.task import Task
from stableprompt.tuning.race import PAPER_FINALISTS, most_racers, race_cost

KEPT: Final = "what is left of the limits is kept for choosing the prompt and for reading test"
_UNKNOWN: Final = 10**9


@dataclass(frozen=True, slots=True)
class Budget:
    """The limit of a run; everything but the final reading of test counts.

    Costs are those of pairs that were never asked before: what really happens is never dearer.

    Attributes:
        config: The limit, and how many of everything.
        num_validation: Examples of the validation split.
        limits: Those of the whole run, in tokens, dollars, ..., if there are some.
    """

    config: TuneConfig
    num_validation: int
    limits: Limits | None = None

    @property
    def limited(self) -> bool:
        """Whether there is a limit at all."""
        return self.config.budget is not None or (self.limits is not None and self.limits.any)

    def left(self, ledger: Ledger) -> int:
        """Calls that may still be made before test is read.

        Raises:
            ValueError: there is no limit.
        """
        if not self.limited:
            raise ValueError("a run without a budget has no calls left to count")
        budget = self.config.budget
        rooms = [budget - spent(ledger)] if budget is not None else []
        room = self.limits.room(ledger, Purpose.VALIDATION) if self.limits is not None else None
        # Before the first call nothing is known of tokens and dollars: a step is tried.
        return min([*rooms, *([room] if room is not None else [])], default=_UNKNOWN)

    def affords_step(self, ledger: Ledger) -> bool:
        """Whether a step can be paid for, and the selection after it."""
        if self.limits is not None and not self.limits.time_for_step():
            return False
        return not self.limited or self.left(ledger) >= self.step + self.selection

    def affords_decision(self, ledger: Ledger) -> bool:
        """Whether an anchor decision can be paid for, and the selection after it."""
        return not self.limited or self.left(ledger) >= self.decision + self.selection

    def racers(self, ledger: Ledger, wanted: int, *, last: bool = False) -> int:
        """How many prompts to compare on validation.

        Args:
            ledger: What was spent.
            wanted: As many as the settings say.
            last: Whether nothing is compared afterwards; then a budget pays for all that it can.
        """
        if not self.limited:
            return wanted
        selection = self.config.selection
        last = last or not selection.num_demonstrations
        left = self.left(ledger) - self.trial
        most = most_racers(left, self.num_validation, selection.rounds)
        return most if last and self.config.budget is not None else min(wanted, most)

    @property
    def trial(self) -> int:
        """What it costs to compare policy and anchor as writers of prompts for single inputs."""
        return 2 * self.num_validation if self.config.per_input.wanted else 0

    @property
    def step(self) -> int:
        """What a step asks at most: its prompts and the seed prompt."""
        config = self.config
        if config.per_input.wanted:  # each prompt and the seed prompt on one input
            return config.ppo.prompts_per_step + config.examples_per_step
        return (config.ppo.prompts_per_step + 1) * config.examples_per_step

    @property
    def decision(self) -> int:
        """What it costs at most to compare policy and anchor."""
        anchor, n = self.config.anchor, self.num_validation
        if self.config.per_input.wanted:
            return 2 * n
        return 2 * anchor.prompts_per_decision * min(n, anchor.max_examples or n)

    @property
    def selection(self) -> int:
        """What is kept free for it: the seed prompt, the finalists, the demonstrations."""
        selection, n = self.config.selection, self.num_validation
        cost = n + race_cost(selection.num_finalists, n, selection.rounds)
        cost += self.trial
        if selection.num_demonstrations:
            cost += race_cost(selection.demonstration_sets, n, selection.rounds)
        return cost


def test_calls(task: Task, config: TuneConfig) -> int:
    """Calls that the final reading of test makes at most."""
    prompts = 3 + (PAPER_FINALISTS if config.selection.paper_protocol else 0)
    if config.per_input.wanted:
        prompts += 2
    return prompts * len(task.test)


def spent(ledger: Ledger) -> int:
    """Target calls that count towards a budget: those that a choice depends on."""
    return ledger.target_calls[Purpose.TRAINING] + ledger.target_calls[Purpose.VALIDATION]


def require_enough_budget(task: Task, config: TuneConfig) -> None:
    """Check that a run could make one step and choose a prompt.

    Raises:
        ConfigError: it could not; the message says what would be enough.
    """
    budget = Budget(config, len(task.validation))
    if config.budget is None:
        return
    # Without a step: the seed prompt, and one to compare it with.
    least = 2 * budget.num_validation + budget.trial
    needed = budget.selection + budget.step if config.steps else least
    if config.budget < needed:
        raise ConfigError(
            f"a budget of {config.budget} target calls is too small: one step and the selection "
            f"on {budget.num_validation} validation examples take up to {needed}; raise it, or "
            "lower reward.examples_per_step, ppo.prompts_per_step or selection.num_finalists"
        )
