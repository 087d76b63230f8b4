"""Does a prompt that was written for one input give its answer away?

A writer that is paid for right answers may solve the task itself and dictate: "Say that it is
positive." Such a prompt says nothing about how well the target follows prompts, and is as wrong
as its writer. What it must not do is to single an answer out: to name one of the answers that
are allowed and none of the others, or a reference that the input itself does not hold.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from stableprompt.tasks.example import Example
from stableprompt.tasks.formats import CHOICES

_SHORTEST: Final = 2
"""A single letter occurs in any text; a digit does not."""
_LISTED = re.compile(r"^\s*(?:-|[A-Z]\.)\s+", re.MULTILINE)
# "option B", "choose (C)", "answer is D", "B is correct"; letters in capitals alone.
_LETTER = re.compile(
    r"\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer(?:\s+is)?|[Cc]hoose|[Pp]ick|[Ss]elect)\s*[:=]?\s*"
    r"[(\"']?([A-Z])\b(?! [a-z])|\b([A-Z])\b[)\"']?\s+is\s+(?:the\s+)?(?:right|correct|best)"
)


def gives_away(prompt: str, example: Example, words: Sequence[str]) -> bool:
    """Whether a prompt singles out an answer to the input that it was written for.

    Args:
        prompt: As it was written.
        example: The input. Where answers are free its references are looked for, but not those
            that stand in the input.
        words: What may be answered to it; nothing where the answer is free.
    """
    if not words:
        told = [a for a in _named(prompt, example.answers) if not _named(example.text, [a])]
        return bool(told)
    letters = {one or other for one, other in _LETTER.findall(prompt)} & set(words)
    if letters:  # "choose A or B": what is named beside it counts, too
        letters |= set(re.findall(r"\b[A-Z]\b(?! [a-z]{2})", prompt)) & set(words)
    texts = _LISTED.sub("", example.fields.get(CHOICES, "")).splitlines()
    return len(letters) == 1 or any(len(_named(prompt, offered)) == 1 for offered in (words, texts))


def _named(text: str, answers: Iterable[str]) -> set[str]:
    """Those of several answers that a text names, as whole words; the longer one where two overlap.

    "not sure" does not name "sure".
    """
    found: set[str] = set()
    rest = text.casefold()
    for answer in sorted({a.casefold().strip() for a in answers}, key=len, reverse=True):
        pattern = rf"(?<!\w){re.escape(answer)}(?!\w)"
        if (len(answer) >= _SHORTEST or answer.isdigit()) and re.search(pattern, rest):
            found.add(answer)
            rest = re.sub(pattern, " ", rest)
    return found
