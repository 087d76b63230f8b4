"""How many target calls a run may still make, and what a step or a comparison costs at most."""

from dataclasses import dataclass

from stableprompt.config import TuneConfig
from stableprompt.errors import ConfigError
from stableprompt.scoring.ledger import Ledger, Purpose
from stableprompt.tasks.task import Task
from stableprompt.tuning.anchor import is_due
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

    def affords_step(self, step: int, ledger: Ledger) -> bool:
        """Whether a step can be paid for, and the selection after it."""
        if not self.limited:
            return True
        return self.left(ledger) >= self._step(step) + self._selection()

    def _step(self, step: int) -> int:
        config = self.config
        cost = (config.ppo.prompts_per_step + 1) * config.reward.examples_per_step
        if is_due(step, config):
            most = min(self.num_validation, config.anchor.max_examples or self.num_validation)
            cost += 2 * config.anchor.prompts_per_decision * most
        return cost

    def _selection(self) -> int:
        """What is kept free for it: the seed prompt, the finalists, the demonstrations."""
        selection, n = self.config.selection, self.num_validation
        cost = n + race_cost(selection.num_finalists, n, selection.rounds)
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
    needed = budget._selection() + budget._step(0) if config.steps else 2 * budget.num_validation
    if config.budget < needed:
        raise ConfigError(
            f"a budget of {config.budget} target calls is too small: one step and the selection "
            f"on {budget.num_validation} validation examples take up to {needed}; raise it, or "
            "lower reward.examples_per_step, ppo.prompts_per_step or selection.num_finalists"
        )
