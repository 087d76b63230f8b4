"""Everything random in a run, derived from its seed and from what the numbers are for.

There is no generator whose state would have to be saved: step 7 draws the same numbers whether
or not the run was killed after step 6.
"""

import hashlib
import random

import torch
from torch import Tensor


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, the same in every process."""
    name = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def derive_random(seed: int, *purpose: str | int) -> random.Random:
    """A generator for choices in Python."""
    return random.Random(derive_seed(seed, *purpose))


def derive_uniforms(seed: int, *purpose: str | int, rows: int, length: int) -> Tensor:
    """Uniform numbers in [0, 1), float64, (rows, length).

    Each row has a generator of its own, so that a row does not depend on how many there are.
    """
    drawn = []
    for row in range(rows):
        generator = torch.Generator().manual_seed(derive_seed(seed, *purpose, row))
        drawn.append(torch.rand(length, generator=generator, dtype=torch.float64))
    return torch.stack(drawn)
