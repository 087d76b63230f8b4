import re
import sys
from importlib.util import find_spec
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stableprompt.errors import ConfigError
from stableprompt.studies import plots
from stableprompt.studies.plots import bars_svg, curves_svg

needs_matplotlib = pytest.mark.skipif(
    find_spec("matplotlib") is None, reason="needs matplotlib: pip install 'stableprompt[plots]'"
)

# Read as mathematics the first name is an error.
CURVES = {
    r"$\frac$": [(0.0, 0.5), (10.0, 0.7), (40.0, 0.8)],
    "best-of-n": [(0.0, 0.5), (20.0, 0.6)],
}
ROWS = [("ours", 0.8, 0.75, 0.9), ("best-of-n", 0.7, 0.65, 0.72)]


def curves() -> str:
    return curves_svg("A <title>", CURVES, "target calls", "accuracy")


def bars() -> str:
    return bars_svg("A <title>", ROWS, "accuracy")


def path(svg: str, gid: str) -> list[tuple[float, float]]:
    """The corners of a line."""
    (group,) = (e for e in ElementTree.fromstring(svg).iter() if e.get("id") == gid)
    numbers = re.findall(r"-?[\d.]+", group[0].attrib["d"])
    return list(zip(map(float, numbers[::2]), map(float, numbers[1::2]), strict=True))


@needs_matplotlib
def test_equal_input_gives_equal_pictures_without_a_date() -> None:
    for picture in (curves, bars):
        svg = picture()
        assert svg == picture()
        assert svg.startswith("<svg")
        assert "dc:date" not in svg
        ElementTree.fromstring(svg)


@needs_matplotlib
def test_the_style_of_the_user_is_left_alone_and_does_not_matter() -> None:
    import matplotlib

    before = curves()
    with matplotlib.rc_context({"axes.linewidth": 9, "font.size": 30, "svg.hashsalt": "mine"}):
        assert curves() == before
        assert matplotlib.rcParams["font.size"] == 30


@needs_matplotlib
def test_pictures_say_what_they_show() -> None:
    # Letters are paths; each text stands beside them as a comment.
    said = [set(re.findall("<!-- (.*?) -->", svg)) for svg in (curves(), bars())]
    both = {"A &lt;title&gt;", "best-of-n", "accuracy"}
    assert said[0] >= both | {r"$\frac$", "target calls"}
    assert said[1] >= both | {"ours", "0.800  [0.750, 0.900]", "0.700  [0.650, 0.720]"}


@needs_matplotlib
def test_the_first_row_is_at_the_top() -> None:
    svg = bars()
    first, second = (path(svg, f"row-{place}") for place in (0, 1))
    assert first[0][1] == first[1][1] < second[0][1]  # level; up is down in SVG
    # Ends 0.75 and 0.9, 0.65 and 0.72.
    widths = [right - left for (left, _), (right, _) in (first, second)]
    assert widths[0] / widths[1] == pytest.approx(0.15 / 0.07, rel=1e-4)


@needs_matplotlib
def test_curves_are_steps_that_hold_until_the_longest_ends() -> None:
    ours, best = (path(curves(), f"curve-{place}") for place in (0, 1))
    for corners in (ours, best):
        for (x, y), (next_x, next_y) in pairwise(corners):
            assert x == next_x or y == next_y
    # x = 0, 10, 40 and 0, 20, 40; up is down in SVG.
    left, right = ours[0][0], ours[-1][0]
    corners_at = sorted({(x - left) / (right - left) for x, _ in ours})
    assert corners_at == pytest.approx([0, 0.25, 1], abs=1e-4)
    assert best[-1][0] == right
    heights = sorted({y for _, y in ours}, reverse=True)
    assert [(heights[0] - y) / (heights[0] - heights[2]) for y in heights] == pytest.approx(
        [0, 2 / 3, 1], abs=1e-4
    )
    # At x = 10 the step goes up there and not before: the corner is (10, 0.5).
    assert ours[1] == pytest.approx((left + (right - left) / 4, heights[0]), abs=1e-3)


@needs_matplotlib
def test_many_curves_and_single_points_can_be_drawn() -> None:
    many = {f"m{i}": [(0.0, 0.5)] for i in range(30)}
    svg = curves_svg("Many", many, "x", "y")
    assert all(f"<!-- m{i} -->" in svg for i in range(30))


def test_labels_are_spread_around_where_they_belong() -> None:
    assert plots._spread([0.9, 0.1, 0.5], 0.25) == [0.9, 0.1, 0.5]
    # Two at 0.5: 0.4 and 0.6. The third at 0.65 joins them: lowest wishes 0.5, 0.3, 0.25.
    assert plots._spread([0.5, 0.5], 0.2) == pytest.approx([0.4, 0.6], abs=1e-12)
    assert plots._spread([0.65, 0.5, 0.5], 0.2) == pytest.approx([0.75, 0.35, 0.55], abs=1e-12)
    assert plots._spread([1.0, 1.0], 0.2) == pytest.approx([0.8, 1.0], abs=1e-12)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_spread_labels_are_a_gap_apart_and_in_order(heights: list[float]) -> None:
    spread = plots._spread(heights, 0.1)
    assert all(b - a >= 0.1 - 1e-9 for a, b in pairwise(sorted(spread)))
    assert max(spread, default=0) <= 1
    order = sorted(range(len(heights)), key=heights.__getitem__)
    assert [spread[i] for i in order] == sorted(spread)


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for picture in (curves, bars):
        with pytest.raises(ConfigError, match=r"pip install 'stableprompt\[plots\]'"):
            picture()


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="0 curves"):
        curves_svg("", {}, "", "")
    with pytest.raises(ValueError, match="found none for 'a'"):
        curves_svg("", {"a": []}, "", "")
    with pytest.raises(ValueError, match="0 rows"):
        bars_svg("", [], "")
    with pytest.raises(ValueError, match=r"found 0.5, 0.6, 0.7 of a"):
        bars_svg("", [("a", 0.5, 0.6, 0.7)], "")
