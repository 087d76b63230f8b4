"""The command line: one file a command.

What takes long to load is imported by the command that needs it, when it is run: help, listings
and the completion of a shell answer at once.
"""

import errno
import io
import os
import signal
import sys
from typing import Final

import typer

from stableprompt.cli import compare, doctor, evaluate, export, report, tasks, tune, watch, write
from stableprompt.cli.absent import Command, Group
from stableprompt.cli.reporting import BAD_INPUT
from stableprompt.cli.terminal import say
from stableprompt.version import __version__

# By the disk that the output goes to.
_REFUSED: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

app = typer.Typer(
    name="stableprompt",
    cls=Group,
    help="Find the best prompt for an LLM that you cannot retrain.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.command("tune", cls=tune.TuneCommand)(tune.command)
app.command("estimate", cls=tune.TuneCommand)(tune.estimate)
app.command("write", cls=Command)(write.command)
app.command("evaluate", cls=Command)(evaluate.command)
app.command("report", cls=Command)(report.command)
app.command("watch", cls=Command)(watch.command)
app.command("export", cls=Command)(export.command)
app.command("compare", cls=compare.ListCommand)(compare.command)
app.command("tasks", cls=Command)(tasks.command)
app.command("doctor", cls=Command)(doctor.command)


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"stableprompt {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Find the best prompt for an LLM that you cannot retrain."""


def main() -> None:
    """Entry point of the ``stableprompt`` program."""
    # Read when torch is loaded, later. Threads that spin long while they wait starve each other
    # as soon as something else runs on the machine; those that never spin are slow on a quiet one.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    for stream in (sys.stdout, sys.stderr):  # a terminal without UTF-8 shows question marks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app(prog_name="stableprompt")  # python -m stableprompt is the same program
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        # What waits to be printed would be refused once more while Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        say(
            f"stableprompt: the output cannot be written ({error.strerror}); make room, or print "
            "elsewhere: what a run has finished is kept, and it can be resumed",
            to_stderr=True,
        )
        sys.exit(BAD_INPUT)
    finally:  # an impatient Ctrl-C while Python ends: no traceback of that
        signal.signal(signal.SIGINT, signal.SIG_DFL)
