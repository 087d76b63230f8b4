import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stableprompt.studies.statistics import (
    CellScore,
    MethodSummary,
    PairedMethods,
    compare_pair,
    holm,
    summarise,
    win_tie_loss,
)

BITS = {"0": 0.0, "1": 1.0}


def of(method: str, task: str, *by_seed: str | Sequence[float]) -> list[CellScore]:
    """Runs with seeds 0, 1, ..., whose values are given, zeros and ones as a text."""
    return [
        CellScore(method, task, seed, tuple(BITS.get(v, v) for v in values))  # type: ignore[arg-type]
        for seed, values in enumerate(by_seed)
    ]


def only(cells: list[CellScore]) -> MethodSummary:
    (summary,) = summarise(cells)
    return summary


# Scores: on t 2/4 and 3/4, on u 1/4 and 3/4. Means 0.625 and 0.5, sample variances of two
# scores (a - b)²/2: 0.03125 and 0.125.
TWO_BY_TWO = of("x", "t", "1010", "1110") + of("x", "u", "0010", "1110")


def test_a_summary_by_hand() -> None:
    found = only(TWO_BY_TWO)
    assert (found.method, found.num_runs, found.num_tasks) == ("x", 4, 2)
    assert found.mean == 0.5625  # (0.625 + 0.5) / 2
    assert found.seed_sd == pytest.approx(math.sqrt(0.078125), abs=1e-15)  # (0.03125 + 0.125) / 2
    # (sqrt(0.03125)/0.625 + sqrt(0.125)/0.5) / 2 = (0.2828427 + 0.7071068) / 2
    assert found.variation == pytest.approx(0.49497475, abs=1e-8)
    assert found.collapsed_share == 0


def test_tasks_and_seeds_weigh_the_same_whatever_their_size() -> None:
    # t: 1 of 1 example, with three seeds 0, 0, 1; u: one seed, 1/4. Mean of 1/3 and 1/4.
    found = only(of("x", "t", "0", "0", "1") + of("x", "u", "0100"))
    assert found.mean == pytest.approx(7 / 24, abs=1e-15)
    # Only t has seeds to compare: mean 1/3, variance (1/9 + 1/9 + 4/9) / 2 = 1/3.
    assert found.seed_sd == pytest.approx(math.sqrt(1 / 3), abs=1e-15)
    assert found.variation == pytest.approx(math.sqrt(3), abs=1e-15)


def test_one_seed_has_no_spread_and_a_mean_of_0_no_variation() -> None:
    found = only(of("x", "t", "10") + of("x", "u", "11"))
    assert (found.seed_sd, found.variation) == (None, None)
    found = only(of("x", "t", "00", "00"))
    assert (found.seed_sd, found.variation) == (0, None)
    # u is left out: 0.5/sqrt(2) over 0.25 is sqrt(2).
    found = only(of("x", "t", "01", "00") + of("x", "u", "00", "00"))
    assert found.variation == pytest.approx(math.sqrt(2), abs=1e-15)


def test_equal_seeds_have_no_spread_at_all() -> None:
    # Added one by one 0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1 in floats, nor 0.1 three times 0.3.
    cells = of("x", "t", [0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.3, 0.2, 0.1])
    found = only(cells + of("x", "u", [0.1], [0.1], [0.1]))
    assert found.mean == pytest.approx(0.15, abs=1e-15)
    assert (found.seed_sd, found.variation) == (0, 0)


def test_collapsed_runs_are_counted_and_keep_their_score() -> None:
    cells = [CellScore("x", "t", seed, (float(seed),), collapsed=seed == 0) for seed in (0, 1)]
    cells += [CellScore("x", "u", seed, (1.0,)) for seed in (0, 1)]
    found = only(cells)
    assert (found.collapsed_share, found.mean) == (0.25, 0.75)


def test_methods_are_sorted_and_do_not_touch_each_other() -> None:
    other = of("a", "t", "0001", "0101", "1101")
    both = summarise(TWO_BY_TWO + other)
    assert [summary.method for summary in both] == ["a", "x"]
    alone = [*summarise(other), *summarise(TWO_BY_TWO)]
    for one, two in zip(both, alone, strict=True):
        assert (one.mean, one.seed_sd, one.num_runs) == (two.mean, two.seed_sd, two.num_runs)
        assert (one.low, one.high) == pytest.approx((two.low, two.high), abs=1e-12)


