"""One calm view of a run on a terminal: a few lines that are drawn again while it goes on."""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from stableprompt.cli.amounts import BARS, PLAIN_BARS, dollars, duration, sparkline
from stableprompt.cli.reporting import ConsoleObserver, alarms_of, spaced
from stableprompt.cli.terminal import on_one_line, printable
from stableprompt.runs.folder import STEPS, RunFolder

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from stableprompt.tuning.records import StepRecord

PER_SECOND: Final = 4
_STOPPING: Final = "finishing the step; once more to stop at once"
_SHOW_CURSOR: Final = b"\x1b[?25h\n"
_SPARKS: Final = 30
_BAR: Final = 44
_NAMES: Final = 8  # characters before what a line says
_SPINNER: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_PLAIN_SPINNER: Final = "-\\|/"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a run will not exceed; None: nobody knows, or there is no limit."""

    calls: int | None = None
    """Of the target: the limit, or fewer where the run cannot make as many."""
    dollars: float | None = None
    seconds: float | None = None


class LiveView(ConsoleObserver):
    """Draws how a run goes; notes and alarms stand above it as lines.

    A context: outside it nothing is drawn. It can also wait for anything else, with ``on_phase``.

    Args:
        console: A terminal on which lines can be drawn again.
        clock: Seconds.
    """

    def __init__(self, console: "Console", clock: Callable[[], float] = time.monotonic) -> None:
        from rich.live import Live  # takes longer to load than typer

        super().__init__(console)
        self._clock = clock
        self._folder: Path | None = None
        self._bounds: Callable[[], Bounds] = Bounds
        self._known = Bounds()
        self._began = self._since = self._first_at = clock()
        self._first = self._done = 0
        self._phase = "starting"
        self._in_loop = self._stopping = self._over = False
        self._last: Mapping[str, Any] = {}
        self._calls = 0
        self._dollars: float | None = None
        self._rewards: list[float] = []
        self._decisions: Counter[str] = Counter()
        self._decided = ""
        self._live = Live(
            console=console,
            get_renderable=self._draw,
            refresh_per_second=PER_SECOND,
            redirect_stderr=sys.stderr.isatty(),  # else it is somebody's file
        )

    def of_run(self, folder: Path, bounds: Callable[[], Bounds]) -> None:
        """Say which run it is; the bounds are asked for when its loop begins."""
        self._folder, self._bounds = folder, bounds

    def __enter__(self) -> Self:
        self._began = self._since = self._clock()
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._live.transient = not self._steps  # a view that says nothing is not left behind
        self._live.stop()

    def tell_stopping(self) -> None:
        """Say that the step is being finished, with the next drawing."""
        self._stopping = True

    def leave(self) -> None:
        """Give the cursor back at once."""
        with suppress(OSError, ValueError):
            os.write(self._console.file.fileno(), _SHOW_CURSOR)

    def on_start(self, first_step: int, steps: int) -> None:
        """Begin with the first step; of a resumed run the steps before it are read."""
        super().on_start(first_step, steps)
        if first_step and self._folder is not None:
            for step in RunFolder(self._folder).read_lines(STEPS):
                self._take(step)
        self._known = self._bounds()
        self._first = self._done = first_step
        self._in_loop = first_step < steps
        self._first_at = self._since = self._clock()
        self._draw_now()

    def on_phase(self, phase: str) -> None:
        """Something else begins; the loop is over, if there was one."""
        self._phase, self._in_loop, self._since = phase, False, self._clock()
        self._draw_now()

    def on_step(self, record: "StepRecord") -> None:
        """Take over its figures; alarms stay above the view."""
        if alarms := alarms_of(record):
            self._console.print(f"step {record.step + 1} monitor: {alarms}")
        self._take(asdict(record))
        self._done = record.step + 1
        self._in_loop = self._done < self._steps
        self._since = self._clock()
        self._draw_now()

    def _draw_now(self) -> None:
        """What has just begun is shown, however soon it is over."""
        if self._live.is_started:
            self._live.refresh()

    def on_calls(self, calls: int, dollars: float | None) -> None:
        """Take them over, for the next drawing."""
        self._calls, self._dollars = calls, dollars

    def _take(self, step: Mapping[str, Any]) -> None:
        self._last = step
        self._calls, self._dollars = step["target_calls"], step["dollars"]
        if step["mean_reward"] is not None:
            self._rewards.append(step["mean_reward"])
        if anchor := step["anchor"]:
            self._decisions[anchor["decision"]] += 1
            self._decided = f"{spaced(anchor['decision'])} after step {step['step'] + 1}"

    def _draw(self) -> "RenderableType":
        from rich.console import Group

        rows = [self._steps_made(), *map(self._row, self._figures())] if self._steps else []
        return Group(*([] if self._over else [self._status()]), *rows)

    def _row(self, row: tuple[str, str]) -> "Text":
        """A line that is cut where the terminal ends."""
        from rich.text import Text

        name, told = row
        line = Text(no_wrap=True, overflow="ellipsis")
        return line.append(f"{name:<{_NAMES}}", "dim").append(printable(told, keep=""))

    def _status(self) -> "Text":
        """What is being done, and that something is."""
        from rich.text import Text

        now = self._clock()
        frames = _PLAIN_SPINNER if self._ascii else _SPINNER
        frame = frames[int((now - self._began) * PER_SECOND) % len(frames)]
        doing = f"step {self._done + 1} of {self._steps}" if self._in_loop else self._phase
        told = f"{frame} {on_one_line(doing)}, {duration(now - self._since)}"
        told += f"  ({_STOPPING})" if self._stopping else ""
        return Text(told, "bold", no_wrap=True, overflow="ellipsis")

    def _steps_made(self) -> "RenderableType":
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        total, made = self._steps, self._done
        bar = Table.grid()
        bar.add_row(
            self._row(("steps", "")),
            ProgressBar(total=total, completed=made, width=_BAR, complete_style="green"),
            f"  {made}/{total}",
        )
        return bar

    def _figures(self) -> Iterator[tuple[str, str]]:
        """Name and content of each line."""
        if self._last:
            yield "reward", self._reward()
            yield "leader", on_one_line(self._last["best_prompt"] or "none yet")
            if anchor := self._anchor():
                yield "anchor", anchor
        yield "calls", self._spent()
        yield "time", self._time()

    def _reward(self) -> str:
        last = self._last
        parts = []
        for name, key in (
            ("mean", "mean_reward"),
            ("best", "best_reward"),
            ("seed", "seed_reward"),
        ):
            figure = last[key]
            parts.append(f"{name} -" if figure is None else f"{name} {figure:+.3f}")
        line = sparkline(self._rewards, _SPARKS, PLAIN_BARS if self._ascii else BARS)
        return "  ".join((*parts, line))

    def _anchor(self) -> str:
        """The last decision, how many there were, and how far the policy is from the anchor."""
        parts = []
        if self._decided:
            counts = ", ".join(f"{self._decisions[d]} {spaced(d)}" for d in ("update", "roll_back"))
            parts.append(f"{self._decided}; so far {counts}")
        if update := self._last["update"]:
            parts.append(f"KL {update['anchor_kl']:.3f}")
        return "; ".join(parts)

    def _spent(self) -> str:
        calls, most = self._calls, self._known.calls
        told = f"{calls} of at most {most} ({calls / most:.0%})" if most else f"{calls} so far"
        spent, limit = self._dollars, self._known.dollars
        if limit is not None:
            return f"{told}; ${dollars(spent or 0.0)} of ${dollars(limit)}"
        return f"{told}; ${dollars(spent)}" if spent else told

    def _time(self) -> str:
        now, made = self._clock(), self._done - self._first
        told = duration(now - self._began)
        if (limit := self._known.seconds) is not None:
            told += f" (limit {duration(limit)})"
        if self._in_loop and made and not self._over:
            each = (self._since - self._first_at) / made
            # A step that is late takes none of the time of those after it.
            of_this = max(0.0, each - (now - self._since))
            left = of_this + each * (self._steps - self._done - 1)
            told += f"; steps done in about {duration(left)}" if left >= 1 else "; a slow last step"
        return told

    @property
    def _ascii(self) -> bool:
        return self._console.options.ascii_only
