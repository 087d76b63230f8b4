"""What an agent wrote, and what was found out about it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

OnEnd = Callable[[Sequence[int], Sequence[str]], None]
"""Told of rows that have ended, by number, and of what they say."""


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

    def only(self, rows: Sequence[int]) -> "Responses":
        """Some of the prompts, in this order."""
        chosen = list(rows)
        return Responses(
            self.ids[chosen],
            self.mask[chosen],
            tuple(self.texts[row] for row in chosen),
            tuple(self.truncated[row] for row in chosen),
        )

    def above(self, others: "Responses") -> "Responses":
        """These prompts, and below them others for the same meta-prompt."""
        width = max(self.ids.shape[1], others.ids.shape[1])
        ids, mask = (
            torch.cat([pad(part, (0, width - part.shape[1])) for part in parts])
            for parts in ((self.ids, others.ids), (self.mask, others.mask))
        )
        return Responses(ids, mask, self.texts + others.texts, self.truncated + others.truncated)


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
