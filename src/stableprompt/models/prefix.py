"""Run a shared beginning through a model once, then continue it in many rows.

Continuations are padded on the right, so positions and masks are those of a plain forward pass.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values of one layer, with room for what will be written behind them.

    The usual layer is copied as a whole for every token: with a long meta-prompt, that copy costs
    more than the token itself.

    Args:
        keys: Of what was read, (rows, heads, tokens, size of a head).
        values: The same shape.
        room: So many tokens may follow.
    """

    def __init__(self, keys: Tensor, values: Tensor, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        self._used = keys.shape[2]
        shape = (*keys.shape[:2], self._used + room, keys.shape[3])
        self._all_keys, self._all_values = keys.new_empty(shape), values.new_empty(shape)
        self._all_keys[:, :, : self._used] = keys
        self._all_values[:, :, : self._used] = values
        self._show()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Put new keys and values behind the others; all of them come back."""
        start, self._used = self._used, self._used + key_states.shape[2]
        # narrow, not a slice: one token too many must be an error, not be lost.
        length = key_states.shape[2]
        self._all_keys.narrow(2, start, length).copy_(key_states)
        self._all_values.narrow(2, start, length).copy_(value_states)
        return self._show()

    def _show(self) -> tuple[Tensor, Tensor]:
        keys, values = self._all_keys[:, :, : self._used], self._all_values[:, :, : self._used]
        self.keys, self.values = keys, values
        return keys, values


def repeat_cache(cache: Any, rows: int, *, room: int = 0) -> DynamicCache:
    """A one-row cache repeated over ``rows`` rows; gradients flow through.

    Args:
        cache: One row, made as ``DynamicCache()``.
        rows: How many continue it.
        room: Tokens to keep room for; only without gradient. 0 copies nothing.
    """
    pairs = [
        (layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1))
        for layer in cache.layers
    ]
    if not room:
        return cache_of(pairs)
    repeated = DynamicCache()
    repeated.layers = [RoomyLayer(keys, values, room) for keys, values in pairs]
    return repeated


def cache_of(pairs: Iterable[tuple[Tensor, Tensor]]) -> DynamicCache:
    """A cache that holds these keys and values, layer by layer, without copying them."""
    cache = DynamicCache()
    for keys, values in pairs:
        layer = DynamicLayer()  # type: ignore[no-untyped-call]
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def right_pad(
    rows: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token ids and mask of rows of unequal length, (rows, longest) each."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[number, : len(row)] = 1
    return ids.to(device), mask.to(device)
