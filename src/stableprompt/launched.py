"""What a launcher put into the environment of this process: one of how many it is.

Torch's launcher and the kinds of MPI that Accelerate starts processes with each have names of their
own for it. Nothing is loaded to know it, so that who speaks for all is known at once.
"""

import os
from typing import Final

_COUNTS: Final = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_NUMBERS: Final = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


def process_count() -> int:
    """How many were launched together."""
    return max(int(os.environ.get(name) or 1) for name in _COUNTS)


def process_number() -> int:
    """Of this process among them: the first, 0, speaks for all."""
    if process_count() <= 1:
        return 0
    return next((int(os.environ[name]) for name in _NUMBERS if name in os.environ), 0)
