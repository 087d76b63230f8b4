"""Two texts, word by word: what went, what came, what stayed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final, Literal

Change = Literal["same", "gone", "new"]

MOST_WORDS: Final = 1500
"""Longer texts are shown whole: comparing them takes too long, and nobody would read it."""
LEAST_IN_COMMON: Final = 0.25
"""Share of words; below it marks of every other word would say less than the two texts do."""

# White space belongs to the word before it: marks of a changed phrase have no holes.
_WORDS: Final = re.compile(r"\w+\s*|[^\w\s]\s*|\s+")


@dataclass(frozen=True, slots=True)
class Part:
    """A run of words with one fate."""

    change: Change
    text: str


@dataclass(frozen=True, slots=True)
class Difference:
    """Both texts in parts."""

    old: list[Part]
    new: list[Part]
    compared: bool
    """Whether parts are marked; else each text is one part."""


def difference(old: str, new: str) -> Difference:
    """What a reader needs to see of a change.

    >>> difference("Which team?", "Which one?").new
    [Part(change='same', text='Which'), Part(change='same', text=' '), \
Part(change='new', text='one'), Part(change='same', text='?')]
    """
    before, after = _WORDS.findall(old), _WORDS.findall(new)
    if max(len(before), len(after)) > MOST_WORDS:
        return _whole(old, new)
    bare = [[word.strip() for word in words] for words in (before, after)]
    matcher = SequenceMatcher(None, bare[0], bare[1], autojunk=False)
    if old != new and _share_in_common(matcher, before, after) < LEAST_IN_COMMON:
        return _whole(old, new)
    left: list[Part] = []
    right: list[Part] = []
    for tag, a, b, c, d in matcher.get_opcodes():
        same = tag == "equal"
        _add(left, "same" if same else "gone", before[a:b])
        _add(right, "same" if same else "new", after[c:d])
    return Difference(left, right, compared=True)


def _whole(old: str, new: str) -> Difference:
    return Difference([Part("same", old)], [Part("same", new)], compared=False)


def _share_in_common(
    matcher: SequenceMatcher[str], before: Sequence[str], after: Sequence[str]
) -> float:
    """Share of words, white space aside, of the shorter text that both have in this order."""
    same = 0
    for start, _, size in matcher.get_matching_blocks():
        same += sum(word[0].isalnum() for word in before[start : start + size])
    return same / max(1, min(sum(w[0].isalnum() for w in words) for words in (before, after)))


def _add(parts: list[Part], change: Change, words: Sequence[str]) -> None:
    text = "".join(words)
    bare = text.rstrip()  # a mark that ends in white space looks like a mistake
    if bare:
        parts.append(Part(change, bare))
    if bare != text:
        parts.append(Part("same", text[len(bare) :]))
