"""Which label a written answer names: for targets that give no probabilities."""

import re
from collections.abc import Sequence
from typing import Final

# Up to the last end of thinking, whether or not its beginning was written (some chat templates
# write it themselves); or a beginning without an end.
_THINKING: Final = re.compile(
    r"\A.*</think(?:ing)?>|<think(?:ing)?>.*\Z", re.DOTALL | re.IGNORECASE
)
# What models wrap an answer into: markup, quotation marks, brackets.
_WRAPPING: Final = " \t\r\n*_`'\"\u201c\u201d\u2018\u2019.,;:!?()[]{}<>#-\u2013\u2014"
_INTRODUCTION: Final = re.compile(
    r"\A(?:the\s+)?(?:(?:correct|right|best|final)\s+)?(?:answer|label|category|class|option|choice)"
    r"\s*(?:is|would be|:)\s*",
    re.IGNORECASE,
)


def without_thinking(written: str) -> str:
    """The text but for a block of thinking; one that was cut before its end leaves nothing."""
    return _THINKING.sub("", written)


def spoken_label(answer: str, words: Sequence[str]) -> int | None:
    """The number of the word that an answer names; None where it names none, or several.

    In this order: the whole answer is a word, but for case, quotation marks and punctuation; it
    begins with one ("Positive, because ...", "(B) the moon"), a phrase such as "The answer is"
    aside; or exactly one of the words stands in it, and not behind a "not". Longer words go first,
    so that "on hold" is not "on". A single letter must stand alone, and inside a sentence be
    written exactly so: "a" is no choice A.

    Args:
        answer: What the target wrote, without thinking.
        words: What may be answered, all different.
    """
    plain = _INTRODUCTION.sub("", answer.strip().lstrip(_WRAPPING)).strip(_WRAPPING)
    by_length = sorted(range(len(words)), key=lambda n: -len(words[n]))
    for same in (_exactly, _folded):
        whole = [n for n in by_length if same(words[n].strip(_WRAPPING)) == same(plain)]
        if len(whole) == 1:
            return whole[0]
    begun = [n for n in by_length if _begins(plain, words[n])]
    if begun:
        twins = [n for n in begun if words[n].casefold() == words[begun[0]].casefold()]
        return begun[0] if len(twins) == 1 else None
    return _only_one_inside(plain, words, by_length)


def _exactly(text: str) -> str:
    return text


def _folded(text: str) -> str:
    return text.casefold()


def _begins(answer: str, word: str) -> bool:
    """Whether the answer begins with the word, as a word of its own, and leaves no choice open.

    A letter must be followed by an end, a bracket or a stop: "A dog" does not choose A.
    """
    after = r"(?=$|[).:,;\]\n])" if len(word) == 1 else r"(?!\w)(?!\s*(?:/|\bor\b))"
    return re.match(re.escape(word) + after, answer, re.IGNORECASE) is not None


def _only_one_inside(answer: str, words: Sequence[str], by_length: Sequence[int]) -> int | None:
    found, rest = [], answer
    for number in by_length:
        word = words[number]
        flags = re.NOFLAG if len(word) == 1 else re.IGNORECASE
        if len(word) == 1 and word.casefold() in ("a", "i"):
            # An article or a pronoun, unless it is written like a choice.
            pattern = rf"(?<!\w){re.escape(word)}(?=[).:\]])|(?<=[(\[]){re.escape(word)}(?!\w)"
        else:
            pattern = rf"(?<!\w)(?<!not )(?<!n't ){re.escape(word)}(?!\w)"
        rest, times = re.subn(pattern, " ", rest, flags=flags)
        if times:
            found.append(number)
    return found[0] if len(found) == 1 else None
