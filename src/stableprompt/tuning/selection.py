"""After the loop: choose the prompt on validation, then read the test split once."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from stableprompt.config import TuneConfig
from stableprompt.errors import TargetError
from stableprompt.scoring.ledger import Purpose
from stableprompt.scoring.limits import LimitReached
from stableprompt.scoring.prompt_score import PromptScore, in_common
from stableprompt.scoring.scorer import Scorer
from stableprompt.tasks.example import Example
from stableprompt.tasks.statistics import Estimate, PairedComparison, estimate, paired
from stableprompt.tasks.task import Task
from stableprompt.tuning.budget import Budget
from stableprompt.tuning.candidates import CandidatePool
from stableprompt.tuning.demonstrations import draw_demonstrations
from stableprompt.tuning.race import race, validation_order


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen prompt with its validation score, and the seed prompt's."""

    prompt: str
    instruction: str
    """The prompt without the demonstrations, if it has some."""
    readable: str
    """The best prompt that a person would ship; the chosen one, unless a guard is switched off."""
    validation: Estimate
    seed_validation: Estimate
    num_compared: int
    """Prompts scored on the whole validation split, the seed prompt among them."""


@dataclass(frozen=True, slots=True)
class TestFigures:
    """What the sealed test split said."""

    test: Estimate
    seed_test: Estimate
    readable_test: Estimate
    paired: PairedComparison
    max_of_five: Estimate | None
    """The paper's protocol, optimistic; None where it was not asked for, or nothing was written."""
    scores: Mapping[str, PromptScore]
    """Every prompt that was scored on test, with its answers."""


def select(
    pool: CandidatePool,
    task: Task,
    scorer: Scorer,
    config: TuneConfig,
    is_readable: Callable[[str], bool],
) -> Selection:
    """Score the finalists again on the validation split and take the one with the best rating.

    A rating weighs all that was seen of a prompt, in training and on validation (``ratings``):
    the highest of many validation scores is luck in part. The seed prompt competes, and nothing
    is chosen that scores below it on validation. Then demonstrations are tried with the best one,
    where they are asked for; they must be better. Both are races: most are seen on a part of the
    split only. With a budget, as many are compared as it pays for.

    Args:
        pool: What was seen.
        task: Gives the validation split and the seed prompt.
        scorer: Scores on it.
        config: How many of the leaderboard are scored again, and which demonstrations are tried.
        is_readable: Whether a person would ship a prompt.
    """
    validated = pool.validated
    judges = _Finals(pool, task, scorer, config)
    judges.validate_seed()
    judges.compare(pool.leaderboard(judges.room(config.selection.num_finalists)))
    enough = validated[task.seed_prompt].score

    def rank(prompt: str) -> tuple[float, bool, float, str]:
        tie = -(validated[prompt].softmax_difference or 0.0)
        return -judges.worth(prompt, validated[prompt]), prompt != task.seed_prompt, tie, prompt

    worthy = [prompt for prompt in validated if validated[prompt].score >= enough]
    best = instruction = min(worthy, key=rank)
    readable = min(filter(is_readable, worthy), key=rank, default=best)
    drawn = judges.compare(
        islice(
            draw_demonstrations(instruction, task, config),
            judges.room(config.selection.demonstration_sets, last=True),
        ),
        group=pool.last_group + 1,
    )
    for prompt in drawn:
        better = judges.worth(prompt, validated[prompt]) > judges.worth(best, validated[best])
        if validated[prompt].score >= enough and better:
            best = prompt
    if best != instruction and readable == instruction:
        readable = best  # an instruction with examples is as readable as the instruction
    return Selection(
        best,
        instruction,
        readable,
        estimate_of(task, task.validation, validated[best], seed=config.seed),
        estimate_of(task, task.validation, validated[task.seed_prompt], seed=config.seed),
        len(validated),
    )


