"""After the loop: choose the prompt on validation, then read the test split once."""

from collections.abc import Sequence
from dataclasses import dataclass

from stableprompt.config import TuneConfig
from stableprompt.scoring.ledger import Purpose
from stableprompt.scoring.scorer import PromptScore, Scorer
from stableprompt.tasks.example import Example
from stableprompt.tasks.statistics import Estimate, PairedComparison, estimate, paired
from stableprompt.tasks.task import Task
from stableprompt.tuning.candidates import CandidatePool
from stableprompt.tuning.demonstrations import draw_demonstrations


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen prompt with its validation score, and the seed prompt's."""

    prompt: str
    instruction: str
    """The prompt without the demonstrations, if it has some."""
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


def select(pool: CandidatePool, task: Task, scorer: Scorer, config: TuneConfig) -> Selection:
    """Score the finalists again on the whole validation split and take the best.

    The seed prompt is one of them, so the result is never worse than it on validation; where
    scores are equal it stays, and between others the larger softmax difference decides. Then
    demonstrations are tried with the best one, where they are asked for; they must be better.

    Args:
        pool: What was seen.
        task: Gives the validation split and the seed prompt.
        scorer: Scores on it.
        config: How many of the leaderboard are scored again, and which demonstrations are tried.
    """
    validated = pool.validated
    finalists = [task.seed_prompt, *pool.leaderboard(config.selection.num_finalists)]
    pool.validate(finalists, scorer, task.validation)

    def rank(prompt: str) -> tuple[float, bool, float, str]:
        score = validated[prompt]
        return (
            -score.score,
            prompt != task.seed_prompt,
            -(score.softmax_difference or 0.0),
            prompt,
        )

    best = instruction = min(validated, key=rank)
    drawn = list(draw_demonstrations(instruction, task, config))
    pool.validate(drawn, scorer, task.validation)
    for prompt in drawn:
        if validated[prompt].score > validated[best].score:
            best = prompt
    return Selection(
        best,
        instruction,
        estimate_of(task, task.validation, validated[best], seed=config.seed),
        estimate_of(task, task.validation, validated[task.seed_prompt], seed=config.seed),
        len(validated),
    )


def read_test(task: Task, scorer: Scorer, prompt: str, *, seed: int) -> TestFigures:
    """Score seed prompt and chosen prompt on the test split: the one place that reads it.

    Args:
        task: Gives the test split.
        scorer: Scores on it.
        prompt: The chosen prompt; selection is over.
        seed: Of the bootstrap.
    """
    prompts = list(dict.fromkeys([task.seed_prompt, prompt]))
    scores = scorer.score_all(prompts, task.test, Purpose.TEST)
    seed_score, score = scores[0], scores[-1]
    return TestFigures(
        test=estimate_of(task, task.test, score, seed=seed),
        seed_test=estimate_of(task, task.test, seed_score, seed=seed),
        paired=paired(task.metric, task.test, seed_score, score, seed=seed),
    )


def estimate_of(
    task: Task, examples: Sequence[Example], score: PromptScore, *, seed: int
) -> Estimate:
    """The score with its interval."""
    return estimate(task.metric, examples, score.predictions, score.values, seed=seed)
