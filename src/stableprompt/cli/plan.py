"""``stableprompt estimate --on``: what a run would take on machines that are not here."""

from typing import TYPE_CHECKING, Final

from stableprompt.cli.amounts import dollars, duration
from stableprompt.cli.terminal import on_one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.table import Table

    from stableprompt.planning.plan import RunPlan
    from stableprompt.scaling.memory import Memory

_GIGABYTE: Final = 1e9
_BILLION: Final = 1e9


def print_plan(console: "Console", plan: "RunPlan") -> None:
    """Calls and tokens, time and what limits it, memory of each kind of device, dollars."""
    calls = _table("Plan", "target calls", ("expected", "tokens read", "written"))
    for name, made in plan.calls.items():
        usage = plan.tokens[name]
        calls.add_row(name, str(made), str(usage.read), str(usage.written))
    console.print(calls)
    times = _table(None, "time", ("takes",))
    times.add_column("most of it", overflow="fold")
    for name, part in plan.seconds.items():
        most = max(part, key=lambda one: part[one])
        takes = sum(part.values())
        times.add_row(name, duration(takes), f"{most} ({part[most] / takes:.0%})")
    times.add_section()
    longest, limit = plan.bottleneck
    times.add_row("in all", duration(plan.total_seconds), f"bottleneck: {longest}, {limit}")
    console.print(times)
    for memory in plan.memory:
        console.print(_memory(memory))
    facts = _table(None, None, ())
    facts.add_column(overflow="fold")
    for name, told in _facts(plan):
        facts.add_row(name, told)
    console.print(facts)


def _table(title: str | None, first: str | None, columns: tuple[str, ...]) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left", pad_edge=False, show_header=first is not None)
    table.add_column(first or "", style="bold", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _memory(memory: "Memory") -> "Table":
    table = _table(None, f"memory of one {memory.device}", ("GB",))
    for name, size in memory.lasting.items():
        table.add_row(name, _gigabytes(size))
    for name, size in memory.passing.items():
        table.add_row(f"while {name}", _gigabytes(size))
    table.add_row("driver, gaps between blocks", _gigabytes(memory.held_back))
    table.add_section()
    fits = "fits" if memory.fits else "DOES NOT FIT"
    of = f"{_gigabytes(memory.needed)} of {_gigabytes(memory.size)}"
    table.add_row(f"at the peak: {fits}", of)
    return table


def _facts(plan: "RunPlan") -> "Iterator[tuple[str, str]]":
    target = plan.target_parameters
    size = "unknown" if target is None else _billions(target)
    yield "models", f"agent {_billions(plan.agent_parameters)}, target {size}"
    yield "steps", str(plan.steps)
    if plan.rows_at_once is not None:
        found = f"{plan.rows_at_once} prompts at once on a device"
        yield "learning", found if plan.rows_at_once else "not even one prompt at a time fits"
    yield (
        "dollars",
        f"{dollars(plan.machine_dollars)} for machines; "
        + (f"tokens {dollars(plan.token_dollars)}"),
    )
    for note in plan.notes:
        yield "note", on_one_line(note)


def _billions(parameters: int) -> str:
    return f"{parameters / _BILLION:.3g}B"


def _gigabytes(size: float) -> str:
    return f"{size / _GIGABYTE:.1f}"
