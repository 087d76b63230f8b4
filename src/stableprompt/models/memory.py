"""Go on with half a batch where a whole one does not fit."""

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import torch
from accelerate.utils.memory import should_reduce_batch_size

from stableprompt.errors import ModelError, StablePromptError

Item = TypeVar("Item")
Result = TypeVar("Result")

_M_MMAP_THRESHOLD: Final = -3  # malloc.h
_LARGE_BLOCK: Final = 2**20  # bytes

# What accelerate does not know: the driver's own message, and cuBLAS that finds no workspace.
_SIGNS = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def halve_when_full(
    batch: Sequence[Item], run: Callable[[Sequence[Item]], Result]
) -> Iterator[Result]:
    """Run a batch; where memory runs out, its two halves instead, and so on down to one item.

    Args:
        batch: Items; of none nothing is made.
        run: Called with consecutive parts of the batch.

    Yields:
        What ``run`` returned, in order; one part's result can be dropped before the next runs.

    Raises:
        RuntimeError: one item alone does not fit.
    """
    parts = [list(batch)] if batch else []
    while parts:
        part = parts.pop(0)
        try:
            result = run(part)
        except (RuntimeError, MemoryError) as error:
            if len(part) == 1 or not ran_out_of_memory(error):
                raise
        else:
            yield result
            del result  # it would live on while the next part runs
            continue
        # Out of the handler: the exception held the tensors of the failed try alive.
        free_memory()
        middle = len(part) // 2
        parts[:0] = [part[:middle], part[middle:]]


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch could help."""
    known: Any = should_reduce_batch_size
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    return any(sign in str(error) for sign in _SIGNS) or bool(known(error))


@contextmanager
def told_when_full() -> Iterator[None]:
    """Say in a user's words that memory has run out for good; also a decorator.

    Raises:
        ModelError: not even one row fits.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, StablePromptError) or not ran_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"memory ran out even with a batch of one row ({reason}); a run goes on from its last "
            "checkpoint where there is more memory: resume it there, or start a new one with a "
            "smaller model, --set dtype=bfloat16, --set quantize=4bit, or shorter texts "
            "(agent.max_prompt_tokens, agent.num_demonstrations)"
        ) from error


def settle_worker(threads: int) -> None:
    """Set up a process of our own that makes one run after the other.

    Args:
        threads: Its share of the processor's cores.
    """
    torch.set_num_threads(threads)
    # By default glibc raises this limit with what is freed, up to 32 MiB: activations then lie in
    # its heap, where what outlives them keeps their room from being given back.
    if (set_option := _of_glibc("mallopt")) is not None:
        set_option(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


def free_memory() -> None:
    """Give back what nobody holds any more: after a failed try, after a run."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    # glibc keeps what was freed in the middle of its heap until it is told not to.
    if (trim := _of_glibc("malloc_trim")) is not None:
        trim(0)


def _of_glibc(name: str) -> Any:
    """A function of the C library; None where it has none of this name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
