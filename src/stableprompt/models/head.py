"""From last hidden states to log-probabilities, a few rows at a time.

The vocabulary is wide: logits are the largest tensors of a run by far. Here they exist only for
the positions that are asked about, and only for so many of them at once.
"""

from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from stableprompt.models.numbers import require_sound_logits

MAX_LOGITS = 2**24  # elements at once: 64 MiB of float32


class Head:
    """A model's output layer, with whatever the model does to its logits after it.

    Some architectures scale or cap them. Whether this one does is measured once; where it does,
    the states are sent through the model's own code, in the place of those of a one-token input.

    Args:
        model: A causal language model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._layer = model.get_output_embeddings()
        self._plain: bool | None = None

    def logits(self, states: Tensor) -> Tensor:
        """Float32 logits of K states, (K, H) to (K, V)."""
        raw = self._layer(states) if self.plain else self._through_model(states)
        return raw.float()

    @property
    def plain(self) -> bool:
        """Whether logits are what the output layer gives; measured once."""
        if self._plain is None:
            self._plain = self._is_plain()
        return self._plain

    def rounded_away(self, states: Tensor, tokens: Tensor, logits: Tensor) -> Tensor:
        """What half precision took from single logits: the exact ones minus those given, (K,).

        A logit near 20 has steps of 1/8 in bfloat16: two answers that the model tells apart tie.
        0 where nothing was rounded, and where an architecture has more than a linear layer.

        Args:
            states: Last hidden states, (K, H).
            tokens: Token ids, (K,).
            logits: Of these tokens, from ``logits``, (K,).
        """
        weight = self._layer.weight
        if not self.plain or weight.dtype not in (torch.bfloat16, torch.float16):
            return torch.zeros_like(logits)
        exact: Tensor = (states.float() * weight[tokens].float()).sum(dim=1)
        if (bias := getattr(self._layer, "bias", None)) is not None:
            exact = exact + bias[tokens].float()
        return exact - logits

    @property
    def rows_at_once(self) -> int:
        """How many states' logits may exist at a time."""
        return max(1, MAX_LOGITS // int(self._layer.weight.shape[0]))

    def told(
        self, states: Tensor, tokens: Tensor, *, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of one token behind each state, and the entropy there in nats.

        With gradient and more than one part, the logits of a part are not kept for the backward
        pass: they are made again there. The entropy never has a gradient.

        Args:
            states: Last hidden states, (K, H).
            tokens: Token ids, (K,).
            temperature: Divides the logits.

        Returns:
            Two tensors (K,), float32.
        """
        size = self.rows_at_once
        parts = list(zip(torch.split(states, size), torch.split(tokens, size), strict=True))
        if len(parts) > 1 and torch.is_grad_enabled():
            told = [
                checkpoint(self._told, *part, temperature, use_reentrant=False) for part in parts
            ]
        else:
            told = [self._told(*part, temperature) for part in parts]
        logprobs, entropies = zip(*told, strict=True)
        return torch.cat(logprobs), torch.cat(entropies)

    def _told(self, states: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logits = self.logits(states) / temperature
        total = logits.logsumexp(dim=1)
        with torch.no_grad():
            chances = (logits - total.unsqueeze(1)).exp_()
            entropies = total - chances.mul_(logits).sum(dim=1)
        return logits.gather(1, tokens.unsqueeze(1)).squeeze(1) - total, entropies

    @torch.no_grad()
    def _is_plain(self) -> bool:
        ids = torch.arange(2, device=self._layer.weight.device).unsqueeze(0)
        states = self._model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        logits = self._model(input_ids=ids, use_cache=False).logits
        return bool(
            torch.allclose(self._layer(states).float(), logits.float(), rtol=1e-3, atol=1e-3)
        )

    def _through_model(self, states: Tensor) -> Tensor:
        hook = self._layer.register_forward_pre_hook(lambda _layer, _given: (states.unsqueeze(0),))
        try:
            ids = torch.zeros((1, 1), dtype=torch.long, device=states.device)
            out: Tensor = self._model(input_ids=ids, use_cache=False).logits
        finally:
            hook.remove()
        return out.squeeze(0)


def next_token(logits: Tensor, uniforms: Tensor | None, temperature: float) -> Tensor:
    """One token a row, (P,): drawn from the softmax, or the most probable one.

    It is drawn by the Gumbel trick: the largest of log-probability plus noise, where the noise of
    each token follows from the row's number and the token alone. Two distributions that are nearly
    equal then draw the same token nearly always (arXiv 1411.0030, 1612.01041): in batches of other
    sizes, whose last digits differ, and of a policy and its anchor. Where one number is looked up
    in both cumulative sums, all small differences before it add up.

    Args:
        logits: Shape (P, V).
        uniforms: Numbers in [0, 1), float64, (P,); None takes the most probable token.
        temperature: What logits are divided by.

    Raises:
        NumberError: the logits of a row are broken: some token would be taken all the same.
    """
    require_sound_logits(logits, "the agent, which writes")
    if uniforms is None:
        return logits.argmax(dim=-1)
    noise = _gumbel(uniforms.to(logits.device), logits.shape[-1])
    return (logits.float() / temperature + noise).argmax(dim=-1)


def _gumbel(uniforms: Tensor, vocabulary: int) -> Tensor:
    """Independent Gumbel numbers for each token, float32, (P, V).

    Made from integers and not by torch's generators, whose numbers differ from device to device and
    which know no number of a row and a token without all those before it.
    """
    bits = (uniforms * 2.0**53).long().unsqueeze(1)
    tokens = _mixed(torch.arange(vocabulary, dtype=torch.int32, device=uniforms.device))
    # 53 bits of a row and those of a token in 32: a row by its upper half, then by its lower one.
    upper, lower = (bits >> 22).int(), ((bits << 1 | 1) & 2**23 - 1).int()
    mixed = _mixed((tokens ^ upper) * lower) & 2**31 - 1
    # Of numbers near 0 float32 keeps all digits: those are the tokens that are drawn.
    chances = mixed.float().add_(0.5).mul_(2.0**-31)
    return chances.neg_().log1p_().neg_().log_().neg_()


def _mixed(bits: Tensor) -> Tensor:
    """32 bits, each of which depends on each of those given (lowbias32, C. Wellons, 2018)."""
    for shift, factor in ((16, _FIRST), (15, _SECOND)):
        bits = (bits ^ (bits >> shift & 2 ** (32 - shift) - 1)) * factor
    return bits ^ (bits >> 16 & 2**16 - 1)


_FIRST: Final = 0x7FEB352D
_SECOND: Final = 0x846CA68B - 2**32  # as a signed number: what overflows wraps around
