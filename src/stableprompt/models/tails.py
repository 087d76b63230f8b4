"""Rows that begin alike and then read something of their own before they are written.

One meta-prompt for several inputs: what is common is read once, the *tail* of each row, which
holds its input, behind it. Tails are padded on the left, so that all rows are written from the
same column on; positions are those of each row alone.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from stableprompt.models.tree import common_length

Tails = Sequence[tuple[int, ...]]
"""Token ids of each row's tail, none empty; () where rows have none."""


def split_off(queries: Sequence[Sequence[int]]) -> tuple[list[int], list[tuple[int, ...]]]:
    """What all queries begin with, and the tail of each; one token at least is left to each.

    >>> split_off([[1, 2, 3], [1, 2], [1, 2, 4, 5]])
    ([1], [(2, 3), (2,), (2, 4, 5)])
    """
    first = queries[0]
    shared = min(min(len(query) - 1, common_length(first, query)) for query in queries)
    return list(first[:shared]), [tuple(query[shared:]) for query in queries]


def left_pad(tails: Tails, pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and which of them are real, (P, S) each; S is the longest tail."""
    width = max(map(len, tails))
    ids = [[pad_id] * (width - len(tail)) + list(tail) for tail in tails]
    real = [[False] * (width - len(tail)) + [True] * len(tail) for tail in tails]
    return torch.tensor(ids, device=device), torch.tensor(real, device=device)


def positions(real: Tensor) -> Tensor:
    """The position of each token in its row, padding not counted, (P, W)."""
    return (real.long().cumsum(dim=1) - 1).clamp(min=0)


def by_tail(query_ids: Tensor, tails: Tails) -> Iterator[tuple[Tensor, list[int]]]:
    """Each whole query once, and the rows that read it."""
    for tail in dict.fromkeys(tails):
        rows = [row for row, own in enumerate(tails) if own == tail]
        yield torch.cat([query_ids, torch.tensor(tail, device=query_ids.device)]), rows


def apart(
    query_ids: Tensor,
    tails: Tails,
    run: Callable[[Tensor, list[int]], tuple[Tensor, ...]],
) -> tuple[Tensor, ...]:
    """Where rows of unequal length cannot be read together: query by query.

    Args:
        query_ids: What all rows begin with, (Q,).
        tails: The rest of each row's query.
        run: Takes a whole query and numbers of rows, gives tensors with these rows.

    Returns:
        The same tensors with all rows, in order.
    """
    numbers, found = [], []
    for whole, rows in by_tail(query_ids, tails):
        numbers += rows
        found.append(run(whole, rows))
    order = torch.tensor(numbers, device=query_ids.device).argsort()
    return tuple(torch.cat(parts)[order] for parts in zip(*found, strict=True))


def read_tails(
    body: Any, pad_id: int, tails: Tails, seen: Tensor, cache: Any
) -> tuple[Tensor, Tensor]:
    """Run what each row reads behind the common beginning.

    Args:
        body: The layers of the model.
        pad_id: Fills up shorter tails, on the left.
        tails: Token ids, P of them.
        seen: Which places of the cache are real, (P, Q).
        cache: Of the common beginning; grows.

    Returns:
        The last state of each row, (P, H); which places of the cache are real, (P, Q + S).
    """
    ids, real = left_pad(tails, pad_id, seen.device)
    seen = torch.cat([seen, real], dim=1)
    out = body(
        ids,
        attention_mask=seen.long(),
        position_ids=positions(seen)[:, -ids.shape[1] :],
        past_key_values=cache,
        use_cache=True,
    )
    return out.last_hidden_state[:, -1], seen
