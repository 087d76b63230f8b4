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
from stableprompt.cli.reporting import BAD_INPUT, one_line_errors
from stableprompt.cli.terminal import on_one_line, say
from stableprompt.errors import ConfigError
from stableprompt.launched import process_count
from stableprompt.version import __version__

_BUG = "-v shows the trace; if no function of your own raised it, it is a bug: please report it"
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
@one_line_errors
def options(
    context: typer.Context,
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Find the best prompt for an LLM that you cannot retrain."""
    several = process_count()
    if several > 1 and context.invoked_subcommand != "tune":
        raise ConfigError(
            f"`stableprompt {context.invoked_subcommand}` works in one process, it was launched "
            f"with {several}; start it without `accelerate launch`"
        )


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
    except Exception as error:  # what nobody foresaw; Exit, Abort and broken pipes do not come here
        sys.exit(_explain(error))
    finally:  # an impatient Ctrl-C while Python ends: no traceback of that
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _explain(error: Exception) -> int:
    """Say what happened on one line; the exit code."""
    if isinstance(error, OSError) and error.errno in _REFUSED:
        # What waits to be printed would be refused once more while Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        say(
            f"stableprompt: the output cannot be written ({error.strerror}); make room, or print "
            "elsewhere: what a run has finished is kept, and it can be resumed",
            to_stderr=True,
        )
        return BAD_INPUT
    told = f"stableprompt: unexpected {type(error).__name__}: {error}"
    say(f"{on_one_line(told)} ({_BUG})", to_stderr=True)
    return 1
