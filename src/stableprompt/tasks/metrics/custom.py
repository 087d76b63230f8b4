"""A metric from the user's own function, whose results are checked one by one."""

import functools
import inspect
import numbers
from collections.abc import Callable
from typing import Final

import numpy as np

from stableprompt.errors import ConfigError
from stableprompt.tasks.example import Example, TaskKind
from stableprompt.tasks.metrics.metric import Metric, ValueFunction
from stableprompt.tasks.wording import quoted

# A mean of ones may come out above 1 by rounding: that far it is cut, not refused.
_ROUNDING: Final = 1e-9


def custom_metric(function: Callable[[Example, str], float]) -> Metric:
    """The function as a metric of any kind of task, under the function's name.

    Raises:
        ConfigError: it cannot be called with an example and a prediction. The metric's ``value``
            raises it too, where the function fails or returns no number from 0 to 1.
    """
    name = str(getattr(function, "__name__", type(function).__name__))
    _check_signature(function, name)
    return Metric(name, _checked(function, name), frozenset(TaskKind))


def _check_signature(function: Callable[[Example, str], float], name: str) -> None:
    if not callable(function):
        raise ConfigError(
            f"a metric is a name or a function, found {quoted(function)} ({name}): "
            "give a function of (example, prediction)"
        )
    try:
        inspect.signature(function).bind(Example("", ""), "")
    except TypeError as error:
        raise ConfigError(
            f"metric {name!r} cannot be called with (example, prediction): {error}; "
            "give it exactly these two parameters"
        ) from error
    except ValueError:
        return  # some functions written in C do not tell their parameters


def _checked(function: Callable[[Example, str], float], name: str) -> ValueFunction:
    @functools.wraps(function)
    def value(example: Example, prediction: str) -> float:
        try:
            result = function(example, prediction)
        except Exception as error:
            raise ConfigError(
                f"metric {name!r} failed for the prediction {quoted(prediction)} with "
                f"{type(error).__name__}: {' '.join(str(error).split())}; correct the function"
            ) from error
        found = _number(result)
        # Not a number is neither below nor above: asked this way round it is refused, too.
        if found is None or not -_ROUNDING <= found <= 1 + _ROUNDING:
            raise ConfigError(
                f"metric {name!r} returned {type(result).__name__} {quoted(result)} for the "
                f"prediction {quoted(prediction)}: return a number from 0 (wrong) to 1 (right), "
                "other scales divided to fit"
            )
        return min(1.0, max(0.0, found))

    return value


def _number(result: object) -> float | None:
    """The result as a float; None if it is none."""
    if not isinstance(result, (numbers.Real, np.bool_)):
        return None
    try:
        return float(result)
    except OverflowError:
        return None
