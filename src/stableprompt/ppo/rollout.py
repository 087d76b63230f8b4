"""What one step collects, as one record."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rollout:
    """The prompts that were written in one step, with everything PPO needs to learn from them.

    Whoever adds a tensor adds its line here.
    """

    query_ids: Tensor
    """Token ids of the meta-prompt that was read, or of what all of them begin with, (Q,)."""
    response_ids: Tensor
    """Token ids of the prompts, right-padded, (P, T)."""
    mask: Tensor
    """True for real tokens: up to and including the end-of-turn token, (P, T)."""
    old_logprobs: Tensor
    """Under the policy that sampled, temperature included, (P, T)."""
    anchor_logprobs: Tensor
    """The same tokens under the anchor, (P, T)."""
    entropies: Tensor
    """Of the policy's distribution before each token, nats, (P, T)."""
    old_values: Tensor
    """Value of the state before each token, when it was sampled, (P, T)."""
    rewards: Tensor
    """One reward per prompt, (P,)."""
    tails: tuple[tuple[int, ...], ...] = ()
    """What each row read behind that: the rest of its own meta-prompt. () where that was all."""
    groups: Tensor | None = None
    """Which meta-prompt each row answers, from 0, (P,); None: all rows the same one."""
    num_sampled: int | None = None
    """How many rows the policy has just written: the first ones. The others are replayed, and say
    nothing about its distribution. None: all."""

    @property
    def sampled_mask(self) -> Tensor:
        """The mask, with replayed rows out, (P, T)."""
        mask = self.mask.clone()
        if self.num_sampled is not None:
            mask[self.num_sampled :] = False
        return mask
