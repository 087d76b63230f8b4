"""``stableprompt watch``: the page of a run while it goes on."""

from contextlib import suppress
from typing import Annotated

import typer

from stableprompt.cli.report import RunDirs
from stableprompt.cli.reporting import one_line_errors
from stableprompt.cli.terminal import say


@one_line_errors
def command(
    run_dirs: RunDirs,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes a free one.")
    ] = 0,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Serve the page of a run on this machine while the run goes on.

    Example: stableprompt watch runs/support-20260131-101500
    """
    from stableprompt.reporting.live import LiveServer  # loads pydantic and jinja2

    with LiveServer(run_dirs, port) as server, suppress(KeyboardInterrupt):
        say(f"{server.address}  (this machine only; Ctrl-C ends it)")
        if show:
            typer.launch(server.address)
        server.serve_forever()
