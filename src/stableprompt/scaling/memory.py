"""What a run holds in a device's memory, in bytes."""

import math
from dataclasses import dataclass
from typing import Final

from stableprompt.scaling.shapes import Shape
from stableprompt.scaling.work import Held

_FLOAT: Final = 4
_QUANTISED_EACH: Final = 0.5 + 1 / 64 + 4 / (64 * 256)
"""NF4 in blocks of 64, whose scales have 8 bits in blocks of 256 (QLoRA, section 3)."""
_LOGITS_AT_ONCE: Final = 2**24
_PER_LOGIT: Final = 16
"""Bytes: as made, in float32, divided by the temperature, as probabilities."""
_PER_DRAWN: Final = 28
"""Bytes for each entry of the vocabulary and row: logits, and noise while it is mixed."""
ASIDE: Final = 1e9
"""Bytes that the driver's context and the libraries' workspaces are taken to need."""
FRAGMENTED: Final = 0.05
"""Of what is in use, so much more is taken to be lost between blocks."""
SERVER_SHARE: Final = 0.9
"""Of its device a server uses (vLLM's default)."""
SERVER_BATCH: Final = 8192
"""Tokens of one pass of a server."""


def weights(held: Held) -> float:
    """Of a model without adapters."""
    shape = held.shape
    linear = shape.linear_parameters * (_QUANTISED_EACH if held.quantised else held.bytes_each)
    return linear + (shape.parameters - shape.linear_parameters) * held.bytes_each


def split_weights(held: Held, devices: int) -> float:
    """Of a model whose layers are split over devices, on one of them: its part of each, three of
    them whole (one is called, the next one is fetched, and a buffer is in use), and all that
    belongs to no layer."""
    layers = held.shape.linear_parameters * held.bytes_each
    rest = weights(held) - layers
    return rest + layers / devices + 3 * layers / held.shape.layers


def adapters(shape: Shape, rank: int, *, learning: bool) -> float:
    """Policy and anchor in float32; where one learns its gradients and Adam's two moments, too."""
    each = shape.lora_parameters(rank) * _FLOAT
    return each * (5.0 if learning else 2.0)


def writing(held: Held, rows: int, query: float, length: int) -> float:
    """Keys and values of all rows, and the numbers that a token of each is drawn from."""
    places = rows * (query + length)
    return places * held.shape.kv_numbers * held.bytes_each + rows * held.shape.vocabulary * (
        _PER_DRAWN
    )


def scoring(held: Held, batch_tokens: int) -> float:
    """Keys and values of a batch and of what stands above it, one layer's activations, logits."""
    shape, each = held.shape, held.bytes_each
    caches = 2.0 * batch_tokens * shape.kv_numbers * each
    layer = batch_tokens * (6 * shape.hidden + 4 * shape.intermediate) * each
    return caches + layer + _LOGITS_AT_ONCE * (each + 2 * _FLOAT) + _unpacked(held)


def serving(held: Held, cached: float, devices: int) -> float:
    """Keys and values of the calls under way, and one layer's activations of a pass.

    Args:
        held: The target.
        cached: Tokens of all calls under way.
        devices: That hold a part of it each; no more of them than heads share keys and values.
    """
    shape, each = held.shape, held.bytes_each
    caches = cached * shape.kv_numbers * each / min(devices, shape.kv_heads)
    return caches + SERVER_BATCH * (6 * shape.hidden + 4 * shape.intermediate) * each / devices


def saved(held: Held, rows: int, query: float, length: float, rank: int) -> float:
    """What a forward pass keeps for the backward pass: nothing is made a second time.

    Each layer keeps the input of every adapter (in float32, a copy for each where the model is held
    in fewer bits), what the norms read, the feed-forward widths, queries and attention, and keys
    and values, which are repeated over rows and heads.
    """
    shape, each = held.shape, held.bytes_each
    width, queries = shape.hidden, shape.heads * shape.head_size
    inner = shape.intermediate
    token: float
    if each == _FLOAT:
        token = _FLOAT * (4 * width + 2 * queries + 4 * inner)
    else:
        token = _FLOAT * (7 * width + queries + inner) + each * (3 * inner + 2 * queries)
    token += 7 * rank * _FLOAT
    later = rows * max(0.0, length - 1)
    keys = 2 * each * shape.kv_heads * shape.head_size * query
    repeated = 2 * each * queries * rows * (query + max(0.0, length - 1))
    return shape.layers * ((query + later) * token + keys + repeated)


def learning(held: Held, rows: int, query: float, length: float, rank: int) -> float:
    """The peak of a forward and backward pass over some rows."""
    shape = held.shape
    logits = min(rows * length * shape.vocabulary, _LOGITS_AT_ONCE) * _PER_LOGIT
    # Gradients of one layer's activations exist beside what is kept.
    layer = saved(held, rows, query, length, rank) / shape.layers
    return saved(held, rows, query, length, rank) + logits + layer + _unpacked(held)


def _unpacked(held: Held) -> float:
    """A layer's largest matrix as numbers, where the weights have 4 bits."""
    largest = max(a * b for a, b in held.shape.linear_sizes)
    return largest * held.bytes_each if held.quantised else 0.0


def rows_that_fit(
    held: Held, rows: int, query: float, length: float, rank: int, room: float
) -> int:
    """Rows of a part of a minibatch: halved as the run halves them; 0: not even one row fits."""
    while rows and learning(held, rows, query, length, rank) > room:
        rows = rows // 2 if rows == 1 else math.ceil(rows / 2)
    return rows


@dataclass(frozen=True, slots=True)
class Memory:
    """What one device holds, by what for."""

    device: str
    size: float
    lasting: dict[str, float]
    """All the time."""
    passing: dict[str, float]
    """One after the other: the largest counts."""

    @property
    def needed(self) -> float:
        """At the peak, with what is held back."""
        return self._used + self.held_back

    @property
    def held_back(self) -> float:
        """For the driver and the libraries, and what is lost between blocks."""
        return self._used * FRAGMENTED + ASIDE

    @property
    def _used(self) -> float:
        return sum(self.lasting.values()) + max(self.passing.values(), default=0.0)

    @property
    def fits(self) -> bool:
        """Whether there is so much."""
        return self.needed <= self.size
