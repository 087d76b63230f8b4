import math
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stableprompt.tasks import statistics
from stableprompt.tasks.example import Example, TaskKind
from stableprompt.tasks.metrics.metric import Metric
from stableprompt.tasks.metrics.registry import METRICS
from stableprompt.tasks.statistics import (
    Estimate,
    PairedComparison,
    accuracy_estimate,
    estimate,
    paired,
    paired_comparison,
)


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


@dataclass(frozen=True)
class Outcome:
    predictions: Sequence[str]
    values: Sequence[float]


MEAN = METRICS["token_f1"]
MACRO_F1 = METRICS["macro_f1"]
# The same score as macro F1, but nothing is known of it: every draw is scored by itself.
OPAQUE = Metric(
    "opaque",
    MACRO_F1.value,
    frozenset(TaskKind),
    together=lambda examples, predictions: MACRO_F1.score(examples, predictions),
)


def texts(n: int) -> list[Example]:
    return [Example(str(i), "reference") for i in range(n)]


def of_values(values: Sequence[float]) -> Outcome:
    return Outcome([""] * len(values), values)


def estimate_of(values: Sequence[float], **options: int) -> Estimate:
    return estimate(MEAN, texts(len(values)), [""] * len(values), values, **options)


def compare(first: Sequence[float], second: Sequence[float], **options: int) -> PairedComparison:
    return paired(MEAN, texts(len(first)), of_values(first), of_values(second), **options)


def labelled(n: int, seed: int) -> tuple[list[Example], Outcome, Outcome]:
    rng = np.random.default_rng(seed)
    labels = [str(label) for label in rng.integers(0, 3, n)]
    outcomes = []
    for share in (0.5, 0.8):
        others = [str(label) for label in rng.integers(0, 3, n)]
        right = rng.random(n) < share
        predictions = [a if r else b for a, b, r in zip(labels, others, right, strict=True)]
        outcomes.append(
            Outcome(predictions, [float(a == b) for a, b in zip(labels, predictions, strict=True)])
        )
    return [Example(str(i), label) for i, label in enumerate(labels)], outcomes[0], outcomes[1]


def test_a_mean_of_zeros_and_ones_has_the_wilson_interval() -> None:
    values = [1.0] * 8 + [0.0] * 2
    wilson = accuracy_estimate([True] * 8 + [False] * 2)
    found = estimate_of(values)
    assert (found.low, found.high, found.score) == (wilson.low, wilson.high, 0.8)
    assert (found.n, found.metric) == (10, "token_f1")


def test_the_interval_of_a_mean_is_near_the_normal_one() -> None:
    # Values 0.2 and 0.6 in equal parts: mean 0.4, standard error 0.2/sqrt(400) = 0.01.
    found = estimate_of([0.2, 0.6] * 200)
    assert found.score == pytest.approx(0.4, abs=1e-12)
    assert found.low == pytest.approx(0.4 - 0.0196, abs=0.0015)
    assert found.high == pytest.approx(0.4 + 0.0196, abs=0.0015)


def test_the_interval_of_a_mean_holds_the_true_mean_as_often_as_it_says() -> None:
    # Values of Beta(2, 3), mean 0.4. 95 % of 300 are 285; the binomial standard deviation is 3.8,
    # and with n = 50 the percentile interval is a little too narrow.
    rng = np.random.default_rng(5)
    held = 0
    for trial in range(300):
        found = estimate_of(rng.beta(2, 3, 50).tolist(), seed=trial, resamples=400)
        held += found.low <= 0.4 <= found.high
    assert 0.91 <= held / 300 <= 0.98


def test_the_score_of_an_estimate_is_that_of_the_metric() -> None:
    examples, first, _ = labelled(60, seed=0)
    found = estimate(MACRO_F1, examples, first.predictions, first.values)
    assert found.score == MACRO_F1.score(examples, first.predictions)
    assert found.low < found.score < found.high
    assert (found.n, found.metric) == (60, "macro_f1")


