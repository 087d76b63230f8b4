"""After the loop: choose the prompt on validation, then read the test split once."""

from dataclasses import dataclass

from stableprompt.scoring.ledger import Purpose
from stableprompt.scoring.scorer import PromptScore, Scorer
from stableprompt.tasks.statistics import (
    Estimate,
    PairedComparison,
    accuracy_estimate,
    paired_comparison,
)
from stableprompt.tasks.task import Task
from stableprompt.tuning.candidates import CandidatePool


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen prompt with its validation score, and the seed prompt's."""

    prompt: str
    validation: Estimate
    seed_validation: Estimate
    num_compared: int
    """Prompts scored on the whole validation split, the seed prompt among them."""


@dataclass(frozen=True, slots=True)
class TestFigures:
    """What the sealed test split said."""

    test: Estimate
    seed_test: Estimate
    paired: PairedComparison


def select(pool: CandidatePool, task: Task, scorer: Scorer, num_finalists: int) -> Selection:
    """Score the finalists again on the whole validation split and take the best.

    The seed prompt is one of them, so the result is never worse than it on validation; where
    scores are equal it stays, and between others the larger softmax difference decides.

    Args:
        pool: What was seen.
        task: Gives the validation split and the seed prompt.
        scorer: Scores on it.
        num_finalists: How many of the leaderboard are scored again.
    """
    seed_prompt = task.seed_prompt
    finalists = list(dict.fromkeys([seed_prompt, *pool.leaderboard(num_finalists)]))
    for prompt in finalists:
        if prompt not in pool.validated:
            pool.validated[prompt] = scorer.score(prompt, task.validation, Purpose.VALIDATION)

    def rank(prompt: str) -> tuple[float, bool, float, str]:
        score = pool.validated[prompt]
        return (-score.accuracy, prompt != seed_prompt, -score.softmax_difference, prompt)

    best = min(pool.validated, key=rank)
    return Selection(
        best,
        _estimate(pool.validated[best]),
        _estimate(pool.validated[seed_prompt]),
        len(pool.validated),
    )


def read_test(task: Task, scorer: Scorer, prompt: str, *, seed: int) -> TestFigures:
    """Score seed prompt and chosen prompt on the test split: the one place that reads it.

    Args:
        task: Gives the test split.
        scorer: Scores on it.
        prompt: The chosen prompt; selection is over.
        seed: Of the bootstrap.
    """
    seed_score = scorer.score(task.seed_prompt, task.test, Purpose.TEST)
    score = seed_score
    if prompt != task.seed_prompt:
        score = scorer.score(prompt, task.test, Purpose.TEST)
    return TestFigures(
        test=_estimate(score),
        seed_test=_estimate(seed_score),
        paired=paired_comparison(seed_score.correct, score.correct, seed=seed),
    )


def _estimate(score: PromptScore) -> Estimate:
    return accuracy_estimate(score.correct)
