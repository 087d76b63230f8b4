"""How many target calls a run may still make, and what a step or a comparison costs at most."""

from dataclasses import dataclass

from stableprompt.config import TuneConfig
from stableprompt.errors import ConfigError
from stableprompt.scoring.ledger import Ledger, Purpose
from stableprompt.tasks.task import Task
from stableprompt.tuning.race import race_cost


@dataclass(frozen=True, slots=True)
class Budget:
    """The limit of a run; everything but the final reading of test counts.

    Costs are those of pairs that were never asked before: what really happens is never dearer.

    Attributes:
        config: The limit, and how many of everything.
        num_validation: Examples of the validation split.
    """

    config: TuneConfig
    num_validation: int

    @property
    def limited(self) -> bool:
        """Whether there is a limit at all."""
        return self.config.budget is not None

    def left(self, ledger: Ledger) -> int:
        """Calls that may still be made.

        Raises:
            ValueError: there is no limit.
        """
        if self.config.budget is None:
            raise ValueError("a run without a budget has no calls left to count")
        return self.config.budget - spent(ledger)

    def affords_step(self, ledger: Ledger) -> bool:
        """Whether a step can be paid for, and the selection after it."""
        return not self.limited or self.left(ledger) >= self._step() + self._selection()

    def affords_decision(self, ledger: Ledger) -> bool:
        """Whether an anchor decision can be paid for, and the selection after it."""
        return not self.limited or self.left(ledger) >= self._decision() + self._selection()

    @property
    def trial(self) -> int:
        """What it costs to compare policy and anchor as writers of prompts for single inputs."""
        return 2 * self.num_validation if self.config.per_input.wanted else 0

    def _step(self) -> int:
        config = self.config
        if config.per_input.wanted:  # each prompt and the seed prompt on one input
            return config.ppo.prompts_per_step + config.examples_per_step
        return (config.ppo.prompts_per_step + 1) * config.examples_per_step

    def _decision(self) -> int:
        anchor, n = self.config.anchor, self.num_validation
        if self.config.per_input.wanted:
            return 2 * n
        return 2 * anchor.prompts_per_decision * min(n, anchor.max_examples or n)

    def _selection(self) -> int:
        """What is kept free for it: the seed prompt, the finalists, the demonstrations."""
        selection, n = self.config.selection, self.num_validation
        cost = n + race_cost(selection.num_finalists, n, selection.rounds)
        cost += self.trial
        if selection.num_demonstrations:
            cost += race_cost(selection.demonstration_sets, n, selection.rounds)
        return cost


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
    needed = budget._selection() + budget._step() if config.steps else 2 * budget.num_validation
    if config.budget < needed:
        raise ConfigError(
            f"a budget of {config.budget} target calls is too small: one step and the selection "
            f"on {budget.num_validation} validation examples take up to {needed}; raise it, or "
            "lower reward.examples_per_step, ppo.prompts_per_step or selection.num_finalists"
        )
