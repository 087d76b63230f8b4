"""From the target's probabilities of the answers to one reward per prompt. Pure, no models."""

import torch
from torch import Tensor


def softmax_difference(label_probs: Tensor, right: Tensor) -> Tensor:
    """p(correct) minus the largest p(incorrect) (StablePrompt eq. 14), in [-1, 1].

    Where several answers are correct, the most probable of them counts.

    Args:
        label_probs: The target's probabilities of the answers, rows sum to 1, (N, C), C >= 2.
        right: Which answers are correct, at least one a row and not all, booleans, (N, C).

    Returns:
        Shape (N,).
    """
    # -inf, not 0: the others must be out of the running for the maximum.
    correct = label_probs.masked_fill(~right, -torch.inf).max(dim=1).values
    others = label_probs.masked_fill(right, -torch.inf).max(dim=1).values
    return correct - others


def best_words(label_probs: Tensor) -> list[int | None]:
    """The index of the most probable answer of each row; None for a tie.

    A target that cannot decide has not answered: a tie is never right.

    Args:
        label_probs: The target's probabilities of the answers, (N, C), C >= 2.
    """
    top = label_probs.topk(2, dim=1)
    tied = (top.values[:, 0] == top.values[:, 1]).tolist()
    best = top.indices[:, 0].tolist()
    return [None if tie else word for word, tie in zip(best, tied, strict=True)]


def prompt_reward(
    score: float, difference: float, *, accuracy_weight: float, softmax_weight: float
) -> float:
    """R = c_a * score + c_s * mean softmax difference (StablePrompt eq. 13).

    Args:
        score: By the task's metric, 0-1; the paper's is the accuracy, and F1 for generated text.
        difference: Mean softmax difference, in [-1, 1]; 0 where answers are generated.
        accuracy_weight: c_a.
        softmax_weight: c_s.
    """
    return accuracy_weight * score + softmax_weight * difference
