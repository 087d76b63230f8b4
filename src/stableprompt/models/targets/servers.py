"""The servers that have a target: one, or several replicas that are one and the same to a run."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

from stableprompt.errors import TargetError
from stableprompt.llm_config import ApiConfig
from stableprompt.models.targets.answer_cache import AnswerCache
from stableprompt.models.targets.client import Client
from stableprompt.models.targets.dialect import Dialect, find_dialect
from stableprompt.models.targets.failures import MayPass, Refused
from stableprompt.models.targets.providers import endpoints_of, key_of
from stableprompt.models.targets.traffic import FIRST_TRIES, Traffic

CONCURRENCY: Final = 8

_T = TypeVar("_T")


class Servers:
    """Knows each replica's address, and that all of them understand the same.

    A replica that does not answer at the start is set aside, and comes in when it does.

    Args:
        name: Of the target, as the settings call it.
        config: Addresses, and how they are asked.
        cache: What was found out in earlier runs.

    Attributes:
        home: The first one: answers on disk are kept by its address, whoever gave them.
        clients: One for each, in order.
        traffic: Sends calls to them.
        dialect: How they are asked.

    Raises:
        ConfigError: no provider of that name, or no key in the environment.
        TargetError: none can be reached, one refuses the key or the model, or they differ.
    """

    def __init__(self, name: str, config: ApiConfig, cache: AnswerCache) -> None:
        endpoints = endpoints_of(name, config)
        self.home = endpoints[0]
        self._name, self._cache = name, cache
        self._labels = config.labels
        key = key_of(self.home)
        self.clients = [Client(e, key, config.timeout_seconds) for e in endpoints]
        places = [endpoint.base_url for endpoint in endpoints]
        self.traffic = Traffic(config, config.concurrency or CONCURRENCY, name, places)
        self.traffic.replicas.greet = self._greet
        try:
            self.dialect = self._meet()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hang up."""
        self.traffic.close(last=self._hang_up)

    async def _hang_up(self) -> None:
        for client in self.clients:
            await client.close()

    def _meet(self) -> Dialect:
        """What all of them understand; found out once, and kept on disk."""
        kept = [self._cache.find(self._question(n)) for n in range(len(self.clients))]
        known = {n: Dialect(**one) for n, one in enumerate(kept) if one is not None}
        if len(set(known.values())) > 1:  # one has been another server since
            known = {}
        if len(known) < len(self.clients):
            known |= self.traffic.complete(self._ask_others(known))
        [first, *_] = sorted(known)
        for number in sorted(known):
            self._require_same(number, known[number], self._place(first), known[first])
        return known[first]

    async def _ask_others(self, known: Mapping[int, Dialect]) -> dict[int, Dialect]:
        """Of those not known those that answer; the others are set aside.

        Raises:
            TargetError: none is known then, or one refuses.
        """
        numbers = [n for n in range(len(self.clients)) if n not in known]
        # Where there are others, nobody waits long for one that may be down for hours.
        for attempts in [1, FIRST_TRIES] if len(self.clients) > 1 else [FIRST_TRIES]:
            answers = await asyncio.gather(
                *(self._ask(n, attempts) for n in numbers), return_exceptions=True
            )
            found = dict(zip(numbers, answers, strict=True))
            met = {n: one for n, one in found.items() if isinstance(one, Dialect)}
            if met or known:
                break
        for number, failure in found.items():
            if isinstance(failure, Refused) or (
                isinstance(failure, MayPass) and not (met or known)
            ):
                raise TargetError(
                    f"the target {self._name!r} does not answer: {failure}; see whether the server "
                    f"is up at {self._place(number)}"
                ) from None
            if isinstance(failure, MayPass):
                self.traffic.replicas.leave_out(number, str(failure))
            elif isinstance(failure, BaseException):
                raise failure
        return met

    async def _ask(self, number: int, attempts: int) -> Dialect:
        def patiently(call: Callable[[], Awaitable[_T]]) -> Awaitable[_T]:
            return self.traffic.patiently(lambda _: call(), attempts=attempts, at=number)

        wanted = self._labels == "auto"
        dialect = await find_dialect(self.clients[number], patiently, labels=wanted)
        self._cache.keep(self._question(number), dialect.to_dict())
        return dialect

    async def _greet(self, number: int) -> None:
        """Ask one that was set aside whether it is back."""
        self._require_same(number, await self._ask(number, 1), "the others", self.dialect)

    def _require_same(self, number: int, found: Dialect, others: str, dialect: Dialect) -> None:
        if found != dialect:
            raise TargetError(
                f"the target {self._name!r} at {self._place(number)} is not the same as at "
                f"{others}: it understands {found.told()}, and not {dialect.told()}; replicas must "
                "be the same server with the same model, so leave one of them out"
            )

    def _place(self, number: int) -> str:
        return self.clients[number].endpoint.base_url

    def _question(self, number: int) -> list[Any]:
        endpoint = self.clients[number].endpoint
        return [endpoint.base_url, endpoint.model, {"labels": self._labels}]
