"""What an agent wrote, and what was found out about it."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Responses:
    """Prompts as they were sampled."""

    ids: Tensor
    """Token ids, right-padded, (P, T)."""
    mask: Tensor
    """True up to and including the end-of-turn token, (P, T)."""
    texts: tuple[str, ...]
    """Decoded, without special tokens, stripped."""
    truncated: tuple[bool, ...]
    """Whether the length cap cut the prompt before its end-of-turn token."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one role thinks of given responses; shapes (P, T)."""

    logprobs: Tensor
    """Of the tokens, at the sampling temperature."""
    entropies: Tensor
    """Of the distribution before each token, nats, without gradient."""
    values: Tensor
    """Predicted return before each token."""


@dataclass(frozen=True, slots=True)
class Surprisal:
    """What it costs a model to read a text."""

    nats: float
    """Negative log-likelihood of the whole text."""
    num_tokens: int


def choose(logits: Tensor, uniforms: Tensor | None, temperature: float) -> Tensor:
    """One token a row, (P,): by inverting the cumulative distribution, or the most probable one.

    Args:
        logits: Shape (P, V).
        uniforms: Numbers in [0, 1), float64, (P,); None takes the most probable token.
        temperature: What logits are divided by.
    """
    if uniforms is None:
        return logits.argmax(dim=-1)
    chances = (logits.double() / temperature).softmax(dim=-1)  # (P, V)
    cumulative = chances.cumsum(dim=-1)
    # Scaled by the last entry, so that rounding can never leave a number above every step.
    wanted = (uniforms.to(logits.device) * cumulative[:, -1]).unsqueeze(1)
    token = torch.searchsorted(cumulative, wanted, right=True).squeeze(1)
    return token.clamp(max=logits.shape[-1] - 1)