def test_an_interval_over_examples_by_hand() -> None:
    # Hits of 4 draws from 1, 0, 0, 0 are binomial(4, 1/4): P(0) = 0.316, P(>= 3) = 13/256 = 0.051,
    # P(4) = 1/256 = 0.004. So 2.5 % lie below 1 and 2.5 % above 2.
    found = only(of("x", "t", "1000"))
    assert (found.low, found.high) == (0, 0.75)


def test_drawn_examples_are_the_same_for_all_seeds() -> None:
    # Two equal seeds say no more than one. With examples of their own P(>= 3/4) would be 0.014.
    found = only(of("x", "t", "1000", "1000"))
    assert (found.low, found.high) == (0, 0.75)


def test_an_interval_over_seeds_by_hand() -> None:
    # Of two drawn seeds both are the second with probability 1/4. Examples do not matter.
    found = only(of("x", "t", "0000", "1111"))
    assert (found.mean, found.low, found.high) == (0.5, 0, 1)


def test_the_variances_of_seeds_and_examples_add_up() -> None:
    # Values 0.5 + a_s + b_n: the drawn means have variance var(a)/S + var(b)/N (both divided by
    # S or N); two tasks of which one is constant halve it. a: ±0.1, b: ±0.3: 0.01/20 + 0.09/90.
    a = np.tile([0.1, -0.1], 10)
    b = np.tile([0.3, -0.3], 45)
    values = (0.5 + a[:, None] + b).tolist()
    found = only(of("x", "t", *values) + of("x", "u", [0.5]))
    half = 1.96 * math.sqrt(0.01 / 20 + 0.09 / 90) / 2
    assert found.mean == pytest.approx(0.5, abs=1e-15)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.03)


def test_chunks_of_draws_add_up() -> None:
    # 300 draws of 20,000 examples take six chunks of 50.
    values = np.tile([0.0, 1.0], 10_000).tolist()
    (found,) = summarise(of("x", "t", values), resamples=300)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(20_000), rel=0.2)
    alike = compare_pair(
        of("x", "t", values) + of("y", "t", [1.0] * 20_000), "x", "y", resamples=300
    )
    assert alike.p_value == 2 / 301


def test_a_pair_by_hand() -> None:
    # Gains on t: 0 1 0 0 and 0 0 0 1, on u: 1 0 0 0 and 0 0 0 1, each seed of each task 1/4.
    cells = TWO_BY_TWO + of("y", "t", "1110", "1111") + of("y", "u", "1010", "1111")
    found = compare_pair(cells, "x", "y")
    assert (found.first, found.second, found.difference) == ("x", "y", 0.25)
    assert (found.num_tasks, found.num_seeds, found.num_examples) == (2, 2, 8)
    assert 0 <= found.low < 0.25 < found.high <= 1


@pytest.mark.parametrize(
    ("second", "p_value"),
    [
        ("10", 1 / 2),  # d* is 0 with probability 1/4
        ("110", 2 / 27),
        ("1110", 2 / 256),
        ("1111", 2 / 10_001),  # never: as small as 10,000 draws allow
    ],
)
def test_the_p_value_of_gains_by_hand(second: str, p_value: float) -> None:
    cells = of("x", "t", "0" * len(second)) + of("y", "t", second)
    # Four standard errors of a share of 10,000 draws.
    share = p_value / 2
    within = 8 * math.sqrt(share * (1 - share) / 10_000) if share > 1e-4 else 1e-15
    assert compare_pair(cells, "x", "y").p_value == pytest.approx(p_value, abs=within)
    assert compare_pair(cells, "y", "x").p_value == pytest.approx(p_value, abs=within)


