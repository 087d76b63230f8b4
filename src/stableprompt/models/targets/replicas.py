"""Several servers with the same target: which one takes the next call, and which is set aside.

All calls stand in one queue, and whoever has a free slot takes the next one: a fast replica takes
more. One that fails, or holds up the others, is set aside, and asked a small question after a
growing pause until it answers. Where none is left, calls go to those set aside: a single server
is never spared either.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

from stableprompt.errors import TargetError
from stableprompt.models.targets.failures import Down, MayPass, Refused

LONGEST_WAIT: Final = 300.0
"""Seconds that a server's Retry-After is waited for; it stops the run when it asks for more."""
_FIRST_PAUSE: Final = 1.0  # seconds
_SHORTEST_PAUSE: Final = 0.02  # where the settings want none: the loop must turn
_ENOUGH: Final = 3  # failures in a row; one alone may be a matter of the call
_LOOK: Final = 8  # answers between two looks at how fast it is
_SLOW: Final = 4.0  # times as long as the fastest: it holds up a portion of calls
_NO_MATTER: Final = 0.1  # seconds: nobody waits for less


class Replica:
    """One server: how much it does just now, and how well.

    Args:
        number: Its place in the list.
        name: Its address.
    """

    def __init__(self, number: int, name: str) -> None:
        self.number, self.name = number, name
        self.known = True
        """Whether it was found to be the same target as the others."""
        self.aside = False
        self.on_trial = False
        """Whether it has just come back: one call says whether it gets more."""
        self.busy = self.sent = self.times_aside = 0
        self.failures = 0
        """In a row."""
        self.not_before = 0.0
        """Of the loop's clock: when it wants to hear from us again."""
        self.pause = _FIRST_PAUSE
        """Seconds until it is asked again, the next time it is set aside."""
        self.mean: float | None = None
        """Seconds of a call, when it was last looked at."""
        self.heard: list[float] = []
        """Seconds of the answers since then."""


Greet = Callable[[int], Awaitable[None]]
"""Asks a replica whether it is back, and whether it is what it was; raises what a call raises."""


