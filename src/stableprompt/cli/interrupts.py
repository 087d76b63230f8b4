"""Ctrl-C and SIGTERM while a run goes on: the first lets it finish its step, the second does not.

The handlers are in place only inside the block, and only for the command line: the library sets
none, and asks its observer between two steps.
"""

import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from stableprompt.launched import process_number

if TYPE_CHECKING:
    from stableprompt.tuning.records import Observer, StepRecord

_LOG: Final = logging.getLogger(__name__)
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_TOLD: Final = b"\nfinishing the step; once more to stop at once\n"
_HOPELESS: Final = 3  # signals


class Screen(Protocol):
    """What is drawn on the terminal meanwhile. Called by signal handlers: nothing may wait."""

    def tell_stopping(self) -> None:
        """Say that the step is being finished."""

    def leave(self) -> None:
        """Make the terminal usable: the process ends at once."""


class Interrupts:
    """What to do about signals, as a block.

    The first signal in a step asks the run to stop after it. A second one, or one when no step is
    under way, raises ``KeyboardInterrupt``. A third one ends the process: whatever hangs, nothing
    is lost by it.

    Args:
        screen: Says it, where one is drawn; a line on stderr would tear it.
    """

    def __init__(self, screen: Screen | None = None) -> None:
        self._screen = screen
        self.exit_code = 128 + signal.SIGINT
        """By the last signal, as shells count."""
        self._seen = 0
        self._in_step = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # others may set no handlers
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def watched(self, observer: "Observer") -> "Observer":
        """An observer that passes all on to this one, and stops the run where it is asked to."""
        return _Watched(observer, self)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.exit_code = 128 + number
        self._seen += 1
        if self._seen >= _HOPELESS:
            if self._screen is not None:
                self._screen.leave()
            os._exit(self.exit_code)
        if self._seen > 1 or not self._in_step:
            sys.unraisablehook = _left_half_made  # to the end of the command, which is near
            raise KeyboardInterrupt
        if self._screen is not None:
            self._screen.tell_stopping()
        elif process_number() == 0:
            os.write(2, _TOLD)  # not print: what was interrupted may be printing just now

    @property
    def asked(self) -> bool:
        """Whether there was a signal."""
        return self._seen > 0

    def step_begins(self, begins: bool) -> None:
        """Say whether a step is under way from now on, which is worth to be finished."""
        self._in_step = begins


def _left_half_made(complaint: "sys.UnraisableHookArgs") -> None:
    """Objects that a signal found half made complain when they go; nobody can act on that."""
    kind, value, trace = complaint.exc_type, complaint.exc_value, complaint.exc_traceback
    if value is not None:
        _LOG.debug("after the interruption: %r", complaint.object, exc_info=(kind, value, trace))


class _Watched:
    """Passes on what it hears, and knows when a step is under way."""

    def __init__(self, observer: "Observer", interrupts: Interrupts) -> None:
        self._observer, self._interrupts = observer, interrupts

    def on_start(self, first_step: int, steps: int) -> None:
        """The loop begins."""
        self._interrupts.step_begins(first_step < steps)
        self._observer.on_start(first_step, steps)

    def on_step(self, record: "StepRecord") -> None:
        """A step is done."""
        self._observer.on_step(record)

    def on_phase(self, phase: str) -> None:
        """The loop is over, or has not begun: nothing that is kept comes of waiting."""
        self._interrupts.step_begins(False)
        if self._interrupts.asked:  # it came when the last step was over already
            raise KeyboardInterrupt
        self._observer.on_phase(phase)

    def on_note(self, note: str) -> None:
        """Pass on."""
        self._observer.on_note(note)

    def on_calls(self, calls: int, dollars: float | None) -> None:
        """Pass on."""
        self._observer.on_calls(calls, dollars)

    def stop_asked(self) -> bool:
        """Whether there was a signal."""
        return self._interrupts.asked or self._observer.stop_asked()
