import math

import pytest
import torch

from stableprompt.ppo.masked import masked_mean, whiten

VALUES = torch.tensor([[1.0, 2.0, 70.0], [4.0, 5.0, -80.0]])
MASK = torch.tensor([[True, True, False], [True, True, False]])
NONE = torch.zeros(2, 3, dtype=torch.bool)


def with_padding(value: float) -> torch.Tensor:
    return VALUES.where(MASK, torch.tensor(value))


def test_masked_mean_counts_real_tokens_only() -> None:
    # (1 + 2 + 4 + 5) / 4 = 3
    assert masked_mean(VALUES, MASK).item() == 3.0


def test_masked_mean_weighs_tokens_not_rows() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    # (1 + 2 + 4) / 3, not the mean of the rows' means (1.5 + 4) / 2
    assert masked_mean(VALUES, mask).item() == pytest.approx(7 / 3, rel=1e-6)


@pytest.mark.parametrize("padding", [math.nan, math.inf, -math.inf])
def test_padding_does_not_leak_into_the_mean(padding: float) -> None:
    assert masked_mean(with_padding(padding), MASK).item() == 3.0


def test_the_mean_of_no_token_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one real token"):
        masked_mean(VALUES, NONE)


def test_whiten_by_hand() -> None:
    # mean 3; population variance (4 + 1 + 1 + 4) / 4 = 2.5
    far, near = 2 / math.sqrt(2.5), 1 / math.sqrt(2.5)
    expected = torch.tensor([[-far, -near, 0.0], [near, far, 0.0]])
    torch.testing.assert_close(whiten(VALUES, MASK), expected, rtol=1e-6, atol=1e-7)


def test_whitened_tokens_have_mean_0_and_variance_1_and_padding_is_0() -> None:
    generator = torch.Generator().manual_seed(0)
    values = 5 + 3 * torch.randn(6, 9, generator=generator, dtype=torch.float64)
    mask = torch.arange(9).unsqueeze(0) < torch.tensor([9, 1, 4, 7, 2, 9]).unsqueeze(1)
    whitened = whiten(values, mask)
    real = whitened[mask]
    assert real.mean().item() == pytest.approx(0, abs=1e-12)
    assert real.var(unbiased=False).item() == pytest.approx(1, abs=1e-8)
    assert (whitened[~mask] == 0).all()


@pytest.mark.parametrize("padding", [math.nan, math.inf, 1e30])
def test_padding_does_not_leak_into_whitened_tokens(padding: float) -> None:
    assert torch.equal(whiten(with_padding(padding), MASK), whiten(VALUES, MASK))


def test_epsilon_is_added_to_the_variance() -> None:
    values = torch.tensor([[1e-4, -1e-4]], dtype=torch.float64)
    # variance 1e-8, plus 1e-8: 1e-4 / sqrt(2e-8) = 1 / sqrt(2)
    expected = torch.tensor([[1.0, -1.0]], dtype=torch.float64) / math.sqrt(2)
    whitened = whiten(values, torch.ones(1, 2, dtype=torch.bool), epsilon=1e-8)
    torch.testing.assert_close(whitened, expected, rtol=1e-9, atol=0)


def test_equal_values_whiten_to_zero() -> None:
    assert (whiten(torch.full((2, 3), 0.25), MASK) == 0).all()


@pytest.mark.parametrize("count", [0, 1])
def test_whitening_needs_two_tokens(count: int) -> None:
    mask = NONE.clone()
    mask[0, :count] = True
    with pytest.raises(ValueError, match=f"the mask has {count}"):
        whiten(VALUES, mask)
