"""The planner's pages: their tables are what the cost model says today."""

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.planner_fit import fit, fit_and_judge
from benchmarks.planner_pages import tables
from benchmarks.planner_sweep import on_fewest

from stableprompt.scaling.machines import CPU_THREAD, MACHINES, Speed
from stableprompt.scaling.shapes import Shape
from stableprompt.scaling.work import Held, seconds, writing

DOCS = Path(__file__).parent.parent / "docs"
SHAPES = [Shape(f"s{n}", n, 64 * n, n, n, 64, 200 * n, 1000, tied=True) for n in (2, 4, 8)]


def test_the_tables_of_the_page_are_those_of_the_cost_model() -> None:
    page = (DOCS / "scaling.md").read_text(encoding="utf-8")
    found = dict(tables())
    assert len(found) == 5
    for name, table in found.items():
        assert f"<!-- {name}: made by benchmarks/planner.py -->\n\n{table}\n\n<!-- end -->" in page


def test_the_errors_of_the_page_are_those_of_the_measurements() -> None:
    told = json.loads((DOCS / "results" / "planner.json").read_text(encoding="utf-8"))
    held = told["errors"]["held out"]
    page = (DOCS / "scaling.md").read_text(encoding="utf-8")
    assert f"middle error is {held['median']:.0%}".replace("%", " %") in page
    assert f"worst {held['worst']:.0%}".replace("%", " %") in page


def test_the_measured_machine_has_the_constants_that_were_fitted() -> None:
    told = json.loads((DOCS / "results" / "planner.json").read_text(encoding="utf-8"))["speed"]
    speed = MACHINES[CPU_THREAD].measured
    assert speed is not None
    for name in ("flops", "backward_flops", "bandwidth", "layer_seconds", "draw_seconds"):
        assert getattr(speed, name) == pytest.approx(told[name], rel=0.01)


def made_up(speed: Speed) -> list[dict[str, Any]]:
    """Points of a machine that is just as the cost model says."""
    found = []
    for shape in SHAPES:
        for kind in ("writing", "judging", "learning"):
            for rows in (2, 16, 50):
                point = {"kind": kind, "shape": shape.name, "rows": rows, "query": 100}
                found.append(point | {"length": 10 + rows, "part": "fitted"})
    from benchmarks.planner_fit import work_of

    named = {shape.name: shape for shape in SHAPES}
    return [p | {"seconds": seconds(work_of(p, named[p["shape"]]), speed)} for p in found]


def test_the_fit_finds_the_constants_of_a_machine_that_is_as_the_model_says() -> None:
    speed = Speed(3e10, 2e10, 5e9, 1e-4, 2e-9)
    found = fit(made_up(speed), {shape.name: shape for shape in SHAPES})
    for name in ("flops", "backward_flops", "bandwidth", "layer_seconds", "draw_seconds"):
        assert getattr(found, name) == pytest.approx(getattr(speed, name), rel=1e-3)


def test_points_that_are_held_out_change_no_constant() -> None:
    points = made_up(Speed(3e10, 2e10, 5e9, 1e-4, 2e-9))
    held = [
        p | {"part": part} for p, part in zip(points, ("sizes", "between", "larger"), strict=False)
    ]
    wrong = [p | {"seconds": p["seconds"] * 2} for p in held]
    one, other = (fit_and_judge([*points, *more], SHAPES) for more in (held, wrong))
    assert one["speed"] == other["speed"]
    assert one["errors"]["held out"]["worst"] == pytest.approx(0, abs=1e-3)
    assert other["errors"]["held out"]["median"] == pytest.approx(0.5, abs=1e-3)
    assert other["errors"]["held out"]["n"] == 3


def test_the_fewest_devices_are_those_that_hold_the_target() -> None:
    found = on_fewest("llama-3-70b")
    # 141 GB of weights; 72 GB of each H100 are the server's.
    assert found.devices == 4
    assert found.plan.memory[1].fits
    assert on_fewest("llama-3-8b").devices == 1


def test_writing_with_a_cache_is_in_proportion_to_what_is_written() -> None:
    held = Held(SHAPES[2], 4.0)
    speed = Speed(3e10, 2e10, 5e9, 1e-4, 2e-9)
    ten, twenty = (seconds(writing(held, 8, 0, n), speed) for n in (10, 20))
    assert twenty == pytest.approx(2 * ten, rel=0.1)
