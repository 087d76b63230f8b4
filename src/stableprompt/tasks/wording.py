"""How things found in the data are named in a one-line message."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from stableprompt.errors import ConfigError

LONGEST_NAME = 40
MOST_NAMES = 20
MOST_ROWS = 5
HALF_CHARACTER: Final = re.compile("[\ud800-\udfff]")
"""A lone surrogate, often of a text cut in the middle of an emoji: no file can hold it."""


def quoted(name: object) -> str:
    """The name in quotes, without line breaks, cut where it is long."""
    shown = str(name)
    return repr(shown if len(shown) <= LONGEST_NAME else shown[: LONGEST_NAME - 1] + "…")


def listed(names: Iterable[object]) -> str:
    """The names in quotes with commas; the first 20 and a count where there are more."""
    shown = [quoted(name) for name in names]
    more = f" and {len(shown) - MOST_NAMES} more" if len(shown) > MOST_NAMES else ""
    return ", ".join(shown[:MOST_NAMES]) + more


def rows_listed(numbers: Sequence[int]) -> str:
    """How many rows and the first of them: ``7 rows (first: 2, 3, 5, 8, 13)``."""
    first = ", ".join(str(number) for number in numbers[:MOST_ROWS])
    if len(numbers) == 1:
        return f"1 row (row {first})"
    return f"{len(numbers)} rows (first: {first})"


def require_whole_characters(what: str, text: str) -> None:
    """Check that a text of the user's can be written down.

    Raises:
        ConfigError: it has half a character.
    """
    if found := HALF_CHARACTER.search(text):
        raise ConfigError(
            f"the {what} has half a character (a lone surrogate, {found.group()!r}), often of a "
            "text cut in the middle of an emoji, or not in UTF-8; correct it"
        )
