"""Metrics by name."""

import difflib
from collections.abc import Callable
from typing import Final

from stableprompt.errors import ConfigError
from stableprompt.tasks.example import Example, TaskKind
from stableprompt.tasks.metrics.custom import custom_metric
from stableprompt.tasks.metrics.induction import INDUCTION_METRICS
from stableprompt.tasks.metrics.labels import LABEL_METRICS
from stableprompt.tasks.metrics.metric import Metric
from stableprompt.tasks.metrics.overlap import OVERLAP_METRICS, import_needed
from stableprompt.tasks.metrics.texts import TEXT_METRICS
from stableprompt.tasks.wording import listed, quoted

JUDGE: Final = "judge"
"""An LLM rates the answers: the values come from ``scoring/judge.py``, where the models are."""


def _rated_elsewhere(example: Example, prediction: str) -> float:
    raise AssertionError("the values of the metric 'judge' come from a model")


METRICS: Final[dict[str, Metric]] = {
    metric.name: metric
    for metric in (
        *LABEL_METRICS,
        *TEXT_METRICS,
        *OVERLAP_METRICS,
        *INDUCTION_METRICS,
        Metric(JUDGE, _rated_elsewhere, frozenset({TaskKind.GENERATION})),
    )
}

DEFAULT_METRICS: Final[dict[TaskKind, str]] = {
    TaskKind.CLASSIFICATION: "accuracy",
    TaskKind.MULTIPLE_CHOICE: "accuracy",
    TaskKind.GENERATION: "exact_match",
}


def metric_names(kind: TaskKind) -> tuple[str, ...]:
    """The names of the metrics that can score a task of this kind."""
    return tuple(name for name, metric in METRICS.items() if kind in metric.kinds)


def is_cheap(metric: Metric) -> bool:
    """Whether it can be tried on many answers at will: no judge, and none of the user's own."""
    return METRICS.get(metric.name) is metric and metric.name != JUDGE


def resolve_metric(
    name_or_function: str | Callable[[Example, str], float], kind: TaskKind
) -> Metric:
    """The metric of this name, or made of this function, for a task of this kind.

    Raises:
        ConfigError: there is no such metric, it cannot score this kind of task, or the function
            cannot be one or has the name of a built-in metric.
    """
    if not isinstance(name_or_function, str):
        metric = custom_metric(name_or_function)
        if metric.name in METRICS:
            raise ConfigError(
                f"the metric function {metric.name!r} has the name of a built-in metric, so that "
                "results could be taken for the other's: give the function another name"
            )
        return metric
    fitting = metric_names(kind)
    if name_or_function not in METRICS:
        close = difflib.get_close_matches(name_or_function, fitting, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(
            f"unknown metric {quoted(name_or_function)}: {hint}{_choose(fitting, kind)}"
        )
    if name_or_function not in fitting:
        kinds = " and ".join(sorted(METRICS[name_or_function].kinds))
        raise ConfigError(
            f"metric {name_or_function!r} scores {kinds} tasks, found a {kind} task: "
            f"{_choose(fitting, kind)}"
        )
    return METRICS[name_or_function]


def require_available(metric: Metric) -> None:
    """Import what the metric needs, so that a missing package shows before a model is loaded.

    Raises:
        ConfigError: the package is not installed.
    """
    if METRICS.get(metric.name) is metric:
        import_needed(metric.name)


def _choose(names: tuple[str, ...], kind: TaskKind) -> str:
    return f"{kind} tasks take {listed(names)}, or a function of (example, prediction)"
