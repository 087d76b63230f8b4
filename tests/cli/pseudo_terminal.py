"""A real pseudo-terminal of 80 columns, and what a person sees on it."""

import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path

COLUMNS, LINES = 80, 24
_PIECES = re.compile(r"\x1b\[(\?)?([0-9;]*)([A-Za-z])|\x1b\][^\x07]*\x07|([\r\n])|([^\x1b\r\n]+)")
_LONGEST = 240  # seconds


class Screen:
    """Lines as they stand after some output; wide enough not to wrap, so that what does is seen."""

    def __init__(self) -> None:
        self.lines: list[str] = [""]
        self.cursor_shown = True
        self._row = self._column = 0

    def feed(self, output: str) -> None:
        """Draw."""
        at = 0
        while at < len(output):
            piece = _PIECES.match(output, at)
            assert piece, f"what no view of ours sends: {output[at : at + 20]!r}"
            at = piece.end()
            private, given, final, moves, text = piece.groups()
            if text:
                self._write(text)
            elif moves == "\r":
                self._column = 0
            elif moves == "\n":
                self._go(self._row + 1)
            elif private:
                assert (given, final) in (("25", "l"), ("25", "h"))
                self.cursor_shown = final == "h"
            elif final:
                self._control(given, final)

    def _control(self, given: str, final: str) -> None:
        if final == "A":
            self._go(self._row - int(given or 1))
        elif final == "K":
            assert given == "2"
            self.lines[self._row] = ""
        elif final == "C":
            self._column += int(given or 1)
        else:
            assert final == "m", f"what no view of ours sends: {given}{final}"

    def _go(self, row: int) -> None:
        assert row >= 0
        self._row = row
        self.lines += [""] * (row + 1 - len(self.lines))

    def _write(self, text: str) -> None:
        line = self.lines[self._row].ljust(self._column)
        self.lines[self._row] = line[: self._column] + text + line[self._column + len(text) :]
        self._column += len(text)


@dataclass(frozen=True, slots=True)
class Seen:
    """How a program on a terminal ended."""

    code: int
    output: str
    """All that was sent to the terminal."""
    frames: list[list[str]]
    """The lines on it, each time something came."""
    screen: Screen


def run_on_terminal(
    arguments: list[str],
    folder: Path,
    *,
    watch: Callable[[str, int], None] = lambda output, pid: None,
    **variables: str,
) -> Seen:
    """Run the program with a terminal for stdin, stdout and stderr.

    Args:
        arguments: Of stableprompt.
        folder: Where.
        watch: Given all output so far and the process, each time something comes.
        **variables: Of the environment.
    """
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    before = termios.tcgetattr(theirs)
    asking = ("CI", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    environment = {n: v for n, v in os.environ.items() if n not in asking}
    environment |= {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **variables}
    command = [sys.executable, "-m", "stableprompt", *arguments]
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
    )  # fmt: skip
    output, frames, screen = b"", [], Screen()
    ends = time.monotonic() + _LONGEST
    try:
        while time.monotonic() < ends:
            ready, _, _ = select.select([ours], [], [], 0.1)
            if ready:
                new = os.read(ours, 65536)
                output += new
                watch(output.decode(errors="replace"), process.pid)
            elif process.poll() is not None:
                break
        code = process.wait(timeout=10)
        assert termios.tcgetattr(theirs) == before
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
    text = output.decode("utf-8")
    for piece in re.split(r"(?<=\n)(?=\r?\x1b\[2K)|(?=\r\x1b\[2K)", text):
        screen.feed(piece)
        frames.append([line.rstrip() for line in screen.lines])
    return Seen(code, text, frames, screen)
