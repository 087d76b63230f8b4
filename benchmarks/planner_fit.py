"""Fit the constants of the cost model to measured points, and judge it on the others."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any, Final

import numpy as np
from scipy.optimize import nnls

from stableprompt.scaling.machines import Speed
from stableprompt.scaling.shapes import Shape
from stableprompt.scaling.work import Held, Work, judging, learning, scoring, seconds, writing

PREDICTED: Final = (
    "Written down before the first measurement: on points held out the middle error is at most "
    "25 %, the worst at most 70 %; of models larger than all that were fitted the planner says too "
    "much rather than too little, as larger products run at a higher speed; drawing tokens and "
    "launching layers matter for the smallest model alone."
)
BATCH_TOKENS: Final = 4096
INPUT_TOKENS: Final = 30


def work_of(point: dict[str, Any], shape: Shape) -> Work:
    """What the cost model says is done."""
    rows, query, length = point["rows"], point["query"], point["length"]
    held = Held(shape, bytes_each=4.0, lora=True)
    if point["kind"] == "reading":
        pairs = rows * point["inputs"]
        return scoring(
            Held(shape, bytes_each=4.0),
            read=point["read"],
            pairs=pairs,
            context=query + length + INPUT_TOKENS,
            batch_tokens=BATCH_TOKENS,
        )
    if point["kind"] == "writing":
        return writing(held, rows, query, length)
    if point["kind"] == "judging":
        return judging(held, rows, query, length)
    return learning(held, rows, query, length)


def _columns(work: Work) -> list[float]:
    moved = work.weight_bytes + work.other_bytes
    return [work.flops, work.backward_flops, moved, work.launches, work.drawn]


def fit(points: Sequence[dict[str, Any]], shapes: dict[str, Shape]) -> Speed:
    """Least squares of the relative errors; no constant is negative."""
    rows = [_columns(work_of(p, shapes[p["shape"]])) for p in points]
    relative = np.array(rows) / np.array([p["seconds"] for p in points])[:, None]
    scale = relative.max(axis=0)
    found, _ = nnls(relative / scale, np.ones(len(rows)))
    forward, backward, moved, launch, drawn = (found / scale).tolist()
    return Speed(_rate(forward), _rate(backward), _rate(moved), launch, drawn)


def _rate(seconds_each: float) -> float:
    return 1 / seconds_each if seconds_each else float("inf")


def fit_and_judge(points: Sequence[dict[str, Any]], shapes: Sequence[Shape]) -> dict[str, Any]:
    """The constants, what they predict for every point, and how far off that is."""
    named = {shape.name: shape for shape in shapes}
    speed = fit([p for p in points if p["part"] == "fitted"], named)
    told = [p | {"predicted": seconds(work_of(p, named[p["shape"]]), speed)} for p in points]
    parts = {
        part: _errors([p for p in told if p["part"] in of])
        for part, of in (
            ("fitted", ("fitted",)),
            ("sizes", ("sizes",)),
            ("between", ("between",)),
            ("larger", ("larger",)),
            ("held out", ("sizes", "between", "larger")),
        )
    }
    return {"predicted_before": PREDICTED, "speed": asdict(speed), "errors": parts, "points": told}


def _errors(points: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Predicted over measured, minus one."""
    errors = [p["predicted"] / p["seconds"] - 1 for p in points]
    sizes = sorted(map(abs, errors))
    return {
        "n": len(errors),
        "median": median(sizes),
        "worst": sizes[-1],
        "lowest": min(errors),
        "highest": max(errors),
        "sum": sum(p["predicted"] for p in points) / sum(p["seconds"] for p in points) - 1,
    }
