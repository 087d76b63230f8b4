"""Would a person ship this prompt? Is it plain language, and does it ask for something?

How odd a text is, is measured against plain instructions: a language model needs about
``opening + rate * T`` nats to read one of T tokens, with a spread that grows like the root of T. So
short prompts are not called odd for being short, as they would be by perplexity: "Classify." costs
3,000 a token. The scale belongs to the model that it was fitted with.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final, Self

import numpy as np

ODDEST: Final = 1000.0
"""The surprise of a text whose likelihood is no number; a figure that files can hold."""

_SENTENCE = re.compile(r"[.!?:;,\n]+\s*(?:(?:then|and)\s+)?")
_LEAD: Final = frozenset(
    (
        "please",
        "always",
        "only",
        "just",
        "then",
        "now",
        "first",
        "next",
        "finally",
        "also",
        "simply",
    )
)
_FRAMES = re.compile(
    r"(?:^|[.!?]\s+)you [a-z]+|\b(?:you (?:are|will|must|should|need|get|have|receive)|"
    r"your (?:task|job|goal|answer|reply)|(?:the|this) task|in this task|"
    r"the (?:answer|output|reply|label) (?:is|should|must))\b",
    re.IGNORECASE,
)
_QUESTION = re.compile(
    r"\b(?:what|which|who|whom|whose|when|where|why|how|is|are|was|were|do|does|did|can|could|"
    r"will|would|should|has|have)\b[^?]*\?",
    re.IGNORECASE,
)


def is_instruction(text: str) -> bool:
    """Whether the text asks for something: an order, a question, or a role and a task.

    English alone, by its words; callers ask it about their own prompt first.
    """
    if _QUESTION.search(text) or _FRAMES.search(text):
        return True
    for sentence in _SENTENCE.split(text):
        words = re.findall(r"[a-z']+", sentence.casefold())
        while words and words[0] in _LEAD:
            words = words[1:]
        if words and words[0] in _verbs():
            return True
    return False


@dataclass(frozen=True, slots=True)
class Readability:
    """What can be said of a prompt without sending it to the target."""

    surprise: float
    """How odd its language is: standard deviations above plain instructions of its length."""
    num_words: int
    instruction: bool
    """Whether it asks for something, see ``is_instruction``."""


@dataclass(frozen=True, slots=True)
class SurpriseScale:
    """What one language model needs to read a plain instruction of T tokens."""

    opening: float
    """Nats that a text costs for being one: nothing is expected yet."""
    rate: float
    """Nats a token."""
    spread: float
    """Standard deviation of (nats - expected) / sqrt(T) over plain instructions."""

    @classmethod
    def fit(cls, nats: Sequence[float], num_tokens: Sequence[int]) -> Self:
        """Weighted least squares of nats on tokens; the variance grows with the tokens.

        Args:
            nats: Negative log-likelihood of each plain instruction.
            num_tokens: Its length.

        Raises:
            ValueError: fewer than three texts, or all of one length.
        """
        if len(nats) < 3 or len(set(num_tokens)) < 2:
            raise ValueError(
                f"a scale needs three texts of different lengths, found {len(nats)} with "
                f"{len(set(num_tokens))} lengths"
            )
        cost, length = np.asarray(nats, dtype=float), np.asarray(num_tokens, dtype=float)
        root = np.sqrt(length)
        design = np.stack([1 / root, root], axis=1)
        (opening, rate), *_ = np.linalg.lstsq(design, cost / root, rcond=None)
        residuals = (cost - opening - rate * length) / root
        spread = math.sqrt(float(residuals @ residuals) / (len(cost) - 2))
        return cls(float(opening), float(rate), spread)

    def surprise(self, nats: float, num_tokens: int) -> float:
        """Standard deviations above a plain instruction of this length, at most ``ODDEST``.

        Args:
            nats: Negative log-likelihood of the text.
            num_tokens: Its length, at least 1.
        """
        if not math.isfinite(nats):
            return ODDEST
        odd = (nats - self.opening - self.rate * num_tokens) / math.sqrt(num_tokens)
        return min(ODDEST, odd / max(self.spread, 1e-9))


@cache
def plain_instructions() -> tuple[str, ...]:
    """Instructions of other tasks, long and short, that a scale is fitted to."""
    return _lines("plain_instructions.txt")


@cache
def _verbs() -> frozenset[str]:
    """Verbs that an English instruction may begin with."""
    return frozenset(_lines("instruction_verbs.txt"))


def _lines(name: str) -> tuple[str, ...]:
    file = resources.files("stableprompt.tasks") / name
    return tuple(line for line in file.read_text(encoding="utf-8").splitlines() if line)
