"""From the target's label probabilities to one reward per prompt. Pure, no models."""

import torch
from torch import Tensor


def softmax_difference(label_probs: Tensor, labels: Tensor) -> Tensor:
    """p(correct) minus the largest p(incorrect) (StablePrompt eq. 14), in [-1, 1].

    Args:
        label_probs: The target's probabilities of the labels, rows sum to 1, (N, C), C >= 2.
        labels: Index of the correct label, (N,).

    Returns:
        Shape (N,).
    """
    correct = label_probs.gather(1, labels.unsqueeze(1)).squeeze(1)
    # -inf, not 0: the correct label must be out of the running for the maximum.
    others = label_probs.scatter(1, labels.unsqueeze(1), -torch.inf)
    return correct - others.max(dim=1).values


def correctness(label_probs: Tensor, labels: Tensor) -> Tensor:
    """Whether the most probable label is the correct one; a tie is not.

    Args:
        label_probs: The target's probabilities of the labels, (N, C).
        labels: Index of the correct label, (N,).

    Returns:
        Booleans, (N,).
    """
    return softmax_difference(label_probs, labels) > 0


def prompt_reward(
    accuracy: float, difference: float, *, accuracy_weight: float, softmax_weight: float
) -> float:
    """R = c_a * accuracy + c_s * mean softmax difference (StablePrompt eq. 13).

    Args:
        accuracy: Share of correct examples, 0-1.
        difference: Mean softmax difference, in [-1, 1].
        accuracy_weight: c_a.
        softmax_weight: c_s.
    """
    return accuracy_weight * accuracy + softmax_weight * difference