def test_seeds_are_matched_by_number() -> None:
    # Seeds differ by 0.6, methods always by 0.1. Matched otherwise the interval would be wide.
    x = [CellScore("x", "t", 3, (0.2, 0.2)), CellScore("x", "t", 7, (0.8, 0.8))]
    y = [CellScore("y", "t", 7, (0.9, 0.9)), CellScore("y", "t", 3, (0.3, 0.3))]
    found = compare_pair(x + y, "x", "y", resamples=999)
    assert (found.low, found.difference, found.high) == pytest.approx((0.1, 0.1, 0.1), abs=1e-12)
    assert found.p_value == 0.002


def test_both_methods_see_the_same_drawn_examples() -> None:
    values = np.linspace(0, 0.8, 50).tolist()
    cells = of("x", "t", values) + of("y", "t", [v + 0.1 for v in values])
    found = compare_pair(cells, "x", "y")
    assert (found.low, found.high) == pytest.approx((0.1, 0.1), abs=1e-12)


def test_tasks_are_fixed() -> None:
    # One task won, one lost, both beyond doubt: on these tasks the methods are equal.
    cells = of("x", "t", "00") + of("x", "u", "11") + of("y", "t", "11") + of("y", "u", "00")
    found = compare_pair(cells, "x", "y")
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_tasks_are_drawn_apart() -> None:
    # Equal draws on both would always cancel out: t gains where u loses.
    cells = of("x", "t", "01" * 20) + of("y", "t", "10" * 20)
    cells += of("x", "u", "10" * 20) + of("y", "u", "01" * 20)
    found = compare_pair(cells, "x", "y")
    # Variance of each ±1 gain 1/40; of the mean of two 1/80.
    assert found.high - found.low == pytest.approx(2 * 1.96 * math.sqrt(1 / 80), rel=0.05)


def test_equal_values_in_another_order_are_no_difference() -> None:
    # The gains 0.6, -0.4 and -0.2 do not add up to 0 in floats.
    values = [0.1, 0.7, 0.3]
    found = compare_pair(of("x", "t", values) + of("y", "t", [0.7, 0.3, 0.1]), "x", "y")
    assert found.difference == 0
    assert found.low < 0 < found.high
    assert found.p_value > 0.9


def test_bootstraps_repeat_by_seed() -> None:
    values = np.random.default_rng(0).random((2, 2, 30)).tolist()
    cells = of("x", "t", *values[0]) + of("y", "t", *values[1])
    assert compare_pair(cells, "x", "y", rng_seed=1) == compare_pair(cells, "x", "y", rng_seed=1)
    one, other = (compare_pair(cells, "x", "y", rng_seed=seed) for seed in (1, 2))
    assert (one.difference, one.low) != (other.difference, other.low)
    assert summarise(cells, rng_seed=1) == summarise(cells, rng_seed=1)
    assert summarise(cells, rng_seed=1) != summarise(cells, rng_seed=2)


def test_holm_by_hand() -> None:
    # 0.005·4, 0.01·3, 0.03·2, and 0.04·1, which is raised to the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], abs=1e-15)
    assert holm([0.5, 0.9, 0.4]) == [1, 1, 1]  # 0.4·3 is above 1
    assert holm([0.04]) == [0.04]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_keeps_the_order_and_lies_between_the_value_and_bonferroni(ps: list[float]) -> None:
    adjusted = holm(ps)
    for p, a in zip(ps, adjusted, strict=True):
        assert p <= a <= min(1, len(ps) * p)
    by_p = sorted(zip(ps, adjusted, strict=True))
    assert [a for _, a in by_p] == sorted(adjusted)


def test_holm_wants_p_values() -> None:
    for wrong in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match=f"p values are 0 to 1: found {wrong}"):
            holm([0.5, wrong])


# Gains of ours over r1: 4 of 4 on t, none on u; over r2: -4 of 4 on t, 3 of 4 on u.
RIVALS = (
    of("ours", "t", [0.5] * 4)
    + of("ours", "u", "1110")
    + of("r1", "t", "0000")
    + of("r1", "u", "1110")
    + of("r2", "t", "1111")
    + of("r2", "u", "0000")
)


