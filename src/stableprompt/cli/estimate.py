"""``stableprompt estimate``: what a run would cost, before it costs anything."""

from typing import TYPE_CHECKING, Final

from stableprompt.cli.amounts import dollars, duration
from stableprompt.cli.terminal import on_one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from stableprompt.estimating import RunEstimate

_GIGABYTE: Final = 1e9


def print_estimate(console: "Console", estimate: "RunEstimate") -> None:
    """Calls and tokens by phase; then dollars, time, memory, and what they rest on."""
    from rich.table import Table

    calls = Table(title="Estimate", title_justify="left", pad_edge=False)
    calls.add_column("target calls", style="bold", no_wrap=True)
    for name in ("at most", "expected", "tokens read", "written"):
        calls.add_column(name, justify="right")
    for name, phase in estimate.phases.items():
        calls.add_row(name, *map(str, (phase.at_most, phase.calls, phase.read, phase.written)))
    calls.add_section()
    whole = (estimate.at_most, estimate.calls, estimate.read, estimate.written)
    calls.add_row("in all", *map(str, whole))
    console.print(calls)
    facts = Table(show_header=False, pad_edge=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, told in _facts(estimate):
        facts.add_row(name, told)
    console.print(facts)


def _facts(estimate: "RunEstimate") -> "Iterator[tuple[str, str]]":
    yield "dollars", dollars(estimate.dollars)
    yield "time", _time(estimate)
    where = "by tensors on the GPU" if estimate.device == "cuda" else "by this process"
    yield (
        "memory",
        f"{_gigabytes(estimate.weights)} of weights; {_gigabytes(estimate.peak)} used at most "
        f"{where} so far",
    )
    yield "steps", _steps(estimate)
    probe = estimate.probe
    if probe.written:
        learned = f", {duration(probe.update_seconds)} to learn" if probe.update_seconds else ""
        yield (
            "one step",
            f"{probe.written} prompts written, {probe.refused} refused, {probe.different} "
            f"different ones left; {duration(probe.writing_seconds)} to write{learned}",
        )
    for note in estimate.notes:
        yield "note", on_one_line(note)
    for warning in estimate.warnings:
        yield "warning", warning


def _time(estimate: "RunEstimate") -> str:
    here = f"about {duration(estimate.seconds)} on this machine ({estimate.device})"
    if not estimate.target_elsewhere:
        return f"{here}, {duration(estimate.target_seconds or 0.0)} of it for the target"
    if estimate.target_seconds is None:
        return f"{here}; how long the target takes on top is not known before it is asked"
    return f"{here}, and at its pace {duration(estimate.target_seconds)} at least for the target"


def _steps(estimate: "RunEstimate") -> str:
    if not estimate.steps:
        return "none"
    learned = f"{estimate.updates} policy updates" if estimate.updates else "nothing is learned"
    return f"{estimate.steps}; {learned}"


def _gigabytes(size: int) -> str:
    return f"{size / _GIGABYTE:.2g} GB"
