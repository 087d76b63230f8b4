"""A run from its beginning to what came out, told by a voice; it can be interrupted."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from stableprompt.cli.interrupts import Interrupts
from stableprompt.cli.live import Bounds
from stableprompt.cli.terminal import say
from stableprompt.cli.voices import Voice
from stableprompt.errors import RunStopped, TargetError
from stableprompt.launched import process_number
from stableprompt.runs.folder import CONFIG, RESULT
from stableprompt.trackers import Trackers

if TYPE_CHECKING:
    from stableprompt.config import TuneConfig
    from stableprompt.tasks.task import Task
    from stableprompt.tuning.records import Observer, TuneResult

Run = Callable[[Any, "Observer"], "TuneResult"]
"""Makes a run with the module ``build``, which takes long to load, and tells an observer."""


def run_and_tell(
    folder: Path,
    run: Run,
    voice: Voice,
    bounds: Callable[[], Bounds],
    report_to: Sequence[str] = (),
) -> None:
    """Run something in a folder, tell how it goes, and what came out.

    Args:
        folder: Where the run is, or will be.
        run: What is run.
        voice: Who tells it.
        bounds: What it will not exceed.
        report_to: Trackers.

    Raises:
        typer.Exit: it was interrupted; 128 and the signal, as shells count.
    """
    others = process_number() > 0  # the first of several processes speaks for all
    with Interrupts(voice.screen) as interrupts:
        try:
            with voice.telling(folder, bounds) as observer:
                # These import torch: only after all else was in order.
                from stableprompt import build
                from stableprompt.models.ranks import leave_others

                with Trackers(() if others else report_to, folder, observer) as trackers:
                    # Trackers read the folder, which the first process alone has.
                    result = run(build, interrupts.watched(observer if others else trackers))
                    trackers.finish(result)
                leave_others()
        except (KeyboardInterrupt, RunStopped) as interrupt:
            if not others:
                say("; ".join(filter(None, ("interrupted", _hint(folder)))), to_stderr=True)
            raise typer.Exit(interrupts.exit_code) from interrupt
        except TargetError as error:
            if "resume the run" in str(error) and (hint := _hint(folder)):
                error.add_note(hint)
            raise
    voice.finish(result)


def bounds_of(task: "Task", config: "TuneConfig") -> Bounds:
    """What a run will not exceed, by its settings."""
    from stableprompt.tuning.forecast import most_calls  # loads torch

    limits = config.limits
    return Bounds(most_calls(task, config).total, limits.max_cost, limits.max_seconds)


def _hint(folder: Path) -> str:
    """How to go on; "" where there is nothing yet."""
    if (folder / RESULT).is_file():
        return f"the run is finished: {folder / RESULT}"
    resumable = (folder / CONFIG).is_file()
    command = f"stableprompt tune --resume {shlex.quote(str(folder))}"
    return f"continue with: {command}" if resumable else ""
