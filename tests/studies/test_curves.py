import pytest
from hypothesis import given
from hypothesis import strategies as st

from stableprompt.studies.curves import area_under, mean_curve

Points = list[tuple[float, float]]


def test_a_mean_curve_by_hand() -> None:
    curves: list[Points] = [[(10, 0.5), (30, 0.75)], [(20, 0.25)]]
    # At 5: both 0.125. At 10: (0.5 + 0.125)/2. At 20: (0.5 + 0.25)/2. At 30 and later: 0.5.
    grid = [5, 10, 19.5, 20, 30, 1000]
    expected = [0.125, 0.3125, 0.3125, 0.375, 0.5, 0.5]
    assert mean_curve(curves, grid, 0.125) == expected
    assert mean_curve(curves, grid[::-1], 0.125) == expected[::-1]


def test_curves_without_points_stay_at_the_start() -> None:
    assert mean_curve([[], [(10, 1.0)]], [0, 10], 0.5) == [0.5, 0.75]
    assert area_under([], 100, start=0.3) == pytest.approx(0.3, abs=1e-15)


def test_of_points_at_one_place_the_last_holds() -> None:
    assert mean_curve([[(10, 0.2), (10, 0.4)]], [10], 0.0) == [0.4]
    assert area_under([(10, 0.2), (10, 0.4)], 20) == pytest.approx(0.2, abs=1e-15)


def test_an_area_by_hand() -> None:
    # 0.25 for 20 calls, 0.5 for 30, 1 for 50: (5 + 15 + 50) / 100.
    curve: Points = [(20, 0.5), (50, 1.0)]
    assert area_under(curve, 100, start=0.25) == 0.7
    assert area_under(curve, 100) == 0.65
    assert area_under([*curve, (100, 0.0), (120, 0.0)], 100) == 0.65  # behind the budget
    assert area_under(curve, 40, start=0.25) == 0.375  # (20·0.25 + 20·0.5) / 40


POINTS = st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1)), max_size=6).map(
    lambda points: sorted(points, key=lambda point: point[0])
)


@given(POINTS, st.floats(0, 1))
def test_an_area_is_the_mean_of_the_curve(curve: Points, start: float) -> None:
    # Whole calls: the curve is constant from each to the next.
    values = mean_curve([curve], range(40), start)
    assert area_under(curve, 40, start) == pytest.approx(sum(values) / 40, abs=1e-12)


def test_what_is_no_curve() -> None:
    with pytest.raises(ValueError, match="0 curves"):
        mean_curve([], [1], 0.0)
    unsorted: Points = [(20, 0.5), (10, 0.6)]
    with pytest.raises(ValueError, match="sorted by target calls: found 20 before 10"):
        mean_curve([unsorted], [1], 0.0)
    with pytest.raises(ValueError, match="sorted by target calls: found 20 before 10"):
        area_under(unsorted, 5)
    with pytest.raises(ValueError, match="at least 0: found -1"):
        area_under([(-1, 0.5)], 5)
    with pytest.raises(ValueError, match="above 0: found 0"):
        area_under([], 0)
