"""Means and whitening over the tokens that are real."""

from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the positions where mask is True.

    Args:
        values: Any real numbers, shape (P, T).
        mask: True where a response token is real, shape (P, T).

    Returns:
        A scalar.

    Raises:
        ValueError: no position is True (the mean is undefined).
    """
    count = mask.sum()
    if count == 0:
        raise ValueError("masked_mean needs at least one real token, the mask has none")
    # where, not multiplication: a NaN in a padded position must not leak through NaN * 0.
    return values.where(mask, values.new_zeros(())).sum() / count


def whiten(values: Tensor, mask: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Shift and scale to mean 0 and (population) variance 1 over the positions where mask is True.

    Args:
        values: Any real numbers, shape (P, T).
        mask: True where a response token is real, shape (P, T).
        epsilon: Added to the variance, so that equal values give zeros and not NaN.

    Returns:
        Whitened values, shape (P, T); 0 where mask is False.

    Raises:
        ValueError: fewer than two positions are True (the variance is undefined).
    """
    if mask.sum() < 2:
        raise ValueError(f"whiten needs two real tokens, the mask has {int(mask.sum())}")
    centred = values - masked_mean(values, mask)
    variance = masked_mean(centred.square(), mask)
    whitened = centred * (variance + epsilon).rsqrt()
    return whitened.where(mask, whitened.new_zeros(()))
