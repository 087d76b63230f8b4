"""The validation score of what led, over target calls: drawn when the result stands."""

from collections.abc import Iterable, Mapping
from typing import Any

from stableprompt.scoring.ledger import Purpose
from stableprompt.scoring.limits import LimitReached
from stableprompt.scoring.scorer import Scorer
from stableprompt.tasks.task import Task


def learning_curve(
    task: Task, scorer: Scorer, steps: Iterable[Mapping[str, Any]], end: list[float]
) -> list[list[float]]:
    """Target calls and validation score of what led: at the start, after steps, at the end.

    What leads more than once is scored once; the seed prompt leads at first. What a limit of the
    run leaves no room for, or the target refuses, is no point of the curve.

    Args:
        task: Gives the validation split.
        scorer: Scores on it.
        steps: Records of the steps, in order.
        end: The last point.
    """
    leaders = {0: task.seed_prompt}
    for step in steps:
        leaders[step["target_calls"]] = step["best_prompt"] or task.seed_prompt
    asked = [(text, task.validation) for text in dict.fromkeys(leaders.values())]
    try:
        found = scorer.score_each(asked, Purpose.CURVE)
    except LimitReached:
        parts = scorer.remembered(asked)
        found = [None if part is None or part.left_out else part for part in parts]
    scores = {p: score.score for (p, _), score in zip(asked, found, strict=True) if score}
    return [*([calls, scores[p]] for calls, p in leaders.items() if p in scores), end]
