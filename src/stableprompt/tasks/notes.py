"""What a user should know of a task before it is tuned for, a line each."""

from collections.abc import Sequence
from typing import Final

from stableprompt.tasks.example import Example, TaskKind
from stableprompt.tasks.metrics.metric import Metric
from stableprompt.tasks.metrics.registry import is_cheap
from stableprompt.tasks.metrics.trivial import echo_score
from stableprompt.tasks.placeholders import WHOLE_INPUT, placeholders
from stableprompt.tasks.wording import listed

_FEW: Final = 32  # examples: some metrics take long for long texts
_TELLING: Final = 0.25  # below it, prompts that work win over those that have the input repeated


def notes_on_prompt(prompt: str, fields: tuple[str, ...]) -> list[str]:
    """One line for each placeholder of a prompt that no field of the input fills."""
    known = (WHOLE_INPUT, *fields)
    others = sorted(placeholders(prompt) - set(known))
    return [
        f"{{{name}}} in the prompt is no field of the input ({listed(dict.fromkeys(known))}): "
        "it is sent as it stands, and every prompt must keep it"
        for name in others
    ]


def notes_on_echo(kind: TaskKind, metric: Metric, train: Sequence[Example]) -> list[str]:
    """That repeating the input is worth something, where it is: prompts that bring it about win.

    Args:
        kind: Only generated answers can repeat it.
        metric: By which; one that is dear, or of the user's own, is not asked.
        train: Of these examples a few are tried.
    """
    if kind is not TaskKind.GENERATION or not is_cheap(metric):
        return []
    score = echo_score(metric, train, most=_FEW)
    told = f"a target that only repeats its input scores {score:.2f} by {metric.name} on train"
    return [f"{told}: tuning may find prompts that have it do so"] if score >= _TELLING else []
