"""Many calls at once to something that may fail: paced, retried, and given up in good order.

What fails for a reason that may pass is tried again, with growing pauses (``tenacity``). What
fails for good is a ``Failed`` in its place, never an answer; where too many do, all stops.
"""

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from stableprompt.errors import TargetError
from stableprompt.llm_config import ApiConfig
from stableprompt.models.targets.failures import Down, Failed, MayPass, Refused
from stableprompt.models.targets.replicas import LONGEST_WAIT, Replica, Replicas

_T = TypeVar("_T")
Call = Callable[[int, int], Awaitable[_T]]
"""Sends a call, by its number, to a replica, by its number; raises ``MayPass``, ``Refused``, or
``TargetError`` to stop all."""

FIRST_TRIES: Final = 4
"""Attempts before anything was answered: who waits for what never works, waits for seconds."""
_REMEMBERED: Final = 100  # calls that the share of failures is taken over
_SHORT: Final = 200  # characters of a reason
_SLACK: Final = 10  # so many may fail before the share counts


class Traffic:
    """Runs calls in an event loop of its own, so that it works inside a notebook's, too.

    Args:
        config: Pace, attempts, time-outs.
        concurrency: Calls under way at once, at each replica.
        name: Of the target, for messages.
        places: Addresses of its replicas; one where there are no others.

    Attributes:
        sent: Calls that were sent, retries among them.
        retries: How many of them were retries.
        answered: Whether any call was.
        replicas: Who takes the next call.
    """

    def __init__(
        self, config: ApiConfig, concurrency: int, name: str, places: Sequence[str] = ("",)
    ) -> None:
        self._config, self._name = config, name
        self.replicas = Replicas(places, concurrency, config.longest_pause_seconds)
        self.sent = self.retries = 0
        self._outcomes: deque[bool] = deque(maxlen=_REMEMBERED)  # whether it was answered
        self.answered = False
        self._put_off = 0
        self._begun: set[asyncio.Future[Any]] = set()
        self._loop = asyncio.new_event_loop()
        # A daemon: an interrupted program need not wait for a server that never answers.
        self._thread = threading.Thread(
            target=_turn, args=(self._loop,), name="traffic", daemon=True
        )
        self._thread.start()
        self._end = weakref.finalize(self, _stop, self._loop)

    def close(self, *, last: Callable[[], Awaitable[None]] | None = None) -> None:
        """End the loop; no more calls after that.

        Args:
            last: What is still to be done in it, such as hanging up.
        """
        if self._end.alive:
            self.complete(self._call_off())
            self.complete(self.replicas.close())
            if last is not None:
                self.complete(_only(last))
            self._end()
            self._thread.join()

    def run(self, call: Call[_T], count: int) -> list[_T | Failed]:
        """The answers to calls 0 ... ``count - 1``, in this order.

        Args:
            call: Sends one of them.
            count: How many there are.

        Raises:
            TargetError: the target refuses all of them, or too many failed for good.
        """
        return self.complete(self._run(call, count))

    def begin(self, call: Callable[[int], Awaitable[_T]]) -> "Future[_T | None]":
        """Send one call, once, and do not wait for it; None where it is to be made again.

        Args:
            call: Sends it to a replica.
        """

        async def once() -> _T | None:
            try:
                return await self._try(call, again=False)
            except (MayPass, Refused, TargetError):  # said where somebody waits for the answer
                return None

        async def noted() -> _T | None:
            task = asyncio.ensure_future(once())
            self._begun.add(task)
            task.add_done_callback(self._begun.discard)
            return await task

        return asyncio.run_coroutine_threadsafe(noted(), self._loop)

    async def _call_off(self) -> None:
        for task in (tasks := list(self._begun)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def complete(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Wait for some work in the loop; interrupted, it is called off."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def _run(self, call: Call[_T], count: int) -> list[_T | Failed]:
        """Before the first answer a call that fails is put off and tried again after the others."""
        first = await self._together(lambda n: self._first(call, n), range(count))
        put_off = [n for n, found in enumerate(first) if found is None]
        left = self._config.attempts - FIRST_TRIES
        later = await self._together(lambda n: self._settle(call, n, attempts=left), put_off)
        again = iter(later)
        return [next(again) if one is None else one for one in first]

    async def _together(
        self, work: Callable[[int], Awaitable[_T]], numbers: Iterable[int]
    ) -> list[_T]:
        """Some work on each of these, a few at once."""
        gate = asyncio.Semaphore(self.replicas.room)

        async def one(number: int) -> _T:
            async with gate:
                return await work(number)

        tasks = [asyncio.ensure_future(one(number)) for number in numbers]
        try:
            return list(await asyncio.gather(*tasks))
        finally:  # one has stopped everything, or we were interrupted
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _first(self, call: Call[_T], number: int) -> _T | Failed | None:
        """The answer to a call; None where it failed before any was answered, and is put off.

        Raises:
            TargetError: ten were put off.
        """
        if self.answered or self._config.attempts <= FIRST_TRIES:
            return await self._settle(call, number)
        try:
            answer = await self.patiently(partial(call, number), attempts=FIRST_TRIES)
        except Refused as failure:
            return Failed(str(failure))
        except MayPass as failure:
            self._put_off += not isinstance(failure, Down)  # to have that said in its own words
            if self._put_off >= _SLACK and not self.answered:
                raise TargetError(
                    f"the target {self._name!r} answered none of its first {self._put_off} calls, "
                    f"the last one failed so: {_short(failure)}; see to it and start again"
                ) from None
            return None
        self._succeed()
        return answer

    def _succeed(self) -> None:
        self.answered = True
        self._outcomes.append(True)

    async def _settle(
        self, call: Call[_T], number: int, *, attempts: int | None = None
    ) -> _T | Failed:
        try:
            answer = await self.patiently(partial(call, number), attempts=attempts)
        except Down as failure:  # no example is left out for that
            raise TargetError(
                f"the target {self._name!r} cannot be reached: {failure}; what was answered is "
                "kept, so resume the run when it is up"
            ) from None
        except Refused as failure:  # nothing is down: what is refused is a matter of the prompts
            return Failed(str(failure))
        except MayPass as failure:
            self._outcomes.append(False)
            self._require_few_failures(failure)
            return Failed(str(failure))
        self._succeed()
        return answer

    async def patiently(
        self,
        call: Callable[[int], Awaitable[_T]],
        *,
        attempts: int | None = None,
        at: int | None = None,
    ) -> _T:
        """One call, tried until it is answered or given up.

        Args:
            call: Sends it to a replica.
            attempts: How often; None: as the settings say.
            at: The only replica to send it to, whether it is set aside or not.

        Raises:
            MayPass: the last attempt failed as well.
            Refused: it will never be answered.
        """
        limit = self._config.attempts
        retrying = AsyncRetrying(
            stop=stop_after_attempt(min(attempts or limit, limit)),
            wait=self._pause,
            retry=retry_if_exception_type(MayPass),
            reraise=True,
            sleep=asyncio.sleep,
        )
        async for attempt in retrying:
            with attempt:
                again = attempt.retry_state.attempt_number > 1
                if at is not None:
                    return await self._send(call, self.replicas.all[at], again=again)
                return await self._try(call, again=again)
        raise AssertionError("tenacity returns or raises")

    async def _try(self, call: Callable[[int], Awaitable[_T]], *, again: bool) -> _T:
        """One attempt: at one replica after the other, as long as there is one that works."""
        tried: list[Replica] = []
        worst: MayPass | None = None
        while worst is None or self.replicas.others(tried):
            replica = await self.replicas.take(tried)
            try:
                answer = await self._send(call, replica, again=again or bool(tried))
            except MayPass as failure:
                self.replicas.failed(replica, failure)
                # That nobody is there is the reason only where nobody is anywhere.
                worst = failure if worst is None or isinstance(worst, Down) else worst
                tried.append(replica)
            except Refused:
                self.replicas.answered(replica)
                raise
            else:
                self.replicas.answered(replica)
                return answer
            finally:
                self.replicas.give_back(replica)
        raise worst

    async def _send(
        self, call: Callable[[int], Awaitable[_T]], replica: Replica, *, again: bool
    ) -> _T:
        await self._wait_for_turn(replica)
        self.sent += 1
        replica.sent += 1
        self.retries += again
        started = self._loop.time()
        try:
            async with asyncio.timeout(self._config.timeout_seconds):
                answer = await call(replica.number)
            replica.heard.append(self._loop.time() - started)
            return answer
        except TimeoutError:
            seconds = self._config.timeout_seconds
            raise MayPass(f"no complete answer within {seconds:g} s") from None

    async def _wait_for_turn(self, replica: Replica) -> None:
        """Wait while the server wants a rest, and for our own pace."""
        pace = self._config.requests_per_minute
        while (wait := replica.not_before - self._loop.time()) > 0:
            await asyncio.sleep(wait)
        if pace is not None:
            replica.not_before = self._loop.time() + 60.0 / pace

    def _pause(self, state: RetryCallState) -> float:
        """Twice as long each time, at random; what the server asks for at least.

        Some say 0 or little every time: alone it would use up all attempts within a second.
        """
        assert state.outcome is not None
        failure = state.outcome.exception()
        longest = self._config.longest_pause_seconds
        pause = float(wait_random_exponential(multiplier=0.5, max=longest)(state))
        after = failure.after if isinstance(failure, MayPass) else None
        if after is None:
            return pause
        if after > LONGEST_WAIT:
            raise TargetError(
                f"the target {self._name!r} asks to wait {after:.0f} s ({failure}); resume the run "
                "later, or lower target.api.concurrency and requests_per_minute"
            )
        return max(after, pause)

    def _require_few_failures(self, failure: Exception) -> None:
        failed, calls = self._outcomes.count(False), len(self._outcomes)
        if failed >= _SLACK and failed > self._config.max_failed_share * calls:
            raise TargetError(
                f"{failed} of the last {calls} calls of the target {self._name!r} "
                f"failed for good, the last one: {_short(failure)}. What was answered is kept; see "
                "to the target and resume the run, or raise target.api.max_failed_share"
            )


def _short(failure: Exception) -> str:
    """On one line."""
    return " ".join(str(failure).split())[:_SHORT].rstrip(".")


async def _only(work: Callable[[], Awaitable[None]]) -> None:
    await work()


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _stop(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon_threadsafe(loop.stop)
