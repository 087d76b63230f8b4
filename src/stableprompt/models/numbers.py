"""Broken numbers, NaN and infinities: which tensor holds them, in words for a message."""

from collections.abc import Mapping

from torch import Tensor

from stableprompt.errors import ModelError, NumberError


def broken_in(tensors: Mapping[str, Tensor | None]) -> str | None:
    """The first tensor that is not finite, and what it holds; None where all are finite.

    Args:
        tensors: By name; of any shape, None is passed over.
    """
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        broken = tensor[~tensor.isfinite()]
        if broken.numel():
            kind = "NaN" if bool(broken.isnan().any()) else "infinity"
            return f"{name}: {kind} in {broken.numel()} of {tensor.numel()}"
    return None


def require_sound_logits(logits: Tensor, whose: str) -> None:
    """Check that there is a most probable token in each row; single tokens may be impossible.

    Args:
        logits: Shape (P, V).
        whose: For the message.

    Raises:
        NumberError: a row has a NaN, an infinity, or no token that is possible.
    """
    # A largest number is NaN where one of them is, and -inf where all are.
    found = broken_in({f"logits of {whose}, their largest by row": logits.amax(dim=-1)})
    if found is not None:
        raise NumberError(found)


def not_finite(target: str) -> ModelError:
    """The error of a target that gives no finite probabilities: it is frozen, so it stays so."""
    return ModelError(
        f"the target {target!r} gave probabilities that are not finite; start a new run with "
        "--set target.dtype=float32, or with another target (this one's folder is sound: resume it "
        "where the target works)"
    )
