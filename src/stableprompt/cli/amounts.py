"""Dollars, times and rows of figures as a person reads them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

BARS: Final = "▁▂▃▄▅▆▇█"
PLAIN_BARS: Final = "_.-~=+*#"
"""For a terminal without them."""


def dollars(amount: float | None) -> str:
    """With cents, or two digits where there are fewer than a dollar's.

    >>> dollars(12.3456), dollars(0.01234), dollars(0.0)
    ('12.35', '0.012', '0')
    """
    if amount is None:
        return "unknown: nobody knows what the target costs"
    return f"{amount:.2f}" if amount >= 1 else f"{amount:.2g}"


def duration(seconds: float) -> str:
    """In the two largest units that matter.

    >>> duration(7.6), duration(200), duration(7500)
    ('8 s', '3 min 20 s', '2 h 5 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def sparkline(figures: Sequence[float], width: int, bars: str = BARS) -> str:
    """One bar a figure, from the lowest to the highest; means of neighbours where there are more.

    >>> sparkline([0.0, 0.5, 1.0], 10), sparkline([1, 1, 3, 3], 2), sparkline([2.0], 10)
    ('▁▅█', '▁█', '▁')
    """
    count = min(width, len(figures))
    edges = [round(i * len(figures) / count) for i in range(count + 1)] if count else []
    parts = [figures[a:b] for a, b in pairwise(edges)]
    means = [sum(part) / len(part) for part in parts]
    lowest, highest = min(means, default=0.0), max(means, default=0.0)
    scale = (len(bars) - 1) / (highest - lowest) if highest > lowest else 0.0
    return "".join(bars[round((mean - lowest) * scale)] for mean in means)