class Replicas:
    """Who takes the next call; used in the loop of the traffic alone.

    Args:
        names: Addresses; one where there are no others.
        slots: Calls under way at once at each.
        longest_pause: Seconds between two questions to one that is set aside.

    Attributes:
        greet: Asks one that is set aside.
        notes: What became of them, for the user.
    """

    def __init__(self, names: Sequence[str], slots: int, longest_pause: float) -> None:
        self.all = tuple(Replica(number, name) for number, name in enumerate(names))
        self.greet: Greet | None = None
        self.notes: list[str] = []
        self._last_words = ""
        self._slots, self._longest = slots, max(longest_pause, _SHORTEST_PAUSE)
        self._waiting: list[asyncio.Future[None]] = []
        self._asking: dict[Replica, asyncio.Task[None]] = {}

    @property
    def room(self) -> int:
        """Calls under way at once at all of them."""
        return self._slots * len(self.all)

    def told(self) -> dict[str, dict[str, int]]:
        """Requests sent to each, and how often it was set aside."""
        return {r.name: {"sent": r.sent, "set_aside": r.times_aside} for r in self.all}

    def take_notes(self) -> list[str]:
        """What has become of them since the last call."""
        notes = []
        while self.notes:  # from another thread than the one that adds to them
            notes.append(self.notes.pop(0))
        return notes

    async def take(self, tried: Collection[Replica]) -> Replica:
        """Wait for a slot at a replica that has not been tried; see ``give_back``.

        Raises:
            TargetError: none is what it was.
        """
        while (found := self._pick(tried)) is None:
            if not any(r.known for r in self.all):
                raise TargetError(
                    f"no replica has the target any more; {self._last_words}; what was answered "
                    "is kept, so see to them and resume the run"
                )
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting
        found.busy += 1
        return found

    def give_back(self, replica: Replica) -> None:
        """Free the slot."""
        replica.busy -= 1
        self._wake()

    def _wake(self) -> None:
        """Let those who wait for a slot look again, in the order in which they came."""
        for waiting in self._waiting:
            if not waiting.done():  # it may have been called off
                waiting.set_result(None)
        self._waiting = []

    def others(self, tried: Collection[Replica]) -> bool:
        """Whether one works that has not been tried."""
        return any(not r.aside and r not in tried for r in self.all)

    def _pick(self, tried: Collection[Replica]) -> Replica | None:
        now = asyncio.get_running_loop().time()
        left = [r for r in self.all if r.known and r not in tried]
        working = [r for r in left if not r.aside] or left
        awake = [r for r in working if r.not_before <= now] or working
        free = [r for r in awake if r.busy < (1 if r.on_trial else self._slots)]
        if not free:
            return None
        return min(free, key=lambda r: (max(now, r.not_before), r.busy, r.sent))

    def answered(self, replica: Replica) -> None:
        """Note that it did, even by a refusal; look at how fast it is."""
        replica.failures = 0
        # Where others work it gets no calls: what answers was sent before, and tells nothing new.
        if replica.aside and replica.known and all(r.aside for r in self.all):
            self._restore(replica)
        if len(replica.heard) < (1 if replica.on_trial else _LOOK):
            return
        replica.mean = mean = sum(replica.heard) / len(replica.heard)
        replica.heard = []
        others = [r.mean for r in self.all if r is not replica and not r.aside and r.mean]
        best = min(others, default=mean)
        if mean > _SLOW * best and mean - best > _NO_MATTER:
            self.set_aside(replica, f"it takes {mean:.3g} s for a call, another {best:.3g} s")
        elif replica.on_trial:
            replica.on_trial = False
        else:
            replica.pause = _FIRST_PAUSE

    def failed(self, replica: Replica, failure: MayPass) -> None:
        """Note that it did; set it aside where the call is not to blame."""
        replica.failures += 1
        replica.heard = []
        too_long = failure.after is not None and failure.after > LONGEST_WAIT
        if failure.after is not None and not too_long:
            now = asyncio.get_running_loop().time()
            replica.not_before = max(replica.not_before, now + failure.after)
        elif (
            too_long or replica.on_trial or isinstance(failure, Down) or replica.failures >= _ENOUGH
        ):
            self.set_aside(replica, " ".join(str(failure).split())[:120])

    def leave_out(self, number: int, why: str) -> None:
        """Set one aside that nobody knows yet: no call goes there before it was greeted."""
        self.all[number].known = False
        self.set_aside(self.all[number], why)

    def set_aside(self, replica: Replica, why: str) -> None:
        """Leave it alone for a while, where there are others."""
        if len(self.all) == 1 or replica.aside:
            return
        replica.aside = True
        replica.times_aside += 1
        if replica.times_aside == 1:  # of one that comes and goes once is enough
            self.notes.append(f"the replica {replica.name} is set aside for a while: {why}")
        if replica not in self._asking:  # it may have come back and gone meanwhile
            task = asyncio.get_running_loop().create_task(self._ask_again(replica))
            self._asking[replica] = task

    async def _ask_again(self, replica: Replica) -> None:
        """Until it answers: a small question, so that no call of the run has to wait for it."""
        try:
            await self._greet_until_back(replica)
        finally:
            del self._asking[replica]

    async def _greet_until_back(self, replica: Replica) -> None:
        assert self.greet is not None
        while replica.aside:
            pause = min(replica.pause, self._longest)
            replica.pause = min(2 * replica.pause, self._longest)
            await asyncio.sleep(pause)
            try:
                await self.greet(replica.number)
            except (MayPass, Refused):
                continue
            except TargetError as error:  # it is another target by now
                replica.known = False
                self._last_words = f"the replica {replica.name} is used no more: {error}"
                self.notes.append(self._last_words)
                self._wake()  # it may have been the last one
                return
            if replica.aside:
                self._restore(replica)

    def _restore(self, replica: Replica) -> None:
        replica.known, replica.aside, replica.on_trial = True, False, True
        replica.failures = 0
        replica.heard = []
        if replica.times_aside == 1:  # as often as it was said that it is set aside
            self.notes.append(f"the replica {replica.name} answers again")
        self._wake()

    async def close(self) -> None:
        """Ask nobody any more."""
        for task in (tasks := list(self._asking.values())):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
