"""Learning curves: the validation score of the best prompt so far, by target calls spent.

A curve is a step function. It is given by its points, sorted by target calls: from each point on
its score holds until the next one. Of points at the same place the last one holds.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

Point = tuple[float, float]
"""Target calls spent, and the validation score of the best prompt so far."""


def mean_curve(
    curves: Sequence[Sequence[Point]], grid: Sequence[float], start: float
) -> list[float]:
    """The mean of the curves at each position of the grid.

    Args:
        curves: One for each run; a curve that ends early keeps its last score.
        grid: Target calls, in any order.
        start: The score before the first point of a curve.

    Raises:
        ValueError: there are no curves, or points are not sorted by target calls.
    """
    if not curves:
        raise ValueError("the mean of 0 curves is undefined: give at least one")
    for curve in curves:
        _require_sorted(curve)
    return [math.fsum(_at(curve, at, start) for curve in curves) / len(curves) for at in grid]


def area_under(curve: Sequence[Point], budget: float, start: float = 0.0) -> float:
    """The mean score over the budget: the area under the curve, divided by the budget.

    With (x_i, y_i) the points up to the budget, x_0 = 0, y_0 = start and x_{n+1} = budget::

        sum_{i=0..n} y_i · (x_{i+1} - x_i) / budget

    A curve that reaches the same score earlier has more.

    Args:
        curve: The curve; points behind the budget do not count.
        budget: Target calls that could be spent.
        start: The score before the first point.

    Raises:
        ValueError: the budget is not above 0, or points are not sorted by target calls.
    """
    if not budget > 0:
        raise ValueError(f"the mean score over a budget needs one above 0: found {budget}")
    _require_sorted(curve)
    spent = [(calls, score) for calls, score in curve if calls < budget]
    steps = [(0.0, start), *spent, (budget, 0.0)]
    return math.fsum(y * (next_x - x) for (x, y), (next_x, _) in pairwise(steps)) / budget


def _at(curve: Sequence[Point], position: float, start: float) -> float:
    return next((score for calls, score in reversed(curve) if calls <= position), start)


def _require_sorted(curve: Sequence[Point]) -> None:
    if curve and curve[0][0] < 0:
        raise ValueError(f"target calls are at least 0: found {curve[0][0]}")
    for (before, _), (after, _) in pairwise(curve):
        if not before <= after:
            raise ValueError(
                f"points of a curve are sorted by target calls: found {before} before {after}"
            )
