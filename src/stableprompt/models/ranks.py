"""The processes of one run, as Accelerate launched them: who takes which share, who decides.

All of them run the same loop on the same seed. What takes long is shared out with ``each``; what
could come out differently is decided by the first process (``agree``); what must happen once is
done by it (``first_does``). Every process must call these in the same order. One process
alone asks nobody: nothing is sent, nothing is copied.

Where they hold the agent's weights together (FSDP2), none can call it alone: see ``lockstep``.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Self, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, reduce
from accelerate.utils.fsdp_utils import disable_fsdp_ram_efficient_loading
from torch import Tensor

from stableprompt.errors import ConfigError, RunError, StablePromptError
from stableprompt.launched import process_count
from stableprompt.models.lockstep import Lockstep, Want, gone

T = TypeVar("T")

_PATIENCE: Final = timedelta(minutes=30)
"""How long a process waits for the slowest one: it may be asking a slow target."""
_UNTRIED: Final = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}


def _highest(mine: Want) -> Want:
    """What any process wants most."""
    told = torch.tensor(int(mine), device=PartialState().device)
    with _talking():
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
        return Want(int(told))


@dataclass(frozen=True, slots=True)
class Ranks:
    """One process among those of a run."""

    number: int = 0
    """Of this process; the first one, 0, decides and writes."""
    count: int = 1
    """How many there are."""
    split: bool = False
    """Whether each holds a part of the agent's weights, and not all of them."""
    lockstep: Lockstep = field(
        default_factory=lambda: Lockstep(_highest), compare=False, repr=False
    )
    """In which they call an agent that they hold together."""

    @classmethod
    def launched(cls) -> Self:
        """Join the others that were launched with this process; without a launcher it is alone.

        Raises:
            ConfigError: they were launched to split the agent in a way that is not supported; or
                others were to be launched, and were not.
        """
        asked = _is_set("ACCELERATE_USE_CPU")
        if process_count() <= 1:
            # Several were asked for, and one was started, which is told the address of others.
            if asked and "MASTER_ADDR" in os.environ and "LOCAL_RANK" not in os.environ:
                raise ConfigError(
                    "`accelerate launch --cpu` starts several processes through MPI alone, and "
                    "has started one; launch them with `torchrun --nproc-per-node 2 -m "
                    "stableprompt ...`, or leave --num_processes out"
                )
            if _is_set("ACCELERATE_USE_FSDP"):
                raise ConfigError(
                    "launched with FSDP, which splits the agent over several processes, and there "
                    "is one; set num_processes in Accelerate's configuration, or launch without it"
                )
            return cls()
        for name, what in _UNTRIED.items():
            if _is_set(name):
                raise ConfigError(
                    f"launched with {what}, which is not supported; launch with FSDP (version 2), "
                    "which splits the agent's weights over the processes, or without either: each "
                    "process then holds the whole agent, and they share the work"
                )
        split = _is_set("ACCELERATE_USE_FSDP")
        if split and (version := os.environ.get("FSDP_VERSION", "1")) != "2":
            raise ConfigError(
                f"launched with FSDP version {version}; version 2 alone is supported: set "
                "fsdp_version to 2 in Accelerate's configuration"
            )
        if split:  # by default all processes but the first would be given empty weights
            disable_fsdp_ram_efficient_loading()
        state = PartialState(cpu=asked or not torch.cuda.is_available(), timeout=_PATIENCE)
        return cls(state.process_index, state.num_processes, split)

    @property
    def device(self) -> torch.device:
        """What this process was launched for."""
        return PartialState().device  # type: ignore[no-any-return]

    @property
    def first(self) -> bool:
        """Whether this is the process that decides and writes."""
        return self.number == 0

    def share(self, count: int) -> range:
        """Which of so many items are this process's: neighbours, as many as others have or one
        more or less."""
        return range(count * self.number // self.count, count * (self.number + 1) // self.count)

    def each(self, work: Callable[[], T]) -> list[T]:
        """Have each process do some work; what came of it, by process, the same for all.

        Raises:
            StablePromptError: the first one that was raised in a process, in all of them.
            RunError: a process has ended.
        """
        if self.count == 1:
            return [work()]
        mine: tuple[T | None, StablePromptError | None]
        try:
            mine = work(), None
        except StablePromptError as error:
            if self.lockstep.broken:
                raise
            mine = None, error
        self.lockstep.finish()
        with _talking():
            found: list[Any] = gather_object([mine])
        return [_result(*one) for one in found]

    def first_does(self, work: Callable[[], T]) -> T:
        """What came of some work that is done once, by the first process.

        Raises:
            StablePromptError: what was raised there, in all of them.
            RunError: a process has ended.
        """
        if self.count == 1:
            return work()
        told: list[Any] = [None]
        if self.first:
            try:
                told = [(work(), None)]
            except StablePromptError as error:
                if self.lockstep.broken:
                    raise
                told = [(None, error)]
        self.lockstep.finish()
        with _talking():
            broadcast_object_list(told)
        result: T = _result(*told[0])
        return result

    def first_keeps(self, work: Callable[[], T]) -> T | None:
        """What came of some work of the first process; None in the others.

        Raises:
            StablePromptError: what was raised there, in all of them.
            RunError: a process has ended.
        """
        kept: list[T] = []
        self.first_does(lambda: kept.append(work()))
        return kept[0] if kept else None

    def agree(self, mine: T) -> T:
        """What the first process found: all go by that."""
        return self.first_does(lambda: mine)

    def any(self, mine: bool) -> bool:
        """Whether it holds in one process at least."""
        return any(self.each(lambda: mine))

    def require_same(self, what: str, mine: Callable[[], Any]) -> None:
        """Check that something is the same in all processes.

        Args:
            what: In words.
            mine: Finds it in this one; not asked of a process alone.

        Raises:
            RunError: it is not.
        """
        if self.count == 1:
            return
        found = self.each(mine)
        if any(other != found[0] for other in found):
            raise RunError(
                f"the {self.count} processes of the run do not have the same {what}; give all of "
                "them the same data, versions and kind of machine, then resume the run or start "
                "it again"
            )

    def add(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sums over the processes, in one exchange.

        Args:
            tensors: On one device; those of each process have the same shapes.
        """
        if self.count == 1:
            return list(tensors)
        self.lockstep.finish()
        flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
        with _talking():
            flat = reduce(flat, reduction="sum")
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [
            part.view_as(tensor).to(tensor.dtype)
            for part, tensor in zip(parts, tensors, strict=True)
        ]


ALONE: Final = Ranks()
"""The one process of a run that nobody shares."""


def leave_others() -> None:
    """Hang up, when all is done."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        PartialState().destroy_process_group()


def _is_set(name: str) -> bool:
    """Whether a switch of Accelerate's is on."""
    return os.environ.get(name, "").lower() in ("true", "1", "yes")


def _result(value: Any, error: StablePromptError | None) -> Any:
    if error is not None:
        raise error
    return value


@contextmanager
def _talking() -> Iterator[None]:
    """Say in a user's words that others do not answer."""
    try:
        yield
    except RuntimeError as error:  # of gloo and of NCCL alike
        raise gone(error) from error
