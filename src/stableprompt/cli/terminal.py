"""The one way to the terminal: what data and models wrote cannot steer it.

An escape sequence in an example, a prompt or a server's answer could colour, move or hide what
the program says, rename the window, or write to the clipboard; marks of direction and characters
without width could make a text look like another one.
"""

import json
import os
import sys
import traceback
import unicodedata
from typing import IO, TYPE_CHECKING, Any, Final

import typer

if TYPE_CHECKING:
    from rich.console import Console

LONGEST_LINE: Final = 2000
"""Characters of one line that is shown; the whole text is in a file, or was given."""

# Cc: control characters; Cf: marks of direction, no width, byte order marks; Cs: half characters;
# Zl, Zp: line breaks of another kind.
_UNSHOWN: Final = ("Cc", "Cf", "Cs", "Zl", "Zp")
# What scripts and emoji are written with: they join characters or keep them apart.
_JOINERS: Final = "\u200c\u200d"


def printable(text: str, *, keep: str = "\n\t") -> str:
    """The text with what is no printable character as an escape, such as ``\\u001b``.

    Args:
        text: From wherever.
        keep: Control characters that stay as they are.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char if char in keep or char in _JOINERS or not _is_unshown(char) else escape(char)
        for char in text
    )


def on_one_line(text: str, width: int = LONGEST_LINE) -> str:
    r"""The same without line breaks, cut where it is long.

    >>> on_one_line("a\n b\x1b[2J", width=10)
    'a b\\u001b…'
    """
    line = printable(" ".join(text.split(None)), keep="")
    return line if len(line) <= width else f"{line[: width - 1]}…"


def cut(text: str, most: int) -> str:
    """The beginning of a long text, and how much of it is left out."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most} more characters)"


def escape(char: str) -> str:
    """A character as JSON and Python write it: ``\\u001b``; two of them beyond the first plane."""
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _is_unshown(char: str) -> bool:
    return unicodedata.category(char) in _UNSHOWN


def say(text: str, *, to_stderr: bool = False) -> None:
    """Print lines of our own, with what data or a model put into them."""
    typer.echo(printable(text), err=to_stderr)


def say_trace(error: BaseException) -> None:
    """The Python trace of an error, on stderr."""
    typer.echo(printable("".join(traceback.format_exception(error))), err=True, nl=False)


def hand_over(text: str, *, newline: bool = True) -> None:
    """Print what was asked for: as it is into a file or a pipe, as printable text on a terminal."""
    # color: without it sequences that colour are left out of what goes into a file.
    shown = printable(text) if _is_terminal(sys.stdout) else text
    typer.echo(shown, color=True, nl=newline)


def hand_over_json(content: Any, file: IO[str] | None = None) -> None:
    """Print one line of JSON; what no terminal should get is escaped, as JSON allows."""
    typer.echo(printable(json.dumps(content, ensure_ascii=False), keep=""), file=file)


def _is_terminal(stream: IO[str]) -> bool:
    return stream.isatty()


def can_redraw() -> bool:
    """Whether stdout is a terminal on which lines may be drawn again, and nobody asked for plain.

    ``CI``, ``NO_COLOR`` and ``TERM=dumb`` (or ``unknown``) ask for plain lines.
    """
    plain = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    plain = plain or any(os.environ.get(name) for name in ("CI", "NO_COLOR"))
    return _is_terminal(sys.stdout) and not plain


def make_console(*, stderr: bool = False) -> "Console":
    """Plain lines where the output is no terminal; brackets and colons mean nothing in them."""
    from rich.console import Console  # takes longer to load than typer
    from rich.text import Text

    class SafeConsole(Console):
        """Whatever is printed through it, cells of tables included, goes through ``printable``."""

        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text), **options)

    return SafeConsole(stderr=stderr, highlight=False, markup=False, emoji=False)
