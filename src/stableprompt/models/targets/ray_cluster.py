"""Room for actors on a Ray cluster: one that is begun on this machine, or one that is there."""

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from types import FrameType
from typing import Any, Final

from stableprompt.errors import ConfigError, TargetError
from stableprompt.llm_config import RayConfig
from stableprompt.models.targets.crew import Lost

_STORE: Final = 128 * 2**20
"""Bytes for what goes to and fro, which is texts and a few numbers; Ray would take a third of the
memory."""
_ENVIRONMENT: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to its makers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns; without a GPU we say "cpu"
}
"""What is not set already."""
_LONGEST: Final = 200  # characters of what Ray says
_ANSWERS_WITHIN: Final = 10.0  # seconds


def require_ray() -> None:
    """Check that the package is there; it is not loaded.

    Raises:
        ConfigError: it is not.
    """
    if find_spec("ray") is None:
        raise ConfigError(
            "target.ray needs the package ray, which is not installed; "
            "pip install 'stableprompt[ray]', or leave --target-engine and target.ray out"
        )


class RayCluster:
    """Places on a cluster, each with an actor: an object of a class in a process of its own.

    Args:
        config: Which cluster, how many places, how large; ``gpus`` is set.
        actor: The class; its method ``begin`` is called first.
        begun_with: Given to ``begin``.

    Raises:
        ConfigError: the cluster has no room for so many.
        TargetError: there is no cluster, or it cannot be begun.
    """

    def __init__(self, config: RayConfig, actor: type, begun_with: Any) -> None:
        require_ray()
        for name, value in _ENVIRONMENT.items():  # read when Ray is loaded
            os.environ.setdefault(name, value)
        import ray

        self._ray: Any = ray
        self._begun_with = begun_with
        self._actors: dict[int, Any] = {}
        self._places: Any = None
        self._ours = not ray.is_initialized()  # a program of the user's may be on a cluster
        try:
            if self._ours:
                self._connect(config)
            self._actor: Any = ray.remote(actor)
            self._takes = {"num_cpus": config.cpus, "num_gpus": config.gpus}
            self._take_places(config)
        except BaseException:
            self.close()
            raise

    def start(self, member: int) -> Any:
        """Begin the actor of a place, in the stead of one that was lost."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        if (before := self._actors.get(member)) is not None:
            self._ray.kill(before)  # it may only be out of reach
        place = PlacementGroupSchedulingStrategy(self._places, placement_group_bundle_index=member)
        options = {**self._takes, "scheduling_strategy": place}
        self._actors[member] = self._actor.options(**options).remote()
        return self._actors[member].begin.remote(self._begun_with)

    def give(self, member: int, job: tuple[str, tuple[Any, ...]]) -> Any:
        """Have an actor begin with a call: the name of a method, and what it is given."""
        method, given = job
        return getattr(self._actors[member], method).remote(*given)

    def first_done(self, calls: Sequence[Any], seconds: float | None) -> Any:
        """Wait for one of the calls, so long at most."""
        done, _ = self._ray.wait(list(calls), num_returns=1, timeout=seconds)
        return done[0] if done else None

    def outcome(self, call: Any) -> Any:
        """What a call came to.

        Raises:
            Lost: the actor is gone. Any other error is what the actor raised.
        """
        errors = self._ray.exceptions
        try:
            return self._ray.get(call)
        except errors.RayTaskError as error:
            if isinstance(error.cause, Exception) and not isinstance(error.cause, errors.RayError):
                raise error.cause from None
            raise TargetError(f"an actor of the target failed: {_brief(error)}") from error
        except errors.RayError as error:
            raise Lost(_brief(error)) from error

    def close(self) -> None:
        """End the actors, and the cluster if it was begun here."""
        actors, self._actors = self._actors, {}
        if not self._ray.is_initialized():
            return
        if self._ours:  # who leaves a cluster takes along what is his; nobody need be there
            self._ray.shutdown()
            return
        with suppress(self._ray.exceptions.RayError, ConnectionError):  # it may be gone
            for actor in actors.values():
                self._ray.kill(actor)
            if self._places is not None:
                self._ray.util.remove_placement_group(self._places)

    def _connect(self, config: RayConfig) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        # Ray prints the end of an actor into what the program prints, whatever it was told.
        worker: Any = getattr(getattr(self._ray, "_private", None), "worker", None)
        if hasattr(worker, "_worker_logs_enabled"):
            worker._worker_logs_enabled = False
        if config.address is None:
            # More would only make Ray start more processes ahead.
            cpus = min(config.actors * config.cpus, os.cpu_count() or 1)
            quiet |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _STORE}
        try:
            _require_somebody_at(config.address)
            with _own_signals():
                self._ray.init(config.address or "local", **quiet)
        except (self._ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
            self._ray.shutdown()
            where = "here" if config.address is None else f"at {config.address!r}"
            what = "begun" if config.address is None else "reached"
            raise TargetError(
                f"no Ray cluster can be {what} {where} ({_brief(error)}); target.ray.address must "
                "be that of a cluster with the same versions of Ray and Python (with RAY_AUTH_MODE="
                "token in the environment where it asks for one); without it one is begun here"
            ) from error

    def _take_places(self, config: RayConfig) -> None:
        """Reserve what all actors take together; which of them are lost later does not matter."""
        place = {"CPU": float(config.cpus)} | ({"GPU": config.gpus} if config.gpus else {})
        # A cluster begun here never grows; another one may just be adding machines.
        has = self._ray.cluster_resources()
        fits = all(has.get(n, 0) >= config.actors * each for n, each in place.items())
        if fits or config.address is not None or not self._ours:
            self._places = self._ray.util.placement_group([place] * config.actors)
            if self._places.wait(config.start_seconds):
                return
        asked = " and ".join(f"{each:g} {name}" for name, each in place.items())
        free = self._ray.available_resources()
        found = ", ".join(f"{has.get(n, 0):g} {n} ({free.get(n, 0):g} free)" for n in place)
        raise ConfigError(
            f"target.ray asks for {config.actors} actors with {asked} each, and the cluster has "
            f"{found}; ask for fewer (target.ray.actors), or for less each (target.ray.cpus, "
            "target.ray.gpus)"
        )


def _require_somebody_at(address: str | None) -> None:
    """Ask whether anybody listens there: Ray tries for more than five minutes, and says so.

    Raises:
        OSError: nobody does.
    """
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _ANSWERS_WITHIN).close()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Pass signals on when Ray has begun, to whom they are meant for.

    Python can crash where an interruption leaves Ray half begun: the first one waits, for seconds.
    And Ray has a handler of SIGTERM, which raises ``SystemExit``, in the place of ours.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    waiting: list[int] = []

    def wait(number: int, frame: FrameType | None) -> None:
        impatient = before[signal.SIGINT]
        if waiting and callable(impatient):
            impatient(number, frame)
        waiting.append(number)

    signal.signal(signal.SIGINT, wait)
    try:
        yield
    except SystemExit:
        waiting.append(signal.SIGTERM)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for sent in waiting[:1]:
            signal.raise_signal(sent)


def _brief(error: Exception) -> str:
    """The last of what Ray says, which is why; without its colours."""
    said = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    return said[-1].strip()[:_LONGEST] if said else type(error).__name__
