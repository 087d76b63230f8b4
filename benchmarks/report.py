"""The results as a table: for the terminal, and as Markdown for the documents."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Ratio:
    """One line of the table."""

    label: str
    target: tuple[str, float] | None = None
    """Of the standard workload, with two cores: ">=" or "<=", and the bound."""


RATIOS = {
    "scoring_fp32_vs_naive": Ratio("scoring, fp32 / naive fp32", (">=", 8.0)),
    "scoring_bf16_vs_naive": Ratio("scoring, bf16 / naive fp32", (">=", 14.0)),
    "scoring_bf16_vs_naive_bf16": Ratio("scoring, bf16 / naive bf16"),
    "scoring_vs_bucketed_long_prompt": Ratio("long prompts / bucketed", (">=", 2.0)),
    "update_vs_unshared": Ratio("PPO update / unshared", (">=", 2.5)),
    "step_vs_naive": Ratio("whole step / naive step", (">=", 5.0)),
    "peak_memory_vs_three_copies": Ratio("peak memory / three copies", ("<=", 0.45)),
    "mfu": Ratio("scoring, share of the ceiling", (">=", 0.6)),
}


def table(results: dict[str, Any]) -> str:
    """For a terminal of 80 columns."""
    head = f"{'':31}{'median':>8}{'min':>8}{'max':>8}{'n':>3}{'target':>9}{'':5}{'at best':>8}"
    lines = [head, "-" * len(head)]
    for label, cells, met in _rows(results):
        median, low, high, count, target, best = cells
        mark = {True: "yes", False: "NO", None: ""}[met]
        figures = f"{median:>8}{low:>8}{high:>8}{count:>3}{target:>9}"
        lines.append(f"{label:31}{figures}  {mark:3}{best:>8}".rstrip())
    remarks = [textwrap.fill(remark, 80, subsequent_indent="  ") for remark in _remarks(results)]
    return "\n".join([*lines, "", *remarks])


def markdown(results: dict[str, Any]) -> str:
    """Machine, table, growth and profile as Markdown."""
    machine, workload = results["machine"], results.get("workload", {})
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
    if "gpu" in machine:
        where += f", {machine['gpu']}"
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "transformers", "peft"))
    lines = [f"Measured {machine['date']}: {where}; {versions}.", ""]
    if workload:
        lines += [
            f"Workload: {workload['task']} with {workload['model']}, {workload['prompts']} prompts "
            f"of {workload['prompt_tokens']['min']:.0f} to {workload['prompt_tokens']['max']:.0f} "
            f"tokens x {workload['examples']} examples; {workload['necessary_tokens']} necessary "
            f"tokens, {workload['naive_padded_tokens']} in the naive loop.",
            "",
        ]
    lines += [
        "| | median | min | max | rounds | target | met | at best |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for label, (median, low, high, count, target, best), met in _rows(results):
        mark = {True: "yes", False: "no", None: ""}[met]
        lines.append(
            f"| {label} | {median} | {low} | {high} | {count} | {target} | {mark} | {best} |"
        )
    lines += ["", *(f"* {remark}" for remark in _remarks(results))]
    return "\n".join([*lines, *_growth(results), *_profile(results)])


def _rows(results: dict[str, Any]) -> Iterator[tuple[str, tuple[str, ...], bool | None]]:
    for name, spec in RATIOS.items():
        if name not in results:
            continue
        found = results[name]
        best = results.get("limits", {}).get(name, {}).get("at_best")
        if name == "mfu":
            best = found["layers_alone"]
        cells = (
            *(f"{found[key]:.2f}" for key in ("median", "min", "max")),
            f"{found['n']:.0f}",
            found.get("target", ""),
            "" if best is None else f"{best:.2f}",
        )
        yield spec.label, cells, found.get("met")


def _remarks(results: dict[str, Any]) -> Iterator[str]:
    if results.get("settings", {}).get("quick"):
        yield "--quick: a smaller workload than the targets are for."
    if results.get("workload", {}).get("task") not in (None, "sst2"):
        yield f"Task {results['workload']['task']}: the data of sst2 was not at hand."
    coarse = results.get("scoring_bf16_vs_naive", {})
    if "label_agreement" in coarse:
        yield (
            f"bf16: the labels agree with fp32 in {coarse['label_agreement']:.1%} of "
            f"{coarse['labels_compared']}; {coarse['what']}."
        )
    for name, check in results.get("checks", {}).items():
        verdict = "" if check["equal"] else f", MORE than the {check['allowed']:g} allowed"
        yield f"{name}: largest difference {check['largest_difference']:.2g}{verdict}."
    if (memory := results.get("peak_memory_vs_three_copies")) is not None:
        mib = memory["mib"]
        yield (
            f"Peak of a step above the bare imports: {mib['ours_net']} MiB, three copies "
            f"{mib['three_copies_net']} MiB, the weights once {mib['weights_once']} MiB."
        )
    if (startup := results.get("startup")) is not None:
        yield (
            f"Start: --help {startup['help_above_python']['median']:.2f} s above a bare "
            f"interpreter; the model loads in {startup['load_model']['median']:.2f} s."
        )
    yield (
        "At best: only necessary work, at the speed of a large matrix multiply; for the share of "
        "the ceiling, what the model's linear layers reach by themselves."
    )


def _growth(results: dict[str, Any]) -> Iterator[str]:
    growth = results.get("growth")
    if growth is None:
        return
    yield ""
    yield "| growing | | ours, s | naive, s | ratio | share of the ceiling |"
    yield "|---|---|---|---|---|---|"
    for over, points in growth.items():
        if over == "what":
            continue
        for point in points:
            yield (
                f"| {over.replace('_', ' ')} | {point[over]} | {point['ours_seconds']:.2f} "
                f"| {point['naive_seconds']:.2f} | {point['ratio']:.1f} "
                f"| {point['utilisation']:.2f} |"
            )
    yield ""
    yield f"Growth: {growth['what']}."


def _profile(results: dict[str, Any]) -> Iterator[str]:
    for name, title in (("profile", "a step"), ("profile_naive", "the naive step")):
        if name in results:
            parts = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in results[name].items())
            yield ""
            yield f"Seconds of {title}: {parts}."
