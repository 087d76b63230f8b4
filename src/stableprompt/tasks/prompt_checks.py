"""Cheap textual guards: what a prompt must not be, whatever score it reaches.

A prompt that quotes the examples can look good on them and says nothing about
new ones; one that states the answer says the same to every input; one that
stopped at the length limit or carries chat markup is not what the target will
be sent in earnest; one without the user's placeholders would leave the input
out. Words are runs of letters and digits:
punctuation between them is ignored, and scripts that write no spaces between
words count as few words, so that copies in them are found less often.
"""

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import StrEnum
from typing import Final

from stableprompt.tasks.placeholders import marks

COPIED_RUN: Final = 8
"""So many consecutive words of an example text are a copy."""
SHORTEST_TEXT: Final = 3
"""A whole example text of fewer words may occur in a prompt by chance."""

_WORD = re.compile("\\w+(?:['\u2019]\\w+)*")  # an apostrophe does not end a word
_THINK_TAG = re.compile(r"</?\s*think(?:ing)?\s*>", re.IGNORECASE)
# "The answer is", "Output:", "label = " ...; group 1 is the rest of the sentence.
_STATEMENT = re.compile(
    r"\b(?:answer|output|label|result|response)s?\b(?:[ \t]+(?:should|must|will|would))?"
    r"(?:[ \t]+(?:always|simply|just))?[ \t]*(?:is|are|be|:|=)[ \t]*([^\n.;!?]+)",
    re.IGNORECASE,
)
# "Always reply with", "Say"; group 1 is the rest of the sentence, which must then be an answer.
_ORDER = re.compile(
    r"\b(?:answer|reply|respond|say|output|write|return)(?:[ \t]+with)?[ \t]+([^\n.;!?]+)",
    re.IGNORECASE,
)
_FILLERS = re.compile(
    r"^\W*(?:always|definitely|probably|certainly|simply|just|only|the word|the letter)\b|"
    r"\b(?:(?:to|for|in) (?:all|every|any|each)(?: [\w ]*)?|always|only)\W*$",
    re.IGNORECASE,
)
# Behind these an answer is a rule and no statement: "The answer is yes if ...".
_CONDITION = re.compile(r"\b(?:if|when|whenever|unless|where|otherwise|for)\b", re.IGNORECASE)
_PLAIN_CONTROLS = frozenset("\n\r\t")
_UNDECODABLE = "\ufffd"


class PromptFault(StrEnum):
    """Why a prompt is not admitted."""

    EMPTY = "empty"
    """It has no word in it."""
    TRUNCATED = "truncated"
    """It stopped at the length limit."""
    THINK = "think"
    """It holds the tags of a model's thinking."""
    MARKUP = "markup"
    """It contains control characters or special tokens of a chat."""
    PLACEHOLDER = "placeholder"
    """It lost a placeholder of the seed prompt, or invented one."""
    LEAK = "leak"
    """It states an answer, as in "The answer is B.": right for some inputs, wrong for others."""
    COPY = "copy"
    """It contains an example text."""
    NO_INSTRUCTION = "no_instruction"
    """It asks for nothing (decided with the seed prompt at hand)."""
    BABBLE = "babble"
    """It is no plain language: too odd for its length (decided where the models are)."""


class CopyIndex:
    """The example texts, prepared so that each prompt is checked in time of its own length.

    A text of 3 to 8 words is kept whole, of a longer one every run of 8 words,
    so that both rules are one look-up.

    Args:
        texts: What must not be copied.
        allowed: A text whose own runs of words are no copy: the prompt that was there before.
    """

    def __init__(self, texts: Iterable[str], *, allowed: str = "") -> None:
        self._runs: set[tuple[str, ...]] = set()
        for text in texts:
            words = _words(text)
            if len(words) >= SHORTEST_TEXT:
                self._runs.update(_runs(words, min(len(words), COPIED_RUN)))
        self._lengths = sorted({len(run) for run in self._runs})
        own = _words(allowed)
        self._runs -= {run for length in self._lengths for run in _runs(own, length)}

    def is_copied_in(self, prompt: str) -> bool:
        """Whether the prompt holds a whole text, or 8 consecutive words of one."""
        words = _words(prompt)
        return any(run in self._runs for length in self._lengths for run in _runs(words, length))


