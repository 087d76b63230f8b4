"""The commands of a block of shell lines."""

import re
import shlex
from dataclasses import dataclass
from typing import Final

from tests.documents.pages import Block

OURS: Final = ("stableprompt", "make", "pip", "python", "python3")
"""A plain block whose first line begins with one of these holds commands."""
_SHELLS: Final = ("bash", "console", "sh", "shell")
_ENDS: Final = ("&&", "||", ";", "|")


@dataclass(frozen=True, slots=True)
class Command:
    """One command."""

    line: int
    program: str
    arguments: tuple[str, ...]
    variables: dict[str, str]
    """Set for it alone."""

    @property
    def text(self) -> str:
        """As it could be typed."""
        return shlex.join([self.program, *self.arguments])


def holds_commands(block: Block) -> bool:
    """Whether these are lines for a shell."""
    if block.language in _SHELLS:
        return True
    first = next((line.split() for line in block.text.splitlines() if line.strip()), [])
    return block.language == "" and bool(first) and first[0].removeprefix("$ ") in OURS


def commands_of(block: Block) -> list[Command]:
    """The commands of a block, in order.

    Raises:
        ValueError: a line is none that a shell reads.
    """
    found: list[Command] = []
    for number, line in _lines(block):
        for words in _split(line):
            variables = {}
            while words and (given := re.fullmatch(r"(\w+)=(.*)", words[0], re.DOTALL)):
                variables[given[1]] = given[2]
                words = words[1:]
            program = words[0].rsplit("/", 1)[-1] if words else ""
            found.append(Command(number, program, tuple(words[1:]), variables))
    return found


def _lines(block: Block) -> list[tuple[int, str]]:
    """Lines with what continues them; in a console what is typed alone."""
    whole: list[tuple[int, str]] = []
    open_line = False
    for number, line in enumerate(block.text.splitlines(), block.line):
        if open_line:
            place, text = whole[-1]
            whole[-1] = (place, f"{text.removesuffix(chr(92))} {line.strip()}")
        elif block.language == "console" and not line.startswith("$ "):
            continue
        else:
            whole.append((number, line.removeprefix("$ ").strip()))
        open_line = line.rstrip().endswith("\\")
    return [(number, line) for number, line in whole if line]


def _split(line: str) -> list[list[str]]:
    """The words of each command of a line."""
    reader = shlex.shlex(line, posix=True, punctuation_chars=";|&")
    reader.whitespace_split = True
    parts: list[list[str]] = [[]]
    for word in reader:
        if word in _ENDS:
            parts.append([])
        else:
            parts[-1].append(word)
    return [part for part in parts if part]
