"""How a run is told: lines or a live view for a person, the prompt alone or JSON for a program."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from stableprompt.cli.estimate import print_estimate
from stableprompt.cli.interrupts import Screen
from stableprompt.cli.live import Bounds, LiveView
from stableprompt.cli.plan import print_plan
from stableprompt.cli.reporting import (
    ConsoleObserver,
    figure,
    print_summary,
    spaced,
    trivial_name,
    verdict,
)
from stableprompt.cli.terminal import (
    can_redraw,
    hand_over,
    hand_over_json,
    make_console,
    on_one_line,
    say,
)
from stableprompt.errors import ConfigError
from stableprompt.launched import process_number
from stableprompt.runs.folder import TIMING, RunFolder

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from stableprompt.estimating import RunEstimate
    from stableprompt.planning.plan import RunPlan
    from stableprompt.tasks.splits import SplitName
    from stableprompt.tasks.statistics import Estimate
    from stableprompt.tasks.task import Task
    from stableprompt.tuning.records import Observer, StepRecord, TuneResult

_OF_RESULT: Final = (
    "prompt",
    "instruction",
    "seed_prompt",
    "method",
    "seed",
    "improved",
    "flagged",
    "readable",
    "test",
    "seed_test",
    "paired",
    "validation",
    "seed_validation",
    "trivial_score",
    "target_calls",
    "cost",
    "candidates",
    "anchor_decisions",
    "alarms",
    "collapsed",
)


class Voice(Protocol):
    """Tells a run, or what it would cost."""

    @property
    def screen(self) -> Screen | None:
        """What is drawn on the terminal while a run goes on."""

    def introduce(self, task: "Task") -> None:
        """Say what is tuned for."""

    def telling(
        self, folder: Path, bounds: Callable[[], Bounds]
    ) -> "AbstractContextManager[Observer]":
        """Whom to tell how a run goes, as long as it does.

        Args:
            folder: Where the run is.
            bounds: Asked, where they are shown, when the loop begins.
        """

    def finish(self, result: "TuneResult") -> None:
        """Say what came out."""

    def estimating(self) -> "AbstractContextManager[Observer]":
        """Whom to tell what takes a while before there is an estimate."""

    def show_estimate(self, estimate: "RunEstimate") -> None:
        """Say what a run would cost."""

    def show_plan(self, plan: "RunPlan") -> None:
        """Say what a run would take on machines that are not here."""

    def scoring(self) -> "AbstractContextManager[Observer]":
        """Whom to tell what takes a while before a prompt's score is known."""

    def show_score(self, score: "Estimate", task: "Task", split: "SplitName") -> None:
        """Say what a prompt's score is."""


def choose_voice(*, quiet: bool, as_json: bool) -> Voice:
    """The voice that is asked for; for a person a live view where the terminal can show one.

    Of several processes that share a run the first one speaks for all.

    Raises:
        ConfigError: two of them are asked for.
    """
    if quiet and as_json:
        raise ConfigError("--quiet and --json are two ways to be brief; give one of them")
    if process_number() > 0:
        return Nobody()
    if as_json:
        return Json()
    return Quiet() if quiet else ForPeople()


class ForPeople:
    """Plain lines, or a live view; at the end a summary."""

    def __init__(self) -> None:
        self._console = make_console()
        self._view = LiveView(self._console) if can_redraw() else None

    @property
    def screen(self) -> Screen | None:
        """The live view, if there is one."""
        return self._view

    def introduce(self, task: "Task") -> None:
        """Task, sizes, labels, and what was done to the data."""
        parts = task.splits
        numbers = f"{len(parts.train)} train, {len(parts.validation)} validation"
        sizes = f"{numbers}, {len(parts.test)} test"
        kind, name = spaced(task.kind), on_one_line(task.name)
        self._console.print(f"task {name}: {kind}, {task.metric.name}; {sizes}")
        if task.labels:
            self._console.print(f"labels: {on_one_line(', '.join(task.labels))}")
        for note in task.notes:
            self._console.print(f"note: {on_one_line(note)}")

    def telling(
        self, folder: Path, bounds: Callable[[], Bounds]
    ) -> "AbstractContextManager[Observer]":
        """A line a step; or the view."""
        self._console.print(f"run folder: {folder}")
        if self._view is None:
            return nullcontext(ConsoleObserver(self._console))
        self._view.of_run(folder, bounds)
        return self._view

    def finish(self, result: "TuneResult") -> None:
        """A table of all figures."""
        print_summary(self._console, result)

    def estimating(self) -> "AbstractContextManager[Observer]":
        """The view; or lines on stderr, where they are not in the way of the estimate."""
        if self._view is None:
            say(
                "estimating: this loads the models and may try a step, up to minutes",
                to_stderr=True,
            )
            return nullcontext(ConsoleObserver(make_console(stderr=True)))
        return self._view

    def show_estimate(self, estimate: "RunEstimate") -> None:
        """Two tables."""
        print_estimate(self._console, estimate)

    def show_plan(self, plan: "RunPlan") -> None:
        """More tables."""
        print_plan(self._console, plan)

    def scoring(self) -> "AbstractContextManager[Observer]":
        """Lines."""
        return nullcontext(ConsoleObserver(self._console))

    def show_score(self, score: "Estimate", task: "Task", split: "SplitName") -> None:
        """With its interval, beside that of the best trivial answer."""
        self._console.print(f"{score.metric} on {split}: {figure(score)}")
        if (trivial := task.trivial_score(split)) is not None:
            near = "; the prompt is not clearly above it" if score.low <= trivial else ""
            self._console.print(f"{trivial_name(task.kind)}: {trivial:.3f}{near}")


