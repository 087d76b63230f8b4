"""Several that do the same work: whoever is done takes the next job, and who is lost is replaced.

Who they are is not known here: processes of a cluster, or what a test puts in their place.
"""

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, Protocol, TypeVar

from stableprompt.errors import TargetError

Call = TypeVar("Call", bound=Hashable)

_REPLACED: Final = 3
"""Times that a member is replaced: a job that ends whoever does it must not go on for ever."""


class Lost(Exception):
    """Whoever was called is gone; that has nothing to do with the call."""


class Hands(Protocol[Call]):
    """What the members of a crew are asked through; they are known by their numbers."""

    def start(self, member: int) -> Call:
        """Begin a member, in the place of one before it; it will say what it is."""
        ...

    def give(self, member: int, job: Any) -> Call:
        """Have a member begin with a job."""
        ...

    def first_done(self, calls: Sequence[Call], seconds: float | None) -> Call | None:
        """Wait for one of the calls, so long at most; None: none came back."""
        ...

    def outcome(self, call: Call) -> Any:
        """What a call that is done came to.

        Raises:
            Lost: the member is gone. Any other error is that of the call.
        """
        ...


class Crew:
    """The members, and what each is at.

    Args:
        hands: How they are asked.
        size: How many there are.
        patience: Seconds to wait for new members where no other is left.

    Attributes:
        done: Jobs done, by member, of those that were to be counted.
        lost: How often each was lost.
        tell: Told when one is lost.
    """

    def __init__(self, hands: Hands[Any], size: int, *, patience: float) -> None:
        self._hands, self._patience = hands, patience
        self.done, self.lost = [0] * size, [0] * size
        self.tell: Callable[[str], None] = lambda note: None
        self._ready: set[int] = set()
        self._starting: dict[Any, int] = {}
        self._first: Any = None
        self._last_words = ""

    def gather(self) -> list[Any]:
        """Start all members and wait for them; what each says that it is.

        Raises:
            TargetError: one was lost at once, or is not what the first one is.
        """
        calls = [self._hands.start(member) for member in range(len(self.done))]
        try:
            told = [self._hands.outcome(call) for call in calls]
        except Lost as lost:
            raise TargetError(
                f"an actor was lost while it loaded the target ({lost}); see that each "
                "machine has this package and the memory for the target, then start the run again, "
                "or resume it"
            ) from lost
        self._first = told[0]
        for other in told[1:]:
            self._require_same(other)
        self._ready = set(range(len(told)))
        return told

    def do(self, jobs: Sequence[Any], *, counted: bool = True) -> list[Any]:
        """Have all jobs done; what came of each, in their order.

        Args:
            jobs: What there is to do, the first one first.
            counted: Whether they go into ``done``.

        Raises:
            TargetError: nobody is left.
            Exception: what a job raised; the others under way are not waited for.
        """
        left, found = deque(range(len(jobs))), dict[int, Any]()
        busy: dict[Any, tuple[int, int]] = {}
        while len(found) < len(jobs):
            free = self._ready - {member for member, _ in busy.values()}
            for member in sorted(free)[: len(left)]:
                number = left.popleft()
                busy[self._hands.give(member, jobs[number])] = member, number
            call = self._first_done(busy)
            if call in self._starting:
                self._take_on(call)
                continue
            member, number = busy.pop(call)
            try:
                found[number] = self._hands.outcome(call)
                self.done[member] += counted
            except Lost as lost:
                left.appendleft(number)
                self._replace(member, str(lost))
        return [found[number] for number in range(len(jobs))]

    def _first_done(self, busy: dict[Any, tuple[int, int]]) -> Any:
        calls = [*busy, *self._starting]
        seconds = None if busy else self._patience
        call = self._hands.first_done(calls, seconds) if calls else None
        if call is None:
            raise TargetError(
                f"none of the {len(self.done)} actors that hold the target is left "
                f"({self._last_words}); what was answered is kept, so see to them and resume the "
                "run"
            )
        return call

    def _take_on(self, call: Any) -> None:
        """Let a new member work, if it is what the others are."""
        member = self._starting.pop(call)
        try:
            self._require_same(self._hands.outcome(call))
        except Exception as error:  # whatever it is, the others may be able to do without it
            self._replace(member, str(error))
        else:
            self._ready.add(member)

    def _replace(self, member: int, why: str) -> None:
        self._ready.discard(member)
        self.lost[member] += 1
        self._last_words = why
        again = self.lost[member] <= _REPLACED
        if again:
            self._starting[self._hands.start(member)] = member
        what = "another one is begun in its place" if again else "it is not begun again"
        self.tell(f"actor {member} of the target is lost ({why}); {what}")

    def _require_same(self, told: Any) -> None:
        if told != self._first:
            raise TargetError(
                f"the actors do not hold the same target: {self._first} and {told}; give all "
                "machines of the cluster the same model, packages and kind of device"
            )