def test_wins_ties_and_losses_by_hand() -> None:
    r2, r1 = win_tie_loss(RIVALS, "ours", ["r2", "r1"], alpha=0.01, resamples=9999)
    assert (r1.rival, r1.wins, r1.ties, r1.losses) == ("r1", 1, 1, 0)
    assert (r2.rival, r2.wins, r2.ties, r2.losses) == ("r2", 0, 1, 1)
    assert [row.task for row in r1.rows] == [row.task for row in r2.rows] == ["t", "u"]
    assert [row.outcome for row in r1.rows] == ["win", "tie"]
    assert [row.outcome for row in r2.rows] == ["loss", "tie"]
    assert [row.difference for row in (*r1.rows, *r2.rows)] == [0.5, 0, -0.5, 0.75]
    assert (r1.rows[0].low, r1.rows[0].high) == (0.5, 0.5)
    # All four p values together: 2/10,000 twice, 2/256 within 4 standard errors, 1. The second of
    # them is raised to the first, 4·0.0002; the third is below alpha, but twice it is not.
    assert [row.p_value for row in r1.rows] == [0.0002, 1]
    assert [row.adjusted_p for row in r1.rows] == [0.0008, 1]
    assert (r2.rows[0].p_value, r2.rows[0].adjusted_p) == (0.0002, 0.0008)
    assert r2.rows[1].p_value == pytest.approx(2 / 256, abs=0.005)
    assert r2.rows[1].p_value < 0.01 < r2.rows[1].adjusted_p
    assert r2.rows[1].adjusted_p == 2 * r2.rows[1].p_value


def test_a_row_is_the_comparison_on_its_task() -> None:
    values = np.random.default_rng(3).random((3, 2, 3, 30))
    cells = [
        cell
        for method, by_task in zip("xyz", values.tolist(), strict=True)
        for task, by_seed in zip("tu", by_task, strict=True)
        for cell in of(method, task, *by_seed)
    ]
    for found in win_tie_loss(cells, "x", ["y", "z"]):
        for row in found.rows:
            alone = compare_pair([c for c in cells if c.task == row.task], found.rival, "x")
            assert (row.difference, row.p_value) == (alone.difference, alone.p_value)
            assert (row.low, row.high) == pytest.approx((alone.low, alone.high), abs=1e-12)


@st.composite
def studies(draw: st.DrawFn) -> list[CellScore]:
    """Two methods on up to two tasks with up to three seeds and four examples."""
    value = st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0]) | st.floats(0, 1)
    cells: list[CellScore] = []
    for task in draw(st.sampled_from(["t", "tu"])):
        num_seeds, num_examples = draw(st.integers(1, 3)), draw(st.integers(1, 4))
        for method in "xy":
            rows = st.lists(value, min_size=num_examples, max_size=num_examples)
            by_seed = draw(st.lists(rows, min_size=num_seeds, max_size=num_seeds))
            cells += of(method, task, *by_seed)
    return cells


def everything(cells: list[CellScore]) -> Iterator[object]:
    yield summarise(cells, resamples=200)
    yield compare_pair(cells, "x", "y", resamples=200)
    yield win_tie_loss(cells, "x", ["y"], resamples=200)


@settings(deadline=None, max_examples=40)
@given(studies(), st.randoms(use_true_random=False))
def test_the_order_of_the_cells_changes_nothing(cells: list[CellScore], random: object) -> None:
    mixed = list(cells)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert list(everything(mixed)) == list(everything(cells))


@settings(deadline=None, max_examples=40)
@given(studies())
def test_a_method_is_as_good_as_itself(cells: list[CellScore]) -> None:
    copy = [CellScore("z", c.task, c.seed, c.values) for c in cells if c.method == "x"]
    for found in (
        compare_pair(cells, "x", "x", resamples=50),
        compare_pair(cells + copy, "x", "z", resamples=50),
    ):
        assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


@settings(deadline=None, max_examples=40)
@given(studies())
def test_intervals_hold_what_they_are_of(cells: list[CellScore]) -> None:
    for summary in summarise(cells, resamples=3):
        assert summary.low <= summary.mean <= summary.high
    pair = compare_pair(cells, "x", "y", resamples=3)
    assert pair.low <= pair.difference <= pair.high
    assert 0 < pair.p_value <= 1
    x, y = summarise(cells, resamples=1)
    assert pair.difference == pytest.approx(y.mean - x.mean, abs=1e-15)


