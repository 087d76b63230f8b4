"""The APPO objective, term by term.

    loss = policy loss + value_coef * value loss + kl_coef * KL(policy || anchor)

The KL is a term of the *loss*, as printed in StablePrompt eq. 11, with the sign that makes it
a penalty (the paper prints +A and no coefficient). It is not put into the reward.
"""

from typing import Final

import torch
from torch import Tensor

from stableprompt.ppo.masked import masked_mean

_LARGEST: Final = 20.0  # nats


def clipped_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, *, clip_range: float
) -> Tensor:
    """PPO's clipped surrogate (arXiv 1707.06347 eq. 7), negated to be minimised.

    StablePrompt eq. 6 prints it without the min; without the min a bad step is not held back.

    Args:
        logprobs: Log-probabilities under the policy as it is now, (P, T), with gradient.
        old_logprobs: Log-probabilities under the policy when it sampled, (P, T).
        advantages: Shape (P, T).
        mask: True where a response token is real, (P, T).
        clip_range: Half-width of the trust region of the ratio.

    Returns:
        A scalar, mean over real tokens.
    """
    ratio = (logprobs - old_logprobs).exp()
    unclipped = advantages * ratio
    clipped = advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    return -masked_mean(torch.minimum(unclipped, clipped), mask)


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, clip_range: float
) -> Tensor:
    """Half the squared error of the value head, with the step clipped (StablePrompt eq. 3).

    Args:
        values: Values as they are now, (P, T), with gradient.
        old_values: Values when the policy sampled, (P, T).
        returns: What they should have been, (P, T).
        mask: True where a response token is real, (P, T).
        clip_range: How far a value may move before its gradient is cut.

    Returns:
        A scalar, mean over real tokens.
    """
    moved = old_values + (values - old_values).clamp(-clip_range, clip_range)
    error = torch.maximum((values - returns).square(), (moved - returns).square())
    return 0.5 * masked_mean(error, mask)


def anchor_kl_loss(logprobs: Tensor, anchor_logprobs: Tensor, mask: Tensor) -> Tensor:
    """KL(policy || anchor) as a differentiable term: the k2 estimator, half the squared log-ratio.

    On tokens drawn from the policy its *gradient* is that of KL(policy || anchor); the gradient
    of the k3 estimator is that of the reversed KL (http://joschu.net/blog/kl-approx.html names
    the estimators). Use ``anchor_kl`` to report the KL itself.

    Args:
        logprobs: Under the policy, (P, T), with gradient.
        anchor_logprobs: The same tokens under the anchor, (P, T).
        mask: True where a response token is real, (P, T).

    Returns:
        A scalar, nats squared per token; 0 when both agree.
    """
    return 0.5 * masked_mean((logprobs - anchor_logprobs).square(), mask)


def anchor_kl(logprobs: Tensor, anchor_logprobs: Tensor, mask: Tensor) -> Tensor:
    """KL(policy || anchor) for reporting: the k3 estimator, never negative, in nats per token.

    Args:
        logprobs: Under the policy, (P, T).
        anchor_logprobs: The same tokens under the anchor, (P, T).
        mask: True where a response token is real, (P, T).

    Returns:
        A scalar.
    """
    # Clamped: one token that the other side holds for impossible must not make the mean infinite.
    difference = (anchor_logprobs - logprobs).clamp(max=_LARGEST)
    # expm1, not exp - 1: early differences are small, and float32 would lose their digits.
    return masked_mean(difference.expm1() - difference, mask)


def clip_fraction(
    logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, *, clip_range: float
) -> Tensor:
    """Share (0-1) of real tokens whose ratio left the trust region.

    Args:
        logprobs: Under the policy as it is now, (P, T).
        old_logprobs: Under the policy when it sampled, (P, T).
        mask: True where a response token is real, (P, T).
        clip_range: Half-width of the trust region of the ratio.

    Returns:
        A scalar.
    """
    ratio = (logprobs - old_logprobs).exp()
    return masked_mean(((ratio - 1).abs() > clip_range).float(), mask)
