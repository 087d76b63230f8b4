"""``stableprompt report``: a run, or several side by side, as one page."""

from pathlib import Path
from typing import Annotated

import typer

from stableprompt.cli.reporting import one_line_errors
from stableprompt.cli.terminal import say

RunDirs = Annotated[
    list[Path], typer.Argument(metavar="RUN_DIR", help="Run folders; several side by side.")
]


@one_line_errors
def command(
    run_dirs: RunDirs,
    out: Annotated[
        Path | None,
        typer.Option(help="The file; else report.html in the run folder, of several runs here."),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write a run, or several side by side, as one page that opens anywhere.

    Example: stableprompt report runs/support-20260131-101500
    """
    from stableprompt.reporting.writing import REPORT, write_report  # loads pydantic and jinja2

    place = out or (run_dirs[0] if len(run_dirs) == 1 else Path()) / REPORT
    write_report(run_dirs, place)
    say(f"report: {place}")
    if show:
        typer.launch(place.resolve().as_uri())
