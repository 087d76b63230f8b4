"""The roles of a run as work on some devices: what the agent does in a step, what a target does."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from stableprompt.scaling.machines import PROCESS, REQUEST_SECONDS, SERVER, Machine
from stableprompt.scaling.memory import SERVER_BATCH
from stableprompt.scaling.work import (
    LINKS,
    Held,
    Work,
    continuing,
    costs,
    gathering,
    judging,
    learning,
    reading,
    scoring,
    writing,
)

WAITING: Final = "waiting for answers"
_FLOAT: Final = 4
"""Bytes; of adapters always."""


@dataclass(frozen=True, slots=True)
class Step:
    """What the agent does in one step, in numbers."""

    rows: int
    """P: prompts."""
    replayed: int
    """Prompts of earlier steps that are learned from, too."""
    query: float
    """Q: tokens of the meta-prompt."""
    length: int
    """T: tokens of a prompt."""
    minibatch: int
    epochs: int
    """0: nothing is learned."""
    rank: int
    """Of the adapters."""

    @property
    def learned(self) -> int:
        """Rows of an update."""
        return self.rows + self.replayed


class Agent:
    """An agent on devices that share the prompts, and hold it whole each, or together.

    Args:
        held: The agent.
        machine: Each of the devices.
        devices: How many.
        step: What is done.
        learned_at_once: Rows of a part of a minibatch.
        split: Whether they hold it together.
    """

    def __init__(
        self,
        held: Held,
        machine: Machine,
        devices: int,
        step: Step,
        learned_at_once: int,
        *,
        split: bool = False,
    ) -> None:
        self._held, self._machine, self._devices, self._step = held, machine, devices, step
        self._split = split
        self._at_once = max(1, learned_at_once)
        self._speed = PROCESS.of(machine, float32=held.bytes_each == _FLOAT)

    def _share(self, rows: int) -> int:
        return math.ceil(rows / self._devices)

    def writing(self, rows: int) -> Mapping[str, float]:
        """Prompts are written, and read once more by the guards, one at a time."""
        step, mine = self._step, self._share(rows)
        plain = Held(self._held.shape, self._held.bytes_each, self._held.quantised)
        guards = reading(
            plain, mine * step.length, before=step.length / 2, asked=mine * step.length, passes=mine
        )
        return self._costs(writing(self._held, mine, step.query, step.length) + guards)

    def judging(self) -> Mapping[str, float]:
        """Log-probabilities under policy and anchor, and of the policy after its update."""
        if not self._step.epochs:
            return {}
        step = self._step
        before = judging(self._held, self._share(step.rows), step.query, step.length) * 2
        after = judging(self._held, self._share(step.learned), step.query, step.length)
        return self._costs(before + after)

    def learning(self) -> Mapping[str, float]:
        """Every row once an epoch, in as many parts as memory asks for."""
        step = self._step
        batches = math.ceil(step.learned / step.minibatch)
        rows = self._share(math.ceil(step.learned / batches))
        parts = math.ceil(rows / self._at_once)
        part = learning(self._held, math.ceil(rows / parts), step.query, step.length)
        found = dict(self._costs(part * (parts * batches * step.epochs)))
        if self._devices > 1:
            moved = _FLOAT * self._held.shape.lora_parameters(step.rank)
            gradients = Work(exchanges=1.0, exchanged_bytes=float(moved)) * (batches * step.epochs)
            found[LINKS] += costs(gradients, self._speed, self._devices, self._machine)[LINKS]
        return found

    def _costs(self, work: Work) -> Mapping[str, float]:
        together = self._devices if self._split else 1
        return _in_process(work, self._held, self._machine, together)


@dataclass(frozen=True, slots=True)
class Asked:
    """Some calls that are made together."""

    calls: int
    read: float
    """Tokens, what calls share once where the target reads it once."""
    context: float
    """Tokens of one call, on average."""
    answer: float
    """Tokens that are written for one call; 0: labels are read off."""


class Target(Protocol):
    """What answers."""

    def answering(self, asked: Asked) -> Mapping[str, float]:
        """Seconds, by what limits them."""


@dataclass(frozen=True, slots=True)
class InProcess:
    """A target beside the agent; each device takes its share of the calls."""

    held: Held
    machine: Machine
    devices: int
    batch_tokens: int
    split: bool = False
    """Whether it is the agent's own weights, which the devices hold together."""

    def answering(self, asked: Asked) -> Mapping[str, float]:
        """Labels are read off in batches; answers are written by as many rows as fit in one."""
        calls = math.ceil(asked.calls / self.devices)
        if not calls:
            return {}
        work = scoring(
            self.held,
            read=asked.read / self.devices,
            pairs=calls,
            context=asked.context,
            batch_tokens=self.batch_tokens,
        )
        if asked.answer:
            together = max(1, min(calls, int(self.batch_tokens / (asked.context + asked.answer))))
            length = math.ceil(asked.answer)
            one = continuing(self.held, together, asked.context, length)
            work = work + one * math.ceil(calls / together)
        return _in_process(work, self.held, self.machine, self.devices if self.split else 1)


def _in_process(work: Work, held: Held, machine: Machine, together: int) -> dict[str, float]:
    """Seconds of one device in this package's process; so many hold the model together."""
    found = costs(work, PROCESS.of(machine, float32=held.bytes_each == _FLOAT))
    if together > 1:
        found[LINKS] += gathering(work, held, together, machine)
    return found


@dataclass(frozen=True, slots=True)
class Served:
    """Equal servers, each with devices that hold a part of the target each."""

    held: Held
    machine: Machine
    devices: int
    """Of one server."""
    replicas: int
    concurrency: int
    """Calls under way at once, at each server."""

    def answering(self, asked: Asked) -> Mapping[str, float]:
        """What is under way at a server is read in one pass, as far as a pass has room."""
        if not asked.calls:
            return {}
        calls = math.ceil(asked.calls / self.replicas)
        together = self.concurrency
        each = asked.read / asked.calls
        passes = max(calls / together, calls * each / SERVER_BATCH)
        work = reading(
            self.held, calls * each, before=asked.context, asked=float(calls), passes=passes
        )
        more = math.ceil(asked.answer) - 1  # the first token follows from the reading
        if more > 0:
            work = work + continuing(self.held, together, asked.context, more) * (calls / together)
        return costs(work, SERVER.of(self.machine), self.devices, self.machine)


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A public API, or a function: nothing is known but how many calls are under way, and the pace.

    Attributes:
        concurrency: Calls at once.
        per_minute: Sent at most; None: no limit.
        seconds: That a call is taken to need.
    """

    concurrency: int
    per_minute: float | None
    seconds: float = field(default=REQUEST_SECONDS)

    def answering(self, asked: Asked) -> Mapping[str, float]:
        """Waves of calls, at the pace that is allowed."""
        waves = math.ceil(asked.calls / self.concurrency) * self.seconds
        paced = asked.calls * 60 / self.per_minute if self.per_minute else 0.0
        return {WAITING: max(waves, paced)}
