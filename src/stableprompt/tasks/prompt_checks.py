"""Cheap textual guards: what a prompt must not be, whatever score it reaches.

A prompt that quotes the examples can look good on them and says nothing about
new ones; one that stopped at the length limit or carries chat markup is not
what the target will be sent in earnest. Words are runs of letters and digits:
punctuation between them is ignored, and scripts that write no spaces between
words count as few words, so that copies in them are found less often.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

COPIED_RUN: Final = 8
"""So many consecutive words of an example text are a copy."""
SHORTEST_TEXT: Final = 3
"""A whole example text of fewer words may occur in a prompt by chance."""

_WORD = re.compile("\\w+(?:['\u2019]\\w+)*")  # an apostrophe does not end a word
_THINK_TAG = re.compile(r"</?\s*think(?:ing)?\s*>", re.IGNORECASE)
_PLAIN_CONTROLS = frozenset("\n\r\t")
_UNDECODABLE = "\ufffd"


class PromptFault(StrEnum):
    """Why a prompt is not admitted."""

    EMPTY = "empty"
    """It has no word in it."""
    TRUNCATED = "truncated"
    """It stopped at the length limit."""
    COPY = "copy"
    """It contains an example text."""
    MARKUP = "markup"
    """It contains control characters, think tags or special tokens of a chat."""
    BABBLE = "babble"
    """It is not language: its perplexity is too high (decided where the models are)."""


class CopyIndex:
    """The example texts, prepared so that each prompt is checked in time of its own length.

    A text of 3 to 8 words is kept whole, of a longer one every run of 8 words,
    so that both rules are one look-up.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._runs: set[tuple[str, ...]] = set()
        for text in texts:
            words = _words(text)
            if len(words) >= SHORTEST_TEXT:
                self._runs.update(_runs(words, min(len(words), COPIED_RUN)))
        self._lengths = sorted({len(run) for run in self._runs})

    def is_copied_in(self, prompt: str) -> bool:
        """Whether the prompt holds a whole text, or 8 consecutive words of one."""
        words = _words(prompt)
        return any(run in self._runs for length in self._lengths for run in _runs(words, length))


def find_fault(
    prompt: str,
    *,
    truncated: bool,
    example_texts: CopyIndex | Iterable[str],
    special_tokens: Sequence[str] = (),
) -> PromptFault | None:
    """The first fault of the prompt, or None; BABBLE is never found here.

    Args:
        prompt: As the agent wrote it.
        truncated: Whether it stopped at the length limit.
        example_texts: What must not be copied; prepare it once as a ``CopyIndex``.
        special_tokens: Of the tokenizers of agent and target, such as ``<|im_end|>``.
    """
    if not any(character.isalnum() for character in prompt):
        return PromptFault.EMPTY
    if truncated:
        return PromptFault.TRUNCATED
    if _has_markup(prompt, special_tokens):
        return PromptFault.MARKUP
    index = example_texts if isinstance(example_texts, CopyIndex) else CopyIndex(example_texts)
    return PromptFault.COPY if index.is_copied_in(prompt) else None


def _has_markup(prompt: str, special_tokens: Sequence[str]) -> bool:
    return (
        _UNDECODABLE in prompt
        or _THINK_TAG.search(prompt) is not None
        or any(token and token in prompt for token in special_tokens)
        or any(
            unicodedata.category(character) in ("Cc", "Cs") and character not in _PLAIN_CONTROLS
            for character in prompt
        )
    )


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _runs(words: Sequence[str], length: int) -> Iterable[tuple[str, ...]]:
    return (tuple(words[i : i + length]) for i in range(len(words) - length + 1))
