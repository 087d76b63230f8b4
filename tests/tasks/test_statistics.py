import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stableprompt.tasks.statistics import Estimate, accuracy_estimate, paired_comparison


def test_wilson_for_8_of_10() -> None:
    # p = 0.8, n = 10, z² = 3.8414588:
    # centre = (0.8 + 3.8414588/20) / 1.38414588 = 0.99207294 / 1.38414588 = 0.7167402
    # half   = 1.959964 · sqrt(0.8·0.2/10 + 3.8414588/400) / 1.38414588
    #        = 1.959964 · sqrt(0.016 + 0.00960365) / 1.38414588 = 0.2265777
    estimate = accuracy_estimate([True] * 8 + [False] * 2)
    assert estimate.score == 0.8
    assert estimate.low == pytest.approx(0.4901625, abs=1e-6)
    assert estimate.high == pytest.approx(0.9433178, abs=1e-6)
    assert (estimate.n, estimate.metric) == (10, "accuracy")


def test_wilson_at_the_ends() -> None:
    # p = 0: the interval is [0, z²/(n + z²)] = [0, 3.8414588/13.8414588]; p = 1 mirrors it.
    none, all_ = accuracy_estimate([False] * 10), accuracy_estimate([True] * 10)
    assert none.low == 0
    assert none.high == pytest.approx(0.2775328, abs=1e-6)
    assert all_.low == pytest.approx(1 - 0.2775328, abs=1e-6)
    assert all_.high == 1


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_the_interval_holds_the_score_and_stays_in_0_to_1(correct: list[bool]) -> None:
    estimate = accuracy_estimate(correct)
    assert 0 <= estimate.low <= estimate.score <= estimate.high <= 1
    assert estimate.low < estimate.high


def test_numpy_booleans_count_like_others() -> None:
    correct = np.array([True, True, False])
    assert accuracy_estimate(correct.tolist()) == accuracy_estimate(list(correct))
    assert isinstance(accuracy_estimate(list(correct)), Estimate)


def pairs(both: int, gained: int, lost: int, neither: int) -> tuple[list[bool], list[bool]]:
    first = [True] * both + [False] * gained + [True] * lost + [False] * neither
    second = [True] * both + [True] * gained + [False] * lost + [False] * neither
    return first, second


def test_mcnemar_1_against_6() -> None:
    # m = 7, k = 1: 2 · (C(7,0) + C(7,1)) / 2^7 = 2 · 8 / 128 = 0.125
    assert paired_comparison(*pairs(5, 6, 1, 8)).p_value == 0.125
    assert paired_comparison(*pairs(5, 1, 6, 8)).p_value == 0.125


@pytest.mark.parametrize(
    ("gained", "lost", "p_value"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 · 1/2
        (3, 3, 1.0),  # 2 · 42/64 is above 1
        (5, 0, 0.0625),  # 2 / 32
        (8, 2, 0.109375),  # 2 · (1 + 10 + 45) / 1024
    ],
)
def test_mcnemar_by_hand(gained: int, lost: int, p_value: float) -> None:
    assert paired_comparison(*pairs(2, gained, lost, 3), resamples=10).p_value == p_value


def test_mcnemar_of_many_thousand_pairs_is_near_the_normal_limit() -> None:
    # z = (|b - c| - 1) / sqrt(b + c) = 199 / 100 = 1.99 (continuity corrected)
    p_value = paired_comparison(*pairs(0, 5100, 4900, 0), resamples=10).p_value
    assert p_value == pytest.approx(math.erfc(1.99 / math.sqrt(2)), rel=1e-3)
    assert paired_comparison(*pairs(0, 5000, 0, 0), resamples=10).p_value == 0.0


def test_the_difference_is_second_minus_first() -> None:
    comparison = paired_comparison(*pairs(4, 3, 1, 2))
    assert comparison.difference == pytest.approx(0.2)  # (3 - 1) / 10
    assert comparison.n == 10
    swapped = paired_comparison(*reversed(pairs(4, 3, 1, 2)))
    assert swapped.difference == pytest.approx(-0.2)


def test_the_bootstrap_interval_is_near_the_normal_one() -> None:
    # 100 gained and 50 lost of 1000: difference 0.05, its standard error
    # sqrt((0.10 + 0.05 - 0.05²) / 1000) = sqrt(0.1475 / 1000) = 0.012145.
    comparison = paired_comparison(*pairs(500, 100, 50, 350))
    assert comparison.low == pytest.approx(0.05 - 1.96 * 0.012145, abs=0.0015)
    assert comparison.high == pytest.approx(0.05 + 1.96 * 0.012145, abs=0.0015)


def test_the_multinomial_draw_has_the_distribution_of_resampled_examples() -> None:
    first, second = pairs(20, 12, 5, 13)
    difference = np.subtract(second, first, dtype=float)
    rng = np.random.default_rng(1)
    drawn = difference[rng.integers(0, 50, size=(10_000, 50))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    comparison = paired_comparison(first, second)
    # A grid of 0.02: the quantiles may differ by one step.
    assert comparison.low == pytest.approx(low, abs=0.021)
    assert comparison.high == pytest.approx(high, abs=0.021)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_comparison_properties(results: list[tuple[bool, bool]]) -> None:
    first, second = [a for a, _ in results], [b for _, b in results]
    comparison = paired_comparison(first, second, resamples=200)
    assert comparison == paired_comparison(first, second, resamples=200)
    assert -1 <= comparison.low <= comparison.high <= 1
    assert 0 < comparison.p_value <= 1
    same = paired_comparison(first, first, resamples=200)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_the_seed_decides_the_interval_and_nothing_else() -> None:
    results = pairs(7, 5, 2, 23)
    one, other = (paired_comparison(*results, seed=seed, resamples=50) for seed in (1, 2))
    assert (one.low, one.high) != (other.low, other.high)
    assert (one.difference, one.p_value) == (other.difference, other.p_value)


def test_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match="accuracy of 0 examples"):
        accuracy_estimate([])
    with pytest.raises(ValueError, match="comparison on 0 examples"):
        paired_comparison([], [])
    with pytest.raises(ValueError, match="same examples: found 1 and 2"):
        paired_comparison([True], [True, False])
