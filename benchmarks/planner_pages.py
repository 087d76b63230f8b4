"""What benchmarks/planner.py found, as a page, as tables of docs/scaling.md, and as pictures."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.planner_fit import work_of
from benchmarks.planner_shapes import SHAPES
from benchmarks.planner_sweep import (
    Planned,
    by_agent,
    by_target,
    by_traffic,
    doubts,
    target_seconds,
)
from stableprompt.planning.plan import DECISIONS, JUDGING, LEARNING, TARGET, WRITING
from stableprompt.scaling.machines import MACHINES
from stableprompt.studies.plots import svg_of

_BILLION: Final = 1e9
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
_KINDS: Final = ("reading", "writing", "judging", "learning")
_PARTS: Final = {
    "fitted": "fitted",
    "sizes": "held out: more rows, longer texts",
    "between": "held out: models between those fitted",
    "larger": "held out: models larger than all fitted",
    "held out": "held out: all three",
}


def write_pages(found: dict[str, Any], folder: Path) -> None:
    """Everything that follows from the points and the cost model."""
    (folder / "planner.md").write_text(_results(found), encoding="utf-8")
    (folder / "planner_fit.svg").write_text(_fit_picture(found["points"]), encoding="utf-8")
    sizes = by_target()
    (folder / "planner_sizes.svg").write_text(_size_picture(sizes), encoding="utf-8")
    page = folder.parent / "scaling.md"
    text = page.read_text(encoding="utf-8")
    for name, table in tables(sizes):
        block = f"<!-- {name}: made by benchmarks/planner.py -->\n\n{table}\n\n<!-- end -->"
        text = re.sub(
            rf"<!-- {name}: made .*?<!-- end -->", lambda _, new=block: new, text, flags=re.DOTALL
        )
    page.write_text(text, encoding="utf-8")


# --- docs/scaling.md ---


def tables(sizes: Sequence[Planned] | None = None) -> Iterable[tuple[str, str]]:
    """The tables of docs/scaling.md by name."""
    yield "machines", _machines()
    yield "sizes", _plans("target", sizes or by_target())
    yield "traffic", _plans("servers, calls at once at each", by_traffic())
    yield "agents", _plans("agent", by_agent())
    rows = [(name, f"{factor:.2f}") for name, factor in doubts()]
    yield "doubts", _table(("twice as bad", "whole run takes, times"), rows)


def _machines() -> str:
    rows = [
        (
            f"`{m.name}`",
            f"{m.memory / 1e9:.0f}",
            f"{m.flops / 1e12:.3g}",
            f"{m.bandwidth / 1e9:.3g}",
            f"{m.link / 1e9:.3g}",
            f"{m.dollars_per_hour:.2f}",
            m.source,
        )
        for m in MACHINES.values()
    ]
    head = ("name", "GB", "TFLOP/s", "GB/s", "link GB/s", "$ an hour, assumed", "source")
    return _table(head, rows)


def _plans(first: str, found: Sequence[Planned]) -> str:
    rows = []
    for one in found:
        plan = one.plan
        served = plan.memory[1]
        agent, server = (f"{m.needed / 1e9:.0f} of {m.size / 1e9:.0f}" for m in (plan.memory))
        name = plan.memory[0].device
        rows.append(
            (
                one.name,
                f"{one.devices} x {name}",
                agent if plan.memory[0].fits else f"**{agent}: does not fit**",
                server if served.fits else f"**{server}: does not fit**",
                f"{target_seconds(plan):.0f}",
                f"{plan.total_seconds:.0f}",
                f"{plan.machine_dollars:.2f}",
                ": ".join(plan.bottleneck),
            )
        )
    head = (
        first,
        "a server",
        "GB, agent's GPU",
        "GB, a server's GPU",
        "target, s",
        "run, s",
        "$",
        "bottleneck",
    )
    return _table(head, rows)


# --- docs/results/planner.md ---


def _results(found: dict[str, Any]) -> str:
    machine, speed = found["machine"], found["speed"]
    parts = [
        "# The planner's cost model, measured",
        "```\npython benchmarks/planner.py\npython benchmarks/planner.py --run\n```",
        f"Measured {machine['date']}: {machine['cpu']}, one thread, float32; torch "
        f"{machine['torch']}, transformers {machine['transformers']}, peft {machine['peft']}. "
        "Models of random weights read (label scores of prompts with inputs), write, judge "
        "(log-probabilities of prompts) and learn (one pass over a rollout) through the package's "
        "own code. Seconds are the processor's own (`time.process_time`), the least of "
        f"{len(found['points'][0]['tries'])} tries: other work ran on the machine, and took memory "
        "bandwidth and cache. What the cost model is: [Scaling](../scaling.md).",
        f"*{found['predicted_before']}*",
        _verdict(found),
        "## Errors",
        "The constants are fitted to the first row alone. An error is predicted over measured, "
        "minus one; *all together*, of the sum of the seconds.",
        _table(
            ("points", "n", "middle", "worst", "lowest", "highest", "all together"),
            [
                (
                    label,
                    str(found["errors"][name]["n"]),
                    *(f"{found['errors'][name][key]:.0%}" for key in ("median", "worst")),
                    *(f"{found['errors'][name][key]:+.0%}" for key in ("lowest", "highest", "sum")),
                )
                for name, label in _PARTS.items()
            ],
        ),
        "Of GPUs and servers these errors say nothing: there the constants are assumptions.",
        "![Predicted and measured seconds](planner_fit.svg)",
        "## Constants",
        _table(
            ("constant", "fitted"),
            [
                ("matrix products, forward", f"{speed['flops'] / 1e9:.0f} GFLOP/s"),
                ("matrix products, backward", f"{speed['backward_flops'] / 1e9:.0f} GFLOP/s"),
                ("memory", f"{speed['bandwidth'] / 1e9:.1f} GB/s"),
                ("starting a layer", f"{speed['layer_seconds'] * 1e3:.2f} ms"),
                ("drawing a token, an entry of the vocabulary", f"{speed['draw_seconds']:.1g} s"),
            ],
        ),
        "## Every point",
        _points(found["points"]),
    ]
    if "run" in found:
        parts += ["## A whole run", *_run(found["run"])]
    return "\n\n".join(parts) + "\n"


def _verdict(found: dict[str, Any]) -> str:
    """What became of the prediction."""
    held, speed = found["errors"]["held out"], found["speed"]
    larger = [p for p in found["points"] if p["part"] == "larger"]
    too_much = {p["kind"] for p in larger if p["predicted"] > p["seconds"]}
    too_little = {p["kind"] for p in larger if p["predicted"] <= p["seconds"]}
    drawn = "no time of its own" if speed["draw_seconds"] == 0 else "a time of its own"
    return (
        f"What became of it: the middle error is {held['median']:.0%}, the worst "
        f"{held['worst']:.0%}. Of the larger models the planner says too much for "
        f"{', '.join(k for k in _KINDS if k in too_much) or 'nothing'}, and too little for "
        f"{', '.join(k for k in _KINDS if k in too_little) or 'nothing'}. Drawing tokens got "
        f"{drawn} in the fit. Starting layers is {_starting(found, '106M'):.0%} of the predicted "
        f"time of writing with the model of 106M and {_starting(found, '772M'):.0%} with that of "
        "772M, so it matters for more than the smallest. The worst point is the smallest model "
        "with its most logits: they take longer than their bytes say."
    )


def _starting(found: dict[str, Any], model: str) -> float:
    """The share of starting layers in writing."""
    [point] = [p for p in found["points"] if (p["shape"], p["kind"]) == (model, "writing")]
    work = work_of(point, SHAPES[model])
    return work.launches * float(found["speed"]["layer_seconds"]) / float(point["predicted"])


def _points(points: Sequence[dict[str, Any]]) -> str:
    head = ("points", "what", "model", "prompts", "shared", "length", "measured, s", "predicted, s")
    return _table(
        (*head, "error"),
        [
            (
                p["part"],
                p["kind"] + (f", {p['inputs']} inputs" if p["inputs"] else ""),
                p["shape"],
                *(str(p[key]) for key in ("rows", "query", "length")),
                f"{p['seconds']:.2f}",
                f"{p['predicted']:.2f}",
                f"{p['predicted'] / p['seconds'] - 1:+.0%}",
            )
            for p in points
        ],
    )


def _run(run: dict[str, Any]) -> list[str]:
    planned, made = run["planned"], run["made"]
    rows = [
        (name, f"{planned[key]:.0f}", f"{made[key]:.0f}", f"{planned[key] / made[key] - 1:+.0%}")
        for name, key in (
            ("seconds of the processor", "seconds"),
            ("target calls", "calls"),
            ("tokens read by the target", "read"),
        )
    ]
    settings = run["settings"]
    return [
        "The embedded model as agent and target on the bundled task `support`, "
        f"{settings['steps']} steps of {settings['ppo']['prompts_per_step']} prompts; no constant "
        "was fitted to it. The plan takes every prompt to be as long as it may be, and none to be "
        "refused.",
        _table(("", "planned", "made", "error"), rows),
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- pictures ---


def _fit_picture(points: Sequence[dict[str, Any]]) -> str:
    def draw(axes: Any) -> None:
        low, high = 0.05, 20
        axes.plot((low, high), (low, high), color="#555555", lw=0.8)
        axes.fill_between(
            (low, high), (low / 1.25, high / 1.25), (low * 1.25, high * 1.25), alpha=0.1
        )
        for colour, kind in zip(_COLOURS, _KINDS, strict=True):
            for fitted, marker in ((True, "o"), (False, "x")):
                own = [p for p in points if p["kind"] == kind and (p["part"] == "fitted") == fitted]
                label = f"{kind}, {'fitted' if fitted else 'held out'}"
                axes.plot(
                    [p["seconds"] for p in own],
                    [p["predicted"] for p in own],
                    marker,
                    color=colour,
                    ms=6,
                    mfc="none",
                    label=label,
                )
        axes.set(xlabel="measured, s of the processor", ylabel="predicted, s")
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))

    return svg_of("Predicted and measured; the band is 25 %", (7.0, 4.6), draw)


def _size_picture(sizes: Sequence[Planned]) -> str:
    lines = {
        "agent: writing": (WRITING, DECISIONS),
        "agent: log-probabilities": (JUDGING,),
        "agent: learning": (LEARNING,),
        "target": (TARGET,),
    }

    def draw(axes: Any) -> None:
        xs = [(p.plan.target_parameters or 0) / _BILLION for p in sizes]
        for colour, (name, parts) in zip(_COLOURS, lines.items(), strict=True):
            ys = [sum(sum(p.plan.seconds.get(q, {}).values()) for q in parts) for p in sizes]
            axes.plot(xs, ys, "o-", color=colour, lw=1.8, ms=4, label=name)
        for x, one in zip(xs, sizes, strict=True):
            axes.annotate(f"{one.devices}", (x, 0.03), ha="center", fontsize=8, color="#555555")
        axes.annotate("GPUs of the server", (xs[0], 0.05), fontsize=8, color="#555555")
        axes.set(xscale="log", yscale="log", ylim=(0.02, 300))
        axes.set(xlabel="parameters of the target, billions", ylabel="seconds of a run")
        axes.grid(True, color="#dddddd", lw=0.6)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))

    return svg_of("A run by the size of its target", (7.5, 4.2), draw)