class _ForPrograms:
    """Nothing but what was asked for comes to stdout; what others print there goes to stderr."""

    screen: Screen | None = None

    def introduce(self, task: "Task") -> None:
        """Say nothing."""

    @contextmanager
    def telling(self, folder: Path, bounds: Callable[[], Bounds]) -> "Iterator[Observer]":
        """Nobody."""
        from stableprompt.tuning.records import Silence  # loads numpy

        with redirect_stdout(sys.stderr):
            yield Silence()

    def estimating(self) -> "AbstractContextManager[Observer]":
        """Nobody."""
        return self.telling(Path(), Bounds)

    def scoring(self) -> "AbstractContextManager[Observer]":
        """As for a run."""
        return self.telling(Path(), Bounds)


class Quiet(_ForPrograms):
    """The prompt on stdout, as it is; one line on stderr."""

    def finish(self, result: "TuneResult") -> None:
        """The prompt, for a program; for a person where the rest is, and the verdict."""
        hand_over(result.prompt)
        say(on_one_line(f"{result.run_dir}: {verdict(result)}"), to_stderr=True)

    def show_estimate(self, estimate: "RunEstimate") -> None:
        """The tables: they were asked for."""
        print_estimate(make_console(), estimate)

    def show_plan(self, plan: "RunPlan") -> None:
        """The tables: they were asked for."""
        print_plan(make_console(), plan)

    def show_score(self, score: "Estimate", task: "Task", split: "SplitName") -> None:
        """The number alone."""
        hand_over(f"{score.score:.6g}")


class Nobody(_ForPrograms):
    """Of a process that shares a run: the first one speaks for all."""

    def finish(self, result: "TuneResult") -> None:
        """Say nothing."""

    def show_estimate(self, estimate: "RunEstimate") -> None:
        """Say nothing."""

    def show_plan(self, plan: "RunPlan") -> None:
        """Say nothing."""

    def show_score(self, score: "Estimate", task: "Task", split: "SplitName") -> None:
        """Say nothing."""


class Json(_ForPrograms):
    """One JSON object a line on stdout for each event; docs/guides/scripts.md has them."""

    def introduce(self, task: "Task") -> None:
        """What was done to the data."""
        for note in task.notes:
            hand_over_json({"event": "note", "note": note})

    @contextmanager
    def telling(self, folder: Path, bounds: Callable[[], Bounds]) -> "Iterator[Observer]":
        """A line an event."""
        events = _JsonEvents(folder)
        with redirect_stdout(sys.stderr):
            yield events

    def finish(self, result: "TuneResult") -> None:
        """The main figures of ``result.json``, the verdict and the time."""
        content = result.to_dict()
        figures = {name: content[name] for name in _OF_RESULT}
        seconds = RunFolder(result.run_dir).read_json(TIMING).get("seconds")
        told = {"verdict": verdict(result), "seconds": seconds, "run_dir": str(result.run_dir)}
        hand_over_json({"event": "result", **figures, **told})

    def show_estimate(self, estimate: "RunEstimate") -> None:
        """All of it."""
        hand_over_json({"event": "estimate", **estimate.to_dict()})

    def show_plan(self, plan: "RunPlan") -> None:
        """All of it."""
        hand_over_json({"event": "plan", **plan.to_dict()})

    def show_score(self, score: "Estimate", task: "Task", split: "SplitName") -> None:
        """Score, interval and n, and what the best trivial answer scores."""
        trivial = task.trivial_score(split)
        told = {"split": split, **asdict(score), "trivial_score": trivial}
        hand_over_json({"event": "score", **told})


class _JsonEvents:
    """An observer that writes what it hears as JSON to what is stdout when it is made."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._stdout = folder, sys.stdout

    def on_start(self, first_step: int, steps: int) -> None:
        """Where the loop begins."""
        self._tell("start", run_dir=str(self._folder), first_step=first_step, steps=steps)

    def on_phase(self, phase: str) -> None:
        """What begins."""
        self._tell("phase", phase=phase)

    def on_note(self, note: str) -> None:
        """What was done to the data, or should be known."""
        self._tell("note", note=note)

    def on_step(self, record: "StepRecord") -> None:
        """The line of ``steps.jsonl``."""
        self._tell("step", **asdict(record))

    def on_calls(self, calls: int, dollars: float | None) -> None:
        """Say nothing: steps and result have them."""

    def stop_asked(self) -> bool:
        """Go on; interrupts are another's."""
        return False

    def _tell(self, event: str, **content: Any) -> None:
        hand_over_json({"event": event, **content}, self._stdout)
