"""What a whole run may cost, in calls, tokens, dollars and seconds; looked at before each call."""

import math
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from stableprompt.errors import StablePromptError
from stableprompt.llm_config import LimitsConfig
from stableprompt.scoring.ledger import Ledger, Price, Purpose

_WARNED_AT: Final = (0.5, 0.8)


class LimitReached(StablePromptError):
    """A limit of the run leaves no room for the next call; what was answered before is known."""


class Listener(Protocol):
    """Who is told what a run has cost so far."""

    def on_note(self, note: str) -> None:
        """A half or four fifths of a limit are used up, or a call failed for good."""

    def on_calls(self, calls: int, dollars: float | None) -> None:
        """So many target calls were made, and cost so much; None: nobody knows a price."""


class Unheard:
    """The listener of a run that nobody watches."""

    def on_note(self, note: str) -> None:
        """Ignore."""

    def on_calls(self, calls: int, dollars: float | None) -> None:
        """Ignore."""


class Limits:
    """Turns limits of all kinds into calls that may still be made.

    Tokens, dollars and seconds of a call are those of the calls so far, on average. Before the
    first one nothing is known, and one portion is sent.

    A judge's tokens count with those of the calls that it rates.

    Args:
        config: The limits.
        price: Of the target's tokens; None: unknown.
        judge_price: Of the judge's; None: unknown, or there is none.
        kept: Calls to keep free for the final reading of test.
        selection: Calls that training keeps free for the choice of the prompt, too.
        listener: Told what was used up.
        clock: Seconds.

    Attributes:
        waited: Seconds that calls took so far; the rest of the time goes to the agent.
        steps: Made so far.
        agree: Takes what this process decides, gives what the first one does: they have clocks of
            their own.
    """

    def __init__(
        self,
        config: LimitsConfig,
        price: Price | None = None,
        *,
        judge_price: Price | None = None,
        kept: int = 0,
        selection: int = 0,
        listener: Listener | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self.kept = config, kept
        self.price, self.judge_price = price, judge_price
        self.selection = selection
        self.listener = listener or Unheard()
        self._clock, self._started = clock, clock()
        self.waited = 0.0
        self.steps = 0
        self.agree: Callable[[Any], Any] = lambda mine: mine
        self._warned: dict[str, float] = {}

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return any(limit is not None for limit in self._config.model_dump().values())

    @property
    def seconds(self) -> float:
        """Since the run began, earlier attempts of a resumed one among them."""
        return self._clock() - self._started

    def start_from(self, seconds: float, *, waited: float = 0.0) -> None:
        """Count what earlier attempts took."""
        self._started = self._clock() - seconds
        self.waited = waited

    def dollars(self, ledger: Ledger) -> float | None:
        """What was spent; None where nobody knows the price of what was asked."""
        if self.price is None or (ledger.judge_calls and self.judge_price is None):
            return None
        return ledger.dollars(self.price, self.judge_price)

    def time_for_step(self) -> bool:
        """Whether the agent's part of a step, as long as before on average, is left."""
        limit = self._config.max_seconds
        if limit is None or self.steps == 0:
            return True
        enough: bool = self.agree((self.seconds - self.waited) / self.steps <= limit - self.seconds)
        return enough

    def room(self, ledger: Ledger, purpose: Purpose) -> int | None:
        """Calls that may still be made for a purpose; None: any number."""
        kept = max(0, self.kept - ledger.target_calls[Purpose.TEST])  # what is read needs no room
        if purpose in (Purpose.TEST, Purpose.CURVE):
            kept = 0
        if purpose is Purpose.TRAINING:
            kept += self.selection
        calls = ledger.total_calls
        rooms = []
        for name, (limit, used) in self._used(ledger).items():
            # What the agent takes to write and to learn is not a matter of calls.
            whole = self.waited if name == "max_seconds" else used
            each = whole / calls if calls else 0.0
            if used >= limit:
                rooms.append(0)
            elif each > 0:
                # A hair of tolerance: 10 calls of 0.1 are 1.
                rooms.append(max(0, math.floor((limit - used) / each + 1e-9) - kept))
        if (most := self._config.max_target_calls) is not None:
            rooms.append(max(0, most - calls - kept))
        if not rooms:
            return None
        room: int = self.agree(min(rooms))
        return room

    def leaves(self, ledger: Ledger, purpose: Purpose, calls: int) -> bool:
        """Whether no limit can come between so many calls, so that they may be sent before they
        are counted; one in seconds always can."""
        if not self.any:
            return True
        room = self.room(ledger, purpose)
        known = ledger.total_calls > 0 and self._config.max_seconds is None
        # Twice: what tokens and dollars allow is known on average only.
        return known and room is not None and room >= 2 * calls

    def watch(self, ledger: Ledger) -> None:
        """Say what was asked, and when a half, and when four fifths of a limit are used up."""
        self.listener.on_calls(ledger.total_calls, self.dollars(ledger))
        used = self._used(ledger)
        if (most := self._config.max_target_calls) is not None:
            used["max_target_calls"] = (float(most), float(ledger.total_calls))
        for name, (limit, spent) in used.items():
            passed = max((share for share in _WARNED_AT if spent >= share * limit), default=0.0)
            if passed > self._warned.get(name, 0.0):
                self._warned[name] = passed
                self.listener.on_note(
                    f"{passed:.0%} of limits.{name} used: {spent:.6g} of {limit:.6g}"
                )

    def reached(self, ledger: Ledger) -> LimitReached:
        """The error for it."""
        used = self._used(ledger)
        if (most := self._config.max_target_calls) is not None:
            used = {"max_target_calls": (most, ledger.total_calls), **used}
        given = ", ".join(
            f"{name} {limit:g}, {spent:.4g} used" for name, (limit, spent) in used.items()
        )
        return LimitReached(
            f"a limit of the run ({given}) leaves too little for what is still to be asked, the "
            "reading of test among it; raise it and resume the run: what was answered is kept"
        )

    def _used(self, ledger: Ledger) -> dict[str, tuple[float, float]]:
        """Limit and what is used of it, by name."""
        used = {
            "max_tokens": (self._config.max_tokens, ledger.total_tokens + ledger.judge_tokens),
            "max_cost": (self._config.max_cost, ledger.dollars(self.price, self.judge_price)),
            "max_seconds": (self._config.max_seconds, self.seconds),
        }
        return {
            name: (float(limit), float(spent))
            for name, (limit, spent) in used.items()
            if limit is not None
        }