class _Finals:
    """Compares prompts on the validation split, with as many as the budget pays for."""

    def __init__(self, pool: CandidatePool, task: Task, scorer: Scorer, config: TuneConfig) -> None:
        self._pool, self._task, self._scorer, self._config = pool, task, scorer, config
        self._validation, self._order = task.validation, validation_order(task, config)
        self._budget = Budget(config, len(task.validation), scorer.limits)
        self._together = task.metric.together

    def room(self, wanted: int, *, last: bool = False) -> int:
        """How many prompts to compare, with as many as is paid for."""
        return self._budget.racers(self._scorer.ledger, wanted, last=last)

    def worth(self, prompt: str, score: PromptScore) -> float:
        """What a prompt is chosen by: its rating; or its score, by a metric that is no mean over
        examples (macro F1), of which ratings know nothing."""
        return self._pool.rating(prompt) if self._together is None else score.score

    def validate_seed(self) -> None:
        """Score the prompt that all must be at least as good as.

        Raises:
            TargetError: the target refuses it on most of validation.
        """
        seed = self._task.seed_prompt
        self._pool.validate([seed], self._scorer, self._validation)
        if seed not in self._pool.validated:
            raise TargetError(
                f"the target refuses the seed prompt on validation ({self._scorer.trouble}); what "
                "was answered is kept, so see to the target and resume the run"
            )

    def compare(self, prompts: Iterable[str], *, group: int | None = None) -> list[str]:
        """Race them; those that reached the last look are validated, and returned."""
        pool, scorer = self._pool, self._scorer

        def look(prompts: Sequence[str], examples: Sequence[Example]) -> dict[str, float]:
            scores = scorer.score_each([(p, examples) for p in prompts], Purpose.VALIDATION)
            known = {p: s for p, s in zip(prompts, scores, strict=True) if s is not None}
            pool.add(known, known.values(), examples, group=group)
            # What the target refuses loses.
            return {p: self.worth(p, known[p]) if p in known else -math.inf for p in prompts}

        new = [p for p in dict.fromkeys(prompts) if p not in pool.validated]
        if new:
            try:
                left = race(new, self._order, self._config.selection.rounds, look)
                pool.validate(left, scorer, self._validation, group=group)
            except LimitReached:  # what was paid for decides
                pool.recall(new, scorer, self._validation, group=group)
                return [prompt for prompt in new if prompt in pool.validated]
            return [prompt for prompt in left if prompt in pool.validated]
        return new


def read_test(
    task: Task, scorer: Scorer, selection: Selection, five: Sequence[str], config: TuneConfig
) -> TestFigures:
    """Score seed prompt and chosen prompt on the test split: the one place that reads it.

    Args:
        task: Gives the test split.
        scorer: Scores on it.
        selection: It is over.
        five: Those that led before the selection, for the paper's protocol; () without it.
        config: The seed of the bootstrap.
    """
    needed = dict.fromkeys([task.seed_prompt, selection.prompt, selection.readable])
    found = _on_test([*dict.fromkeys([*needed, *five])], task, scorer)
    if not needed.keys() <= found.keys():
        raise TargetError(
            f"the target {scorer.target_name!r} refuses the chosen prompt, or the seed prompt, on "
            f"most of test ({scorer.trouble}); see to the target and resume the run"
        )

    def figure(prompt: str) -> Estimate:
        return estimate_of(task, task.test, found[prompt], seed=config.seed)

    both = [found[task.seed_prompt], found[selection.prompt]]
    answered, (before, now) = in_common(both, task.test)
    known = [prompt for prompt in five if prompt in found]
    highest = max(known, key=lambda prompt: found[prompt].score, default=None)
    return TestFigures(
        test=figure(selection.prompt),
        seed_test=figure(task.seed_prompt),
        readable_test=figure(selection.readable),
        paired=paired(task.metric, answered, before, now, seed=config.seed),
        max_of_five=figure(highest) if highest is not None else None,
        scores=found,
    )


def _on_test(prompts: Sequence[str], task: Task, scorer: Scorer) -> dict[str, PromptScore]:
    """Scores on test, of prompts that are not refused; on a part of it where a limit cuts it short.

    Raises:
        LimitReached: there is a prompt of which nothing is known.
    """
    asked = [(prompt, task.test) for prompt in prompts]
    try:
        scores = scorer.score_each(asked, Purpose.TEST)
    except LimitReached:
        # Prompt by prompt, the first ones are complete: kept are examples that all were asked on.
        scores = scorer.remembered(asked)
        known = [score for score in scores if score is not None]
        if len(known) < len(scores) or not in_common(known, task.test)[0]:
            raise
    return {p: score for p, score in zip(prompts, scores, strict=True) if score is not None}


def estimate_of(
    task: Task, examples: Sequence[Example], score: PromptScore, *, seed: int
) -> Estimate:
    """The score with its interval, over the examples that were answered."""
    answered = score.answered(examples)
    return estimate(task.metric, answered, score.predictions, score.values, seed=seed)


def outcomes(scores: Mapping[str, PromptScore]) -> dict[str, Any]:
    """What every prompt that was scored on test achieved, example by example."""
    return {
        "prompts": [
            {
                "prompt": prompt,
                "values": list(score.values),
                "predictions": score.predictions,
                "left_out": score.left_out,
            }
            for prompt, score in scores.items()
        ]
    }
