"""Questions that were sent before anybody waits for their answers."""

import json
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, Protocol, runtime_checkable

from stableprompt.models.chat import Message
from stableprompt.models.targets.client import Reply
from stableprompt.models.targets.traffic import Traffic


@runtime_checkable
class AsksAhead(Protocol):
    """A target that can be working on a question while something else is done here."""

    def ask_ahead(
        self,
        conversations: Sequence[Sequence[Message]],
        words: Sequence[Sequence[str]] | None,
        max_tokens: int,
    ) -> None:
        """Begin with questions that will be asked soon, and come back at once.

        Args:
            conversations: Chat messages, N of them.
            words: For each conversation what may be answered; None where it answers freely.
            max_tokens: Of a free answer.
        """
        ...

    def forget_ahead(self) -> None:
        """Call off what was begun and never asked."""
        ...


class UnderWay:
    """Answers under way, by question.

    One that fails is no answer: it is asked for again when it is wanted, so that what becomes of a
    failure is decided in one place.

    Args:
        traffic: Sends them.
    """

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._under_way: dict[str, Future[Reply | None]] = {}
        self.again = 0
        """Questions that failed here, and were asked again."""

    def begin(self, question: Any, send: Callable[[int], Awaitable[Reply]]) -> None:
        """Send a question, unless it was sent."""
        key = json.dumps(question)
        if key not in self._under_way:
            self._under_way[key] = self._traffic.begin(send)

    def take(self, question: Any) -> Reply | None:
        """The answer, as soon as it is there; None where there is none."""
        future = self._under_way.pop(json.dumps(question), None) if self._under_way else None
        if future is None:
            return None
        try:
            reply = future.result()
        except CancelledError:
            return None
        self.again += reply is None
        return reply

    def forget(self) -> None:
        """Call off what nobody has taken."""
        for future in self._under_way.values():
            future.cancel()
        self._under_way = {}