def test_balanced_accuracy_of_two_labels_has_the_normal_standard_error() -> None:
    # Recalls 0.9 of 400 and 0.5 of 100 examples: the variance of their mean is
    # (0.9·0.1/400 + 0.5·0.5/100)/4 = 0.00068125, its root 0.0261; of accuracy it would be 0.0172.
    examples = [Example("t", "a")] * 400 + [Example("t", "b")] * 100
    predictions = ["a"] * 360 + ["b"] * 40 + ["b"] * 50 + ["a"] * 50
    values = [float(e.label == p) for e, p in zip(examples, predictions, strict=True)]
    found = estimate(METRICS["balanced_accuracy"], examples, predictions, values, resamples=8000)
    assert found.score == pytest.approx(0.7, abs=1e-12)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.0261, rel=0.06)


def test_what_is_counted_by_label_agrees_with_scoring_every_draw() -> None:
    examples, first, _ = labelled(80, seed=1)
    fast = estimate(MACRO_F1, examples, first.predictions, first.values, resamples=3000)
    slow = estimate(OPAQUE, examples, first.predictions, first.values, resamples=3000)
    # The standard error of a quantile near 2.5 % is about 0.05 of the interval's half-width.
    assert slow.score == fast.score
    assert (slow.low, slow.high) == pytest.approx((fast.low, fast.high), abs=0.02)


def test_estimates_repeat_by_seed() -> None:
    values = np.random.default_rng(0).random(40).tolist()
    assert estimate_of(values, seed=3) == estimate_of(values, seed=3)
    one, other = estimate_of(values, seed=3), estimate_of(values, seed=4)
    assert (one.low, one.high) != (other.low, other.high)
    assert estimate_of(values, resamples=10) != estimate_of(values, resamples=2000)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_an_estimate_holds_its_score(values: list[float]) -> None:
    found = estimate_of(values, resamples=100)
    assert 0 <= found.low <= found.score <= found.high <= 1


def test_an_interval_holds_its_score_even_where_the_draws_do_not() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(30).tolist(), rng.random(30).tolist()
    one = estimate_of(first, resamples=1)  # a single draw, elsewhere
    assert one.low < one.high and one.score in (one.low, one.high)
    both = compare(first, second, resamples=1)
    assert both.low < both.high and both.difference in (both.low, both.high)


def test_accuracies_are_compared_as_ever() -> None:
    first, second = pairs(5, 6, 1, 8)
    found = compare([float(c) for c in first], [float(c) for c in second], seed=7)
    assert found == paired_comparison(first, second, seed=7)
    assert (found.p_value, found.test) == (0.125, "mcnemar")
    assert paired_comparison(first, second).test == "mcnemar"


def test_the_randomisation_test_by_hand() -> None:
    # Eight gains of 0.5: only all swapped or none is as far, 2 of 2^8 draws.
    found = compare([0.25] * 8, [0.75] * 8)
    assert (found.difference, found.test, found.n) == (0.5, "randomisation", 8)
    assert found.p_value == pytest.approx(2 / 256, abs=0.003)
    # Gains 0.4, 0.2, 0.1 with signs: |d*| >= 0.5/3 for ±(0.7, 0.5) of eight draws: 4/8.
    found = compare([0.1, 0.1, 0.3], [0.5, 0.3, 0.2])
    assert found.difference == pytest.approx(0.5 / 3, abs=1e-12)
    assert found.p_value == pytest.approx(4 / 8, abs=0.02)


