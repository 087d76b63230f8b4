"""Pictures of a study as SVG text: learning curves, and methods with their intervals.

A picture holds all it needs, letters included, and is the same text for the same input and
version of matplotlib, whatever style the user has set for it.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from stableprompt.errors import ConfigError
from stableprompt.runs.escapes import on_one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito (2008), told apart by the colour-blind too; yellow is too light for thin lines.
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
_DASHES: Final = ("-", "--", ":", "-.")
_GREY: Final = "#555555"
_STYLE: Final[dict[Any, dict[str, object]]] = {
    "svg": {"hashsalt": "stableprompt", "fonttype": "path"},  # without a salt ids are random
    "text": {"parse_math": False},  # a "$" in a name is a dollar
    "font": {"size": 10},
    "axes": {"axisbelow": True},
    "axes.spines": {"top": False, "right": False},
    "grid": {"color": "#dddddd", "linewidth": 0.6},
}
# Least distance of two labels at the right edge, as a share of the height.
_LABEL_GAP: Final = 0.055
_LONGEST_NAME: Final = 40


def curves_svg(
    title: str, curves: Mapping[str, Sequence[tuple[float, float]]], xlabel: str, ylabel: str
) -> str:
    """Step curves, each with its name at its right end.

    Args:
        title: Above the picture.
        curves: Points by name, sorted by x: from each on its y holds until the next one, from
            the last to where the longest curve ends.
        xlabel: What x is.
        ylabel: What y is.

    Raises:
        ConfigError: matplotlib is not installed.
        ValueError: there are no curves, or one has no points.
    """
    if empty := [name for name, points in curves.items() if not points]:
        raise ValueError(f"a curve needs points: found none for {empty[0]!r}")
    if not curves:
        raise ValueError("a picture of 0 curves shows nothing: give at least one")

    end = max(x for points in curves.values() for x, _ in points)

    def draw(axes: "Axes") -> None:
        for place, points in enumerate(curves.values()):
            xs, ys = zip(*points, (end, points[-1][1]), strict=True)
            colour, dashes = _look(place)
            (line,) = axes.plot(xs, ys, dashes, color=colour, lw=1.8, drawstyle="steps-post")
            line.set_gid(f"curve-{place}")
        axes.grid(True)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        bottom, top = axes.get_ylim()
        axes.set_ylim(bottom, top)
        last = [points[-1][1] for points in curves.values()]
        heights = _spread([(y - bottom) / (top - bottom) for y in last], _LABEL_GAP)
        for place, (name, y, height) in enumerate(zip(curves, last, heights, strict=True)):
            colour, _ = _look(place)
            axes.annotate(
                on_one_line(name, _LONGEST_NAME),
                (end, y),
                (1.03, height),
                textcoords="axes fraction",
                color=colour,
                va="center",
                arrowprops={
                    "arrowstyle": "-",
                    "color": colour,
                    "lw": 0.6,
                    "shrinkB": 0,
                    "relpos": (0, 0.5),
                },
            )

    return svg_of(title, (7.5, 4.2), draw)


def bars_svg(title: str, rows: Sequence[tuple[str, float, float, float]], xlabel: str) -> str:
    """A point with its interval for each row, the first at the top, the figures at the right.

    Args:
        title: Above the picture.
        rows: Name, value, lower and upper end of its interval.
        xlabel: What the values are.

    Raises:
        ConfigError: matplotlib is not installed.
        ValueError: there are no rows, or an interval does not hold its value.
    """
    if not rows:
        raise ValueError("a picture of 0 rows shows nothing: give at least one")
    for name, value, low, high in rows:
        if not low <= value <= high:
            raise ValueError(f"an interval holds its value: found {value}, {low}, {high} of {name}")

    def draw(axes: "Axes") -> None:
        heights = range(len(rows))
        for place, (_, value, low, high) in enumerate(rows):
            (line,) = axes.plot([low, high], [place, place], color=_COLOURS[0], lw=1.8)
            line.set(marker="|", markersize=8, solid_capstyle="butt", gid=f"row-{place}")
            axes.plot(value, place, "o", color=_COLOURS[0], ms=7)
            axes.text(
                1.02,
                place,
                f"{value:.3f}  [{low:.3f}, {high:.3f}]",
                transform=axes.get_yaxis_transform(),
                va="center",
                color=_GREY,
            )
        axes.set_yticks(heights, [on_one_line(name, _LONGEST_NAME) for name, *_ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.tick_params("y", length=0)
        axes.grid(True, axis="x")
        axes.set_xlabel(xlabel)

    return svg_of(title, (7.5, 1.2 + 0.36 * len(rows)), draw)


def _look(place: int) -> tuple[str, str]:
    """Colour and dashes: dashes change where the colours are used up."""
    turn, colour = divmod(place, len(_COLOURS))
    return _COLOURS[colour], _DASHES[turn % len(_DASHES)]


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """The heights moved as little as possible so that they are a gap apart, none above 1.

    Labels that are too close become a block around the middle of where they belong. Their order
    stays; where there are too many they go below 0.
    """
    order = sorted(range(len(heights)), key=heights.__getitem__)
    blocks: list[list[float]] = []  # of each label: where the lowest of its block would like to be
    for place in order:
        block = [heights[place]]
        while blocks and fmean(blocks[-1]) + gap * len(blocks[-1]) > fmean(block):
            below = blocks.pop()
            block = [*below, *(height - gap * len(below) for height in block)]
        blocks.append(block)
    spread = [fmean(block) + gap * i for block in blocks for i in range(len(block))]
    limits = [1 - gap * i for i in reversed(range(len(spread)))]
    moved = dict(zip(order, map(min, spread, limits), strict=True))
    return [moved[place] for place in range(len(heights))]


def svg_of(title: str, size: tuple[float, float], draw: Callable[["Axes"], None]) -> str:
    """A picture; the same text for the same input and version of matplotlib.

    Args:
        title: Above it.
        size: Width and height in inches.
        draw: Draws on the axes.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            "pictures need matplotlib, which is not installed: pip install 'stableprompt[plots]'"
        ) from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        for group, settings in _STYLE.items():
            matplotlib.rc(group, **settings)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title, loc="left", fontweight="bold")
        draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    # Without the prologue it is a file and a part of a page alike.
    return text.getvalue()[text.getvalue().index("<svg") :]
