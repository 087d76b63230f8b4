"""What one step collects, as one record."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rollout:
    """The prompts that were written for one query, with everything PPO needs to learn from them.

    Whoever adds a tensor adds its line here.
    """

    query_ids: Tensor
    """Token ids of the meta-prompt that was read, (Q,)."""
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
