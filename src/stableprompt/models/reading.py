"""Read a tree of token sequences: every node once, behind the keys and values of those above."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from stableprompt.models.loading import LoadedModel
from stableprompt.models.memory import halve_when_full
from stableprompt.models.prefix import cache_of, right_pad
from stableprompt.models.tree import Node


@dataclass(frozen=True, slots=True)
class Reading:
    """What the model made of some nodes, read in one batch of R rows."""

    nodes: tuple[Node, ...]
    states: Tensor
    """Last hidden states, right-padded, (R, T, H)."""
    cache: Any
    """Keys and values of each row's whole path, or None where nothing follows.

    A path is contiguous: padding stands left of it (P - start of them) or right, never inside. A
    sliding window, which counts places, sees what it would see without padding.
    """
    before: int
    """P: places of the cache before the tokens of the nodes."""

    def continued(self, paths: Sequence[tuple[int, int]]) -> DynamicCache:
        """Beginnings of the rows' paths as a new cache, right-aligned: padding stands left.

        Args:
            paths: A row, and how many tokens of its path; the same row may come several times.
        """
        device = self.states.device
        rows, lengths = zip(*paths, strict=True)
        ends = [self.before - self.nodes[row].start + length for row, length in paths]
        shift = torch.tensor(ends, device=device)[:, None] - max(lengths)
        # Left of the path stands whatever is there: the mask hides it.
        places = (torch.arange(max(lengths), device=device) + shift).clamp(min=0)
        chosen = torch.tensor(rows, device=device)[:, None]
        return cache_of(
            # Picked as (rows, places, heads, size of a head); attention wants the heads first.
            (
                layer.keys[chosen, :, places].transpose(1, 2),
                layer.values[chosen, :, places].transpose(1, 2),
            )
            for layer in self.cache.layers
        )


class Reader:
    """Reads trees with one model.

    Args:
        loaded: The model.
        max_batch_tokens: Tokens of one batch: padding, and what stands before, included.
        room: Tokens that will be written behind each row; they count for the batch, and the
            cache of every reading is kept.
    """

    def __init__(self, loaded: LoadedModel, *, max_batch_tokens: int, room: int = 0) -> None:
        self._loaded = loaded
        self._body = loaded.model.base_model
        self._max_batch_tokens = max_batch_tokens
        self._room = room
        # Some architectures take none (ALiBi, state spaces): their positions follow the mask.
        self._positions = "position_ids" in inspect.signature(self._body.forward).parameters

    @torch.no_grad()
    def read(self, forest: Sequence[Node]) -> Iterator[Reading]:
        """Every node of the tree once; the caches of one branch alone are alive at a time."""
        yield from self._below([(node, 0) for node in forest], None)

    def _below(self, places: list[tuple[Node, int]], above: Reading | None) -> Iterator[Reading]:
        """Nodes with the row of ``above`` that holds their path."""
        for batch in self._batches(places):
            for reading in halve_when_full(batch, lambda part: self._run(part, above)):
                yield reading
                follow = [(c, row) for row, node in enumerate(reading.nodes) for c in node.children]
                if follow:
                    yield from self._below(follow, reading)
                del reading  # its cache would live on while the next batch is read

    def _batches(self, places: list[tuple[Node, int]]) -> Iterator[list[tuple[Node, int]]]:
        """Nodes of like length together; the tree alone fixes the order."""
        batch: list[tuple[Node, int]] = []
        before = 0
        for place in sorted(places, key=lambda p: (len(p[0].ids), p[0].start)):
            before = max(before, place[0].start)
            tokens = before + len(place[0].ids) + self._room
            # Padding has positions too: a learned table of them ends with the context.
            full = tokens * (len(batch) + 1) > self._max_batch_tokens
            if batch and (full or tokens > self._loaded.context_length):
                yield batch
                batch, before = [], place[0].start
            batch.append(place)
        if batch:
            yield batch

    def _run(self, places: Sequence[tuple[Node, int]], above: Reading | None) -> Reading:
        loaded = self._loaded
        nodes = tuple(node for node, _ in places)
        ids, mask = right_pad(
            [node.ids for node in nodes], int(loaded.tokenizer.pad_token_id), loaded.device
        )
        starts = torch.tensor([node.start for node in nodes], device=loaded.device)
        options: dict[str, Any] = {}
        if self._positions:
            options["position_ids"] = starts[:, None] + torch.arange(
                ids.shape[1], device=loaded.device
            )
        keep = self._room > 0 or any(node.children for node in nodes)
        cache, before = None, 0
        if above is not None:
            before = max(node.start for node in nodes)
            cache = above.continued([(row, node.start) for node, row in places])
            places_before = torch.arange(before, device=loaded.device)
            seen = places_before >= before - starts[:, None]
            mask = torch.cat([seen.to(mask.dtype), mask], dim=1)
        elif keep:
            cache = DynamicCache()  # without the model's settings: sliding layers keep everything
        out = self._body(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
            **options,
        )
        return Reading(nodes, out.last_hidden_state, cache if keep else None, before)