def test_the_p_value_is_never_0_and_1_without_a_difference() -> None:
    # Of 2^60 swaps two are as far: (0 + 1)/(10,000 + 1).
    assert compare([0.2] * 60, [0.7] * 60).p_value == 1 / 10_001
    same = compare([0.2, 0.7], [0.2, 0.7])
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_the_randomisation_test_agrees_with_mcnemar_on_zeros_and_ones() -> None:
    # The same question, answered by drawing: a together metric whose score is the share of hits.
    share = Metric(
        "share",
        METRICS["accuracy"].value,
        frozenset(TaskKind),
        together=lambda examples, predictions: METRICS["accuracy"].score(examples, predictions),
    )
    examples = [Example(str(i), "a") for i in range(20)]
    first = Outcome(["a"] * 6 + ["b"] * 14, [1.0] * 6 + [0.0] * 14)
    second = Outcome(["b"] + ["a"] * 11 + ["b"] * 8, [0.0] + [1.0] * 11 + [0.0] * 8)
    # 6 gained, 1 lost: 0.125 as above. The standard error of 10,000 draws is 0.0033.
    found = paired(share, examples, first, second, resamples=50)
    assert found.test == "randomisation"
    assert found.p_value == pytest.approx(0.125, abs=0.012)


def test_the_paired_interval_is_near_the_normal_one() -> None:
    # Differences 0.3 and -0.1 in equal parts: mean 0.1, standard error 0.2/sqrt(400) = 0.01. The
    # values themselves vary far more: unpaired it would be wider.
    rng = np.random.default_rng(2)
    first = (0.1 + 0.6 * rng.random(400)).tolist()
    second = [v + (0.3 if i % 2 else -0.1) for i, v in enumerate(first)]
    found = compare(first, second)
    assert found.difference == pytest.approx(0.1, abs=1e-12)
    assert found.low == pytest.approx(0.1 - 0.0196, abs=0.0015)
    assert found.high == pytest.approx(0.1 + 0.0196, abs=0.0015)


def test_macro_f1_of_two_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    examples, first, second = labelled(30, seed=5)
    monkeypatch.setattr(statistics, "SWAP_DRAWS", 1000)
    found = paired(MACRO_F1, examples, first, second, resamples=3000)
    scores = [MACRO_F1.score(examples, o.predictions) for o in (first, second)]
    assert found.difference == scores[1] - scores[0]
    assert found.low < found.difference < found.high
    assert 0.3 < found.p_value < 0.6
    opaque = paired(OPAQUE, examples, first, second, resamples=500)
    assert opaque.difference == found.difference
    assert (opaque.low, opaque.high) == pytest.approx((found.low, found.high), abs=0.07)
    assert opaque.p_value == pytest.approx(found.p_value, abs=0.08)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20))
def test_swapping_the_prompts_turns_the_difference_round(
    results: list[tuple[float, float]],
) -> None:
    first, second = [a for a, _ in results], [b for _, b in results]
    there, back = compare(first, second, resamples=100), compare(second, first, resamples=100)
    assert there == compare(first, second, resamples=100)
    assert back.difference == -there.difference
    assert back.p_value == pytest.approx(there.p_value, abs=0.03)
    assert -1 <= there.low <= there.difference <= there.high <= 1
    assert 0 < there.p_value <= 1


def test_the_test_does_not_depend_on_the_number_of_resamples() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(30).tolist(), rng.random(30).tolist()
    one, other = (compare(first, second, resamples=r) for r in (20, 300))
    assert one.p_value == other.p_value
    assert (one.low, one.high) != (other.low, other.high)
    assert compare(first, second, seed=1).p_value != compare(first, second, seed=2).p_value


def test_many_examples_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "SWAP_DRAWS", 1000)
    rng = np.random.default_rng(0)
    first, second = rng.random(4000).tolist(), rng.random(4000).tolist()
    tracemalloc.start()
    compare(first, second, resamples=600)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Of both prompts 1000 · 8000 weights of 8 bytes, twice, would be 128 MB at once.
    assert peak < 100e6


def test_results_that_do_not_fit_the_examples() -> None:
    with pytest.raises(ValueError, match="found 2 examples, 1 predictions and 2 values"):
        estimate(MEAN, texts(2), ["x"], [0.5, 0.5])
    with pytest.raises(ValueError, match="found 2 examples, 2 predictions and 1 values"):
        paired(MEAN, texts(2), of_values([0.1, 0.2]), Outcome(["x", "x"], [0.5]))
    with pytest.raises(ValueError, match="score on 0 examples"):
        estimate_of([])
    with pytest.raises(ValueError, match="score on 0 examples"):
        compare([], [])
