"""Go on with half a batch where a whole one does not fit."""

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from accelerate.utils.memory import should_reduce_batch_size

Item = TypeVar("Item")
Result = TypeVar("Result")

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


def free_memory() -> None:
    """Give back what a failed try held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
