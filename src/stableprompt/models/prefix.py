"""Run a shared prefix through a model once, then continue it in many ways.

The key-value cache of the prefix is repeated over the rows of a batch; continuations are padded
on the right, so positions and masks are those of a plain forward pass.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def head_inputs(model: Any) -> Iterator[list[Tensor]]:
    """Collect what the language-model head reads: the last hidden states, (rows, tokens, hidden).

    A hook sees them for any architecture without keeping the hidden states of every layer.
    """
    seen: list[Tensor] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(
        lambda _module, arguments: seen.append(arguments[0])
    )
    try:
        yield seen
    finally:
        hook.remove()


def repeat_cache(cache: Any, rows: int) -> Any:
    """Repeat a one-row cache over ``rows`` rows, in place; gradients flow through."""
    device = cache.layers[0].keys.device
    cache.reorder_cache(torch.zeros(rows, dtype=torch.long, device=device))
    return cache


def right_pad(rows: list[list[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask of rows of unequal length, (rows, longest) each."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[number, : len(row)] = 1
    return ids.to(device), mask.to(device)


def shared_prefix_length(rows: list[list[int]]) -> int:
    """How many leading tokens all rows share, leaving each at least one of its own."""
    first, last = min(rows), max(rows)  # rows between two in sorted order share at least as much
    limit = min(len(row) for row in rows) - 1
    length = 0
    while length < limit and first[length] == last[length]:
        length += 1
    return length
