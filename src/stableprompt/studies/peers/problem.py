"""What the optimiser of a peer is given: data, an LLM that writes, and a target to score with.

A peer's package counts, caches and retries in its own way, and most catch every exception. So the
problem itself counts the calls of the target and refuses the first one beyond the budget, remembers
the best prompt, and gives errors back that a package would have swallowed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from stableprompt.errors import ConfigError
from stableprompt.scoring.ledger import Purpose
from stableprompt.tasks.example import Example
from stableprompt.tasks.placeholders import WHOLE_INPUT, placeholders

if TYPE_CHECKING:
    from stableprompt.scoring.scorer import Scorer
    from stableprompt.tasks.task import Task


class BudgetSpent(BaseException):
    """The next call would exceed the budget.

    No ``Exception``: packages catch those, and would go on.
    """


class Failure(BaseException):
    """Carries an error through a package that would have swallowed it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class Scored:
    """What the target made of one prompt on given examples."""

    values: tuple[float, ...]
    """What each example is worth, 0-1."""
    predictions: tuple[str, ...]
    """What the target answered to each, in label words; "" for a tie or no answer."""
    score: float
    """By the task's metric, 0-1."""


class Problem:
    """One task, one budget of target calls, and the best prompt so far.

    Args:
        task: The examples and the seed prompt.
        seed: For everything random in the peer's package.
        write: The frozen agent: its sampled answer to one chat message.
        scorer: Sends prompts to the target.
        budget: Target calls of the whole search; one is one prompt with one example.
    """

    def __init__(
        self,
        task: "Task",
        seed: int,
        *,
        write: Callable[[str], str],
        scorer: "Scorer",
        budget: int,
    ) -> None:
        if budget < 1:
            raise ConfigError(f"budget must be at least 1 target call, found {budget}")
        self.task = task
        self.seed = seed
        self.best = task.seed_prompt
        """With the best score on the whole validation split; the seed prompt until there is one."""
        self.best_score: float | None = None
        self.calls_left = budget
        self._write = write
        self._scorer = scorer
        self._asked: set[tuple[str, str, tuple[str, ...]]] = set()
        self._validation = {_key("", example) for example in task.validation}

    def write(self, message: str) -> str:
        """The frozen agent's sampled answer to one chat message."""
        try:
            return self._write(message)
        except Exception as error:
            raise Failure(error) from error

    def score(self, prompt: str, examples: Sequence[Example]) -> Scored:
        """Score a prompt; pairs of prompt and example that were asked before cost nothing.

        Raises:
            BudgetSpent: the new pairs are more than the calls left; then none is asked.
        """
        new = {_key(prompt, example) for example in examples} - self._asked
        if len(new) > self.calls_left:
            raise BudgetSpent
        inside = {_key("", example) for example in examples}
        purpose = Purpose.VALIDATION if inside <= self._validation else Purpose.TRAINING
        self._asked |= new
        self.calls_left -= len(new)
        try:
            found = self._scorer.score(prompt, examples, purpose)
        except Exception as error:
            raise Failure(error) from error
        if inside == self._validation and (
            self.best_score is None or found.score > self.best_score
        ):
            self.best, self.best_score = prompt, found.score
        answered = zip(examples, found.predictions, strict=True)
        return Scored(found.values, tuple(self._spoken(*pair) for pair in answered), found.score)

    def _spoken(self, example: Example, prediction: str) -> str:
        return self.task.shown_answer(replace(example, label=prediction)) if prediction else ""

    @property
    def demonstrable(self) -> tuple[Example, ...]:
        """The training examples but those that spell a placeholder, where an input would be put."""
        filled = {WHOLE_INPUT, *self.task.fields}
        return tuple(
            example
            for example in self.task.train
            if not placeholders(f"{example.text}{self.task.shown_answer(example)}") & filled
        )


class Standstill:
    """Whether a search can end: no calls are left, or none was made for so many rounds.

    A search that only repeats itself, or has every training example right, would go on for ever.
    """

    def __init__(self, problem: Problem, rounds: int) -> None:
        self._problem = problem
        self._rounds = rounds
        self._left = problem.calls_left
        self._idle = 0

    def __call__(self, *_: object) -> bool:
        """To be asked once a round."""
        self._idle = self._idle + 1 if self._problem.calls_left == self._left else 0
        self._left = self._problem.calls_left
        return self._left == 0 or self._idle >= self._rounds


@contextmanager
def within_budget() -> Iterator[None]:
    """Around a peer's search: ends where the budget does, and raises what the package caught."""
    try:
        yield
    except BudgetSpent:
        pass
    except Failure as failure:
        raise failure.error from failure.error.__cause__


def require(package: str) -> Any:
    """A peer's package, imported now."""
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the package {error.name!r} is not installed: pip install 'stableprompt[peers]'"
        ) from error


def _key(prompt: str, example: Example) -> tuple[str, str, tuple[str, ...]]:
    return prompt, example.text, tuple(example.choices)
