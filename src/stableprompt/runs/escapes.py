"""Texts from data in Markdown and SVG: shown as they are, neither markup nor HTML nor control."""

import re
from typing import Final

_SIGNS: Final = re.compile(r"([\\`*_\[\]#|~$])")
_TAGS: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def on_one_line(text: str, most: int | None = None) -> str:
    r"""The text without line breaks and control characters, cut behind ``most`` characters.

    >>> on_one_line("a\n b\x1b!")
    'a b\\u001b!'
    """
    line = " ".join(text.split())
    shown = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in line)
    return shown if most is None or len(shown) <= most else f"{shown[: most - 1]}…"


def escaped(text: str) -> str:
    r"""A text for a line or a cell of a table: no sign in it means anything.

    >>> escaped("a|b <script>\n[x](y)")
    'a\\|b &lt;script&gt; \\[x\\](y)'
    """
    plain = _SIGNS.sub(r"\\\1", on_one_line(text))
    return "".join(_TAGS.get(char, char) for char in plain)


def named(text: str) -> str:
    """A name for a cell, where signs inside words do no harm: ``ii/word_in_context``."""
    return text if re.fullmatch(r"[\w./:=, -]*", text) else escaped(text)
