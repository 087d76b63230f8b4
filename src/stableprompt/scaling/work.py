"""What a model has to do to read, to write and to learn; seconds are linear in it."""

from dataclasses import dataclass, replace
from typing import Final, Self

from stableprompt.scaling.machines import (
    LINK_SECONDS,
    LINK_SHARE,
    NETWORK,
    NODE,
    Machine,
    Speed,
)
from stableprompt.scaling.shapes import Shape

# Elements that one token moves in one layer beside the weights, read or written: norms, rotations,
# residuals and attention over the width; activation and product over the feed-forward width.
_WIDTHS_MOVED: Final = 20
_INTERMEDIATES_MOVED: Final = 8
_LORA_LAUNCHES: Final = 1.0
"""An adapter on every linear layer makes a pass this much longer in launches."""

COMPUTE: Final = "matrix products"
WEIGHTS: Final = "reading weights"
STATES: Final = "moving activations, keys and values"
LAUNCHES: Final = "starting layers"
LINKS: Final = "exchange between devices"


@dataclass(frozen=True, slots=True)
class Work:
    """Counts; what is done one after the other adds up."""

    flops: float = 0.0
    """Forward."""
    backward_flops: float = 0.0
    weight_bytes: float = 0.0
    """Weights that are read, once in each pass."""
    other_bytes: float = 0.0
    """Activations, keys and values."""
    launches: float = 0.0
    """Layers that are started."""
    drawn: float = 0.0
    """Entries of the vocabulary that tokens are drawn from."""
    exchanges: float = 0.0
    """Between devices that hold parts of one model, were there several."""
    exchanged_bytes: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(_counts(self), _counts(other), strict=True)))

    def __mul__(self, times: float) -> "Work":
        return Work(*(times * count for count in _counts(self)))

    def split(self, devices: int) -> Self:
        """What each of several devices does that hold a part of the model each."""
        return replace(
            self,
            flops=self.flops / devices,
            backward_flops=self.backward_flops / devices,
            weight_bytes=self.weight_bytes / devices,
            other_bytes=self.other_bytes / devices,
        )


def _counts(work: Work) -> tuple[float, ...]:
    return (
        work.flops,
        work.backward_flops,
        work.weight_bytes,
        work.other_bytes,
        work.launches,
        work.drawn,
        work.exchanges,
        work.exchanged_bytes,
    )


@dataclass(frozen=True, slots=True)
class Held:
    """How a model is held."""

    shape: Shape
    bytes_each: float = 2.0
    """Of a number: of weights, keys and values, activations."""
    quantised: bool = False
    """Its linear layers but the output layer in 4 bits; they are unpacked in every pass."""
    lora: bool = False
    """Whether an adapter is on."""

    @property
    def pass_bytes(self) -> float:
        """Moved for the weights of all layers in one pass."""
        each = 0.5 + 2 * self.bytes_each if self.quantised else self.bytes_each
        return self.shape.linear_parameters * each


def reading(
    held: Held, tokens: float, *, before: float = 0.0, asked: float = 0.0, passes: float = 1.0
) -> Work:
    """A forward pass over tokens.

    Args:
        held: The model.
        tokens: So many are read, of all rows together.
        before: Places that a token attends to, on average.
        asked: Positions whose logits are made.
        passes: How often the weights are read for it.
    """
    shape, each = held.shape, held.bytes_each
    attention = 4.0 * shape.layers * shape.heads * shape.head_size * before
    moved = shape.layers * (
        _WIDTHS_MOVED * shape.hidden + _INTERMEDIATES_MOVED * shape.intermediate
    )
    heads_read = passes if asked else 0.0
    return Work(
        flops=tokens * (2.0 * shape.linear_parameters + attention)
        + 2.0 * asked * shape.head_parameters,
        weight_bytes=passes * held.pass_bytes + heads_read * shape.head_parameters * each,
        # Logits are made and looked at in float32.
        other_bytes=tokens * (moved + shape.kv_numbers) * each + 12.0 * asked * shape.vocabulary,
        launches=passes * shape.layers * (1.0 + _LORA_LAUNCHES * held.lora),
        exchanges=2.0 * passes * shape.layers,
        exchanged_bytes=2.0 * shape.layers * tokens * shape.hidden * each,
    )


