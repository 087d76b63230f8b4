"""The pages for people, taken apart: fenced blocks, links, anchors, code in the text.

Parsed by markdown-it, which comes with rich; what a reader sees as a block is one here, too.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT: Final = Path(__file__).parents[2]
_MARK: Final = re.compile(r"<!--\s*not run:(?P<reason>.*?)-->", re.DOTALL)
MARK_FORM: Final = "<!-- not run: REASON -->"


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block."""

    page: str
    line: int
    """Of its first line of content."""
    language: str
    text: str
    not_run: str | None
    """Why it is left out; None: it is not."""

    @property
    def place(self) -> str:
        """As an editor opens it."""
        return f"{self.page}:{self.line}"


@dataclass(frozen=True, slots=True)
class Page:
    """A page in parts."""

    name: str
    """Its path from the root of the repository."""
    blocks: tuple[Block, ...]
    links: tuple[str, ...]
    anchors: frozenset[str]
    """As a repository's web page makes them of headings."""
    inline: tuple[str, ...]
    """Code in the text."""


def page_names() -> list[str]:
    """README, CONTRIBUTING, CHANGELOG and everything under docs/."""
    own = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    return [
        path.relative_to(ROOT).as_posix() for path in (*own, *sorted(ROOT.glob("docs/**/*.md")))
    ]


@cache
def read_page(name: str) -> Page:
    """A page of the repository."""
    return parse_page(name, (ROOT / name).read_text(encoding="utf-8"))


def parse_page(name: str, text: str) -> Page:
    """A page from its text."""
    blocks: list[Block] = []
    links: list[str] = []
    anchors: list[str] = []
    inline: list[str] = []
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type == "fence" and token.map:
            language = token.info.split()[0] if token.info.split() else ""
            why = _reason(before)
            blocks.append(Block(name, token.map[0] + 2, language, token.content, why))
        if token.type == "inline":
            if before is not None and before.type == "heading_open":
                anchors.append(_unused(slug(_plain(token)), anchors))
            children = token.children or []
            links += [str(c.attrGet("href")) for c in children if c.type == "link_open"]
            links += [str(c.attrGet("src")) for c in children if c.type == "image"]
            inline += [c.content for c in children if c.type == "code_inline"]
    return Page(name, tuple(blocks), tuple(links), frozenset(anchors), tuple(inline))


def slug(heading: str) -> str:
    """The anchor of a heading, as a repository's web page and python-markdown both make it.

    >>> slug("The paper's released code"), slug("steps.jsonl: one line a step")
    ('the-papers-released-code', 'stepsjsonl-one-line-a-step')
    """
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def _unused(found: str, taken: list[str]) -> str:
    number, name = 0, found
    while name in taken:
        number += 1
        name = f"{found}-{number}"
    return name


def _plain(token: Token) -> str:
    return "".join(c.content for c in token.children or [] if c.type in ("text", "code_inline"))


def _reason(before: Token | None) -> str | None:
    """Why the block behind this token is left out."""
    if before is None or before.type != "html_block":
        return None
    found = _MARK.search(before.content)
    return None if found is None else " ".join(found["reason"].split())