@settings(deadline=None, max_examples=40)
@given(studies())
def test_swapping_the_methods_turns_everything_round(cells: list[CellScore]) -> None:
    there, back = (compare_pair(cells, *pair, resamples=200) for pair in ("xy", "yx"))
    turned = (-back.difference, -back.high, -back.low, back.p_value)
    assert (there.difference, there.low, there.high, there.p_value) == turned
    (ours,), (theirs,) = (win_tie_loss(cells, a, [b], resamples=200) for a, b in ("xy", "yx"))
    assert (ours.wins, ours.ties, ours.losses) == (theirs.losses, theirs.ties, theirs.wins)
    turn = {"win": "loss", "tie": "tie", "loss": "win"}
    for one, other in zip(ours.rows, theirs.rows, strict=True):
        assert (one.difference, one.low, one.high) == (-other.difference, -other.high, -other.low)
        assert (one.adjusted_p, one.outcome) == (other.adjusted_p, turn[other.outcome])


def test_cells_that_do_not_match() -> None:
    def refused(cells: list[CellScore], found: str) -> None:
        with pytest.raises(ValueError, match=f"same tasks, seeds and examples: found {found}"):
            compare_pair(cells, "x", "y")
        with pytest.raises(ValueError, match="same tasks, seeds and examples"):
            win_tie_loss(cells, "x", ["y"])

    x = of("x", "t", "10", "11")
    refused(x + of("y", "t", "10"), r"only of 'x' t seed 1 \(2 examples\)$")
    refused(x + of("y", "t", "10", "11", "01"), r"only of 'y' t seed 2 \(2 examples\)$")
    refused(
        x + of("y", "u", "1"),
        r"only of 'x' t seed 0 \(2 examples\); only of 'x' t seed 1 \(2 examples\); "
        r"only of 'y' u seed 0 \(1 examples\)$",
    )
    refused(
        of("x", "t", "10") + of("y", "t", "101"),
        r"only of 'x' t seed 0 \(2 examples\); only of 'y' t seed 0 \(3 examples\)$",
    )
    # A third method may have others.
    assert isinstance(
        compare_pair(x + of("y", "t", "10", "11") + of("z", "u", "1"), "x", "y"), PairedMethods
    )


def test_cells_that_cannot_be_used() -> None:
    x = of("x", "t", "10")
    for cells, message in (
        ([], "found 0 cells"),
        (x + x, "only once: found two of method 'x', task 't', seed 0"),
        (of("x", "t", ""), "a value for each example: found none in method 'x'"),
        (of("x", "t", "10", "1"), "seeds share their examples: found 2, but 1 in method 'x'"),
        (of("x", "t", [1.1]), "values are 0 to 1: found 1.1 in method 'x'"),
        (of("x", "t", [math.nan]), "values are 0 to 1: found nan"),
    ):
        with pytest.raises(ValueError, match=message):
            summarise(cells)
        with pytest.raises(ValueError, match=message):
            compare_pair(cells, "x", "x")
    assert only(of("x", "t", [1 + 2**-52])).mean == 1 + 2**-52  # a rounded 1
    with pytest.raises(ValueError, match="0 resamples, give at least 1"):
        summarise(x, resamples=0)


def test_methods_that_cannot_be_compared() -> None:
    cells = of("x", "t", "10") + of("y", "t", "10")
    for pair in ("xz", "zx"):
        with pytest.raises(ValueError, match="method 'z' has no run: found x, y"):
            compare_pair(cells, *pair)
    for rivals in (["x"], ["y", "y"]):
        with pytest.raises(ValueError, match="other methods, each once"):
            win_tie_loss(cells, "x", rivals)
    assert win_tie_loss(cells, "x", []) == []


def test_too_few_draws_for_a_win() -> None:
    # Two comparisons: 2·2/(B + 1) is at most 0.05 from 79 draws on.
    cells = of("x", "t", "11") + of("y", "t", "00") + of("z", "t", "00")
    with pytest.raises(ValueError, match="found 78 resamples, give at least 80"):
        win_tie_loss(cells, "x", ["y", "z"], resamples=78)
    assert [found.wins for found in win_tie_loss(cells, "x", ["y", "z"], resamples=79)] == [1, 1]