def scoring(held: Held, *, read: float, pairs: float, context: float, batch_tokens: float) -> Work:
    """Log-probabilities of answers behind pairs of prompt and input, what they share read once.

    Args:
        held: The target.
        read: Tokens, shared ones once.
        pairs: So many contexts, each with a position whose logits are made.
        context: Tokens of one, on average.
        batch_tokens: Of one batch, what stands before included; see ``target.max_batch_tokens``.
    """
    # One for what all share, one for the prompts, and those of the inputs.
    passes = 2.0 + max(1.0, pairs * context / batch_tokens)
    work = reading(held, read, before=context, asked=pairs, passes=passes)
    # Keys and values of what stands before are copied for every row.
    copied = 2.0 * pairs * context * held.shape.kv_numbers * held.bytes_each
    return work + Work(other_bytes=copied)


def continuing(held: Held, rows: int, before: float, length: int) -> Work:
    """Rows that are written behind what was read, a token at a time.

    Args:
        held: The model.
        rows: So many together.
        before: Places that each has in its cache already.
        length: Tokens of each.
    """
    places = before + length / 2
    step = reading(held, rows, before=places, asked=rows)
    cache = rows * places * held.shape.kv_numbers * held.bytes_each
    drawn = float(rows * held.shape.vocabulary)
    return (step + Work(other_bytes=cache, drawn=drawn)) * length


def writing(held: Held, rows: int, query: float, length: int) -> Work:
    """Rows that go on behind one query that is read once."""
    return reading(held, query, before=query / 2) + continuing(held, rows, query, length)


def judging(held: Held, rows: int, query: float, length: float) -> Work:
    """Log-probabilities of rows behind one query that is read once."""
    read = reading(held, query, before=query / 2)
    before = query + length / 2
    return read + reading(held, rows * length, before=before, asked=rows * length)


def learning(held: Held, rows: int, query: float, length: float) -> Work:
    """The same with a backward pass to adapters: gradients of states, none of frozen weights."""
    forward = judging(held, rows, query, length)
    back = replace(forward, flops=0.0, backward_flops=forward.flops, launches=forward.launches)
    if held.shape.vocabulary * rows * length > 2**24:  # logits are then made a second time
        again = 2.0 * rows * length * held.shape.head_parameters
        back = replace(back, backward_flops=back.backward_flops + again)
    return forward + back


def seconds(work: Work, speed: Speed) -> float:
    """What it takes one device; nothing is taken to overlap."""
    return sum(costs(work, speed).values())


def costs(
    work: Work, speed: Speed, devices: int = 1, machine: Machine | None = None
) -> dict[str, float]:
    """Seconds by what limits them; nothing is taken to overlap.

    Args:
        work: All of it.
        speed: Of one device.
        devices: That hold a part of every layer each (tensor parallel): two exchanges a layer, in
            which every device sends and receives nearly all of the states twice.
        machine: Their links; needed where there are several.
    """
    each = work.split(devices)
    exchanging = 0.0
    if devices > 1 and machine is not None:
        share = 2 * (devices - 1) / devices
        exchanging = work.exchanges * LINK_SECONDS
        exchanging += work.exchanged_bytes * share / _link(machine, devices)
    return {
        COMPUTE: each.flops / speed.flops + each.backward_flops / speed.backward_flops,
        WEIGHTS: each.weight_bytes / speed.bandwidth,
        STATES: each.other_bytes / speed.bandwidth + work.drawn * speed.draw_seconds,
        LAUNCHES: work.launches * speed.layer_seconds,
        LINKS: exchanging,
    }


def gathering(work: Work, held: Held, devices: int, machine: Machine) -> float:
    """Seconds in which a model is put together whose layers are split over devices (FSDP): every
    layer anew in each pass, and before it all agree to make it.

    Args:
        work: Of one device; all of it with this model.
        held: The model, not quantised.
        devices: That hold a part of every layer each.
        machine: Their links.
    """
    layers = work.exchanges / 2  # reading counts two of each layer in a pass
    missing = held.pass_bytes / held.shape.layers * (devices - 1) / devices
    agreeing = layers / held.shape.layers * LINK_SECONDS
    return agreeing + layers * (LINK_SECONDS + missing / _link(machine, devices))


def _link(machine: Machine, devices: int) -> float:
    """Bytes a second that a device exchanges with others."""
    return (machine.link if devices <= NODE else min(machine.link, NETWORK)) * LINK_SHARE
