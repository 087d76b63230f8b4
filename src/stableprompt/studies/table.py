"""What came out of a comparison: one JSON file with everything, tables made of it, pictures.

Two protocols stand side by side and are never mixed: the prompt chosen on validation (ours), and
the highest of five on test (the paper's, optimistic).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from stableprompt.runs.escapes import named
from stableprompt.studies.cell import CellRecord
from stableprompt.studies.curves import mean_curve
from stableprompt.studies.statistics import (
    CellScore,
    compare_pair,
    summarise,
    win_tie_loss,
)

_GRID: Final = 40  # points of a learning curve


def content_of(
    records: Sequence[CellRecord],
    *,
    ours: str,
    plan: Mapping[str, Any],
    setting: Mapping[str, Any],
    command: str,
) -> dict[str, Any]:
    """Everything that is known of a comparison, as plain JSON values.

    Args:
        records: Its runs; tasks that not every arm has finished for a seed are fine, but then
            methods are compared on what both have.
        ours: The arm that is compared with every other one.
        plan: What was compared.
        setting: Models and versions.
        command: What made it.
    """
    arms = list(dict.fromkeys(record.arm for record in records))
    rivals = [arm for arm in arms if arm != ours] if ours in arms else []
    scores = [_score(r, r.score, r.values) for r in records]
    shipped = [_score(r, r.readable_score, r.readable_values) for r in records]
    found = {summary.method: summary for summary in summarise(scores)}
    readable = {summary.method: summary for summary in summarise(shipped)}
    pairs = [_pair(scores, rival, ours) for rival in rivals]
    return {
        "command": command,
        "budget": plan["budget"],
        "seeds": sorted({record.seed for record in records}),
        "settings": plan["settings"],
        "setting": dict(setting),
        "tasks": _tasks(records, plan),
        "ours": ours if rivals else None,
        "methods": [
            {**_method(records, arm), **_figures(found[arm]), "readable_mean": readable[arm].mean}
            for arm in arms
        ],
        "pairs": pairs,
        "wins": _wins(scores, ours, [pair["rival"] for pair in pairs if pair["same_runs"]]),
        "curves": {arm: _curve(records, arm, plan["budget"]) for arm in arms},
        "cells": [_cell(record) for record in records],
    }


def _score(record: CellRecord, score: float, values: tuple[float, ...]) -> CellScore:
    del score  # the mean of the values: metrics that are none are refused in a plan
    return CellScore(record.arm, record.task, record.seed, values, record.collapsed)


def _figures(summary: Any) -> dict[str, Any]:
    names = ("mean", "low", "high", "seed_sd", "variation", "collapsed_share", "num_runs")
    return {name: getattr(summary, name) for name in names}


def _method(records: Sequence[CellRecord], arm: str) -> dict[str, Any]:
    own = [record for record in records if record.arm == arm]
    five = [record.max_of_five for record in own if record.max_of_five is not None]
    return {
        "method": arm,
        "target_calls": sum(record.calls for record in own) / len(own),
        "validation_mean": _task_mean(own, "validation"),
        "seed_prompt_mean": _task_mean(own, "seed_score"),
        "max_of_five_mean": _task_mean(own, "max_of_five") if len(five) == len(own) else None,
        "readable_share": sum(record.readable for record in own) / len(own),
        "alarms": _sums(record.alarms for record in own),
        "seconds": sum(record.seconds for record in own) / len(own),
    }


def _task_mean(records: Sequence[CellRecord], name: str) -> float:
    """Mean over tasks of the mean over seeds."""
    by_task: dict[str, list[float]] = {}
    for record in records:
        by_task.setdefault(record.task, []).append(getattr(record, name))
    return sum(sum(of) / len(of) for of in by_task.values()) / len(by_task)


def _sums(counts: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for of_run in counts:
        for name, count in of_run.items():
            total[name] = total.get(name, 0) + count
    return dict(sorted(total.items()))


def _pair(scores: Sequence[CellScore], rival: str, ours: str) -> dict[str, Any]:
    """Ours minus a rival, on the runs that both have made."""
    made = [{(c.task, c.seed) for c in scores if c.method == arm} for arm in (rival, ours)]
    both = made[0] & made[1]
    common = [c for c in scores if c.method in (rival, ours) and (c.task, c.seed) in both]
    told = {"rival": rival, "same_runs": made[0] == made[1], "num_runs": len(both)}
    if not both:
        return {**told, "same_runs": False}
    compared = compare_pair(common, rival, ours)
    names = ("difference", "low", "high", "p_value", "num_tasks", "num_seeds", "num_examples")
    return {**told, **{name: getattr(compared, name) for name in names}}


def _wins(scores: Sequence[CellScore], ours: str, rivals: Sequence[str]) -> list[dict[str, Any]]:
    return [asdict(row) for row in win_tie_loss(scores, ours, rivals)] if rivals else []


def _tasks(records: Sequence[CellRecord], plan: Mapping[str, Any]) -> dict[str, Any]:
    return {
        r.task: {
            "fingerprint": plan["tasks"][r.task],
            "metric": r.metric,
            "n": r.n,
            "seed_prompt_score": r.seed_score,
            "trivial_score": _trivial(records, r.task),
        }
        for r in records
    }


def _trivial(records: Sequence[CellRecord], task: str) -> float | None:
    """Runs of earlier versions tried fewer trivial answers, or none."""
    known = [r.trivial_score for r in records if r.task == task]
    return max((score for score in known if score is not None), default=None)


def _curve(records: Sequence[CellRecord], arm: str, budget: int) -> list[list[float]]:
    """Mean validation score of what led, over tasks and seeds, against target calls.

    What leads by gain need not be better on validation than what led before: the curve can fall.
    """
    own = [record for record in records if record.arm == arm]
    grid = [budget * place / _GRID for place in range(_GRID + 1)]
    tasks = list(dict.fromkeys(record.task for record in own))
    curves = [
        mean_curve([r.curve for r in own if r.task == task], grid, _start(own, task))
        for task in tasks
    ]
    means = [sum(at) / len(at) for at in zip(*curves, strict=True)]
    return [[calls, mean] for calls, mean in zip(grid, means, strict=True)]


def _start(records: Sequence[CellRecord], task: str) -> float:
    return next(record.curve[0][1] for record in records if record.task == task)


def _cell(record: CellRecord) -> dict[str, Any]:
    content = asdict(record)
    for long in ("values", "readable_values"):
        del content[long]
    content["method"] = content.pop("arm")
    return content


def markdown_of(content: Mapping[str, Any]) -> str:
    """The tables, for reading."""
    parts = [
        f"Budget: {content['budget']} target calls a run; seeds "
        f"{', '.join(map(str, content['seeds']))}; {len(content['tasks'])} tasks; "
        f"target {named(content['setting'].get('target', '?'))}, agent "
        f"{named(content['setting'].get('agent', '?'))}, {content['setting'].get('dtype', '?')}.",
        _methods_table(content),
        _pairs_table(content),
        _task_table(content),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _methods_table(content: Mapping[str, Any]) -> str:
    rows = [
        "| method | test score, chosen on validation [95 %] | SD over seeds | variation | readable "
        "| collapsed | calls | s a run | max of 5 on test (optimistic) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for m in sorted(content["methods"], key=lambda m: -m["mean"]):
        five = _figure(m["max_of_five_mean"])
        rows.append(
            f"| {named(m['method'])} | {m['mean']:.3f} [{m['low']:.3f}, {m['high']:.3f}] "
            f"| {_figure(m['seed_sd'])} | {_figure(m['variation'])} | {m['readable_mean']:.3f} "
            f"| {m['collapsed_share']:.2f} | {m['target_calls']:.0f} | {m['seconds']:.0f} "
            f"| {five} |"
        )
    return "\n".join(rows)


def _pairs_table(content: Mapping[str, Any]) -> str:
    if not content["pairs"]:
        return ""
    wins = {row["rival"]: row for row in content["wins"]}
    rows = [
        f"| {named(content['ours'])} minus | difference [95 %] | p "
        "| win / tie / loss over tasks (Holm) |",
        "|---|---|---|---|",
    ]
    for pair in content["pairs"]:
        if "difference" not in pair:
            continue
        row = wins.get(pair["rival"])
        counts = f"{row['wins']} / {row['ties']} / {row['losses']}" if row else "-"
        note = "" if pair["same_runs"] else f" ({pair['num_runs']} runs that both have)"
        rows.append(
            f"| {named(pair['rival'])}{note} | {pair['difference']:+.3f} [{pair['low']:+.3f}, "
            f"{pair['high']:+.3f}] | {pair['p_value']:.2g} | {counts} |"
        )
    return "\n".join(rows)


def _task_table(content: Mapping[str, Any]) -> str:
    """Mean over seeds of each method on each task."""
    arms = [m["method"] for m in content["methods"]]
    head = f"| task | n | {' | '.join(map(named, arms))} | trivial answer |"
    rows = [head, "|---|---|" + "---|" * (1 + len(arms))]
    for task, told in content["tasks"].items():
        means = []
        for arm in arms:
            own = [c["score"] for c in content["cells"] if (c["task"], c["method"]) == (task, arm)]
            means.append(_figure(sum(own) / len(own) if own else None))
        means.append(_figure(told.get("trivial_score")))
        rows.append(
            f"| {named(task)} ({named(told['metric'])}) | {told['n']} | {' | '.join(means)} |"
        )
    return "\n".join(rows)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