class LeakIndex:
    """The answers of a task, prepared to find a prompt that states one of them.

    "Output: positive" is a leak; "Output: positive or negative" offers a choice and is none.

    Args:
        answers: Label words, choices, or references.
        closed: Whether these are all that can be answered. Then a statement that goes on behind
            its answer is a leak too, unless it names another one or a condition.
    """

    def __init__(self, answers: Iterable[str], *, closed: bool) -> None:
        given = list(dict.fromkeys(answer for answer in answers if _bare(answer)))
        self._bare = {_bare(answer) for answer in given}
        # One look for all answers at once; the longest first, so that "not sure" is not "not".
        # An answer of one letter must be written as it is, and before no word in small letters:
        # "a" and "A single word" have an article.
        long = [re.escape(a) for a in sorted(given, key=len, reverse=True) if len(a) > 1]
        short = [re.escape(a) for a in given if len(a) == 1]
        self._named = [
            re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w){behind}", flags)
            for words, behind, flags in (
                (long, "", re.IGNORECASE),
                (short, "(?! [a-z])", re.NOFLAG),
            )
            if words
        ]
        self._closed = closed

    def is_stated_in(self, prompt: str) -> bool:
        """Whether the prompt says that the answer, the output or the label is one of them."""
        stated = any(self._is_stated(match.group(1)) for match in _STATEMENT.finditer(prompt))
        return stated or any(self._is_answer(m.group(1)) for m in _ORDER.finditer(prompt))

    def _is_answer(self, rest: str) -> bool:
        return _bare(_without_fillers(rest)) in self._bare

    def _is_stated(self, rest: str) -> bool:
        if self._is_answer(rest):
            return True
        rest = _without_fillers(rest)
        if not self._closed or _CONDITION.search(rest):
            return False
        found = [match for pattern in self._named for match in pattern.finditer(rest)]
        named = {match.group().casefold() for match in found}
        return len(named) == 1 and not rest[: min(m.start() for m in found)].strip(
            "\"'([\u201c\u2018 "
        )


def _without_fillers(rest: str) -> str:
    while (shorter := _FILLERS.sub("", rest)) != rest:
        rest = shorter
    return rest


def find_fault(
    prompt: str,
    *,
    truncated: bool,
    example_texts: CopyIndex | Iterable[str],
    special_tokens: Sequence[str] = (),
    keep: str | None = None,
    fields: Collection[str] = (),
    leaks: LeakIndex | None = None,
) -> PromptFault | None:
    """The first fault of the prompt, or None; BABBLE and NO_INSTRUCTION are never found here.

    Args:
        prompt: As the agent wrote it.
        truncated: Whether it stopped at the length limit.
        example_texts: What must not be copied; prepare it once as a ``CopyIndex``.
        special_tokens: Of the tokenizers of agent and target, such as ``<|im_end|>``.
        keep: The prompt whose placeholders it must have, no more and no fewer; None: any.
        fields: The placeholders that are filled in here, see ``marks``.
        leaks: The answers that it must not state.
    """
    index = example_texts if isinstance(example_texts, CopyIndex) else CopyIndex(example_texts)
    checks: tuple[tuple[PromptFault, Callable[[], bool]], ...] = (
        (PromptFault.EMPTY, lambda: not any(character.isalnum() for character in prompt)),
        (PromptFault.TRUNCATED, lambda: truncated),
        (PromptFault.THINK, lambda: _THINK_TAG.search(prompt) is not None),
        (PromptFault.MARKUP, lambda: _has_markup(prompt, special_tokens)),
        (PromptFault.PLACEHOLDER, lambda: _lost_or_invented(prompt, keep, fields)),
        (PromptFault.LEAK, lambda: leaks is not None and leaks.is_stated_in(prompt)),
        (PromptFault.COPY, lambda: index.is_copied_in(prompt)),
    )
    return next((fault for fault, holds in checks if holds()), None)


def _lost_or_invented(prompt: str, keep: str | None, fields: Collection[str]) -> bool:
    return keep is not None and marks(prompt, fields) != marks(keep, fields)


def _has_markup(prompt: str, special_tokens: Sequence[str]) -> bool:
    return (
        _UNDECODABLE in prompt
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


def _bare(text: str) -> str:
    """The words alone, for comparing answers with each other."""
    return " ".join(_words(text))
