"""Conversations in portions, for several that answer as one; and their answers put together again.

Pure: which conversations make a portion follows from these alone, so that an answer does not depend
on who gave it, or when, or how many there were to ask.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, TypeVar

import torch
from torch.nn.functional import pad

from stableprompt.models.chat import Message
from stableprompt.models.targets.interface import Answers, LabelScores, Usage
from stableprompt.models.tree import common_length

Found = TypeVar("Found", LabelScores, Answers)
Part = tuple[Sequence[int], Found]
"""Numbers of conversations, and what was answered to these."""

_MANY: Final = 16
"""Portions that even few conversations make: with as many as there are to ask, the slowest one
would decide how long all take."""
_SMALL, _LARGE = 8, 64
"""Conversations of a portion at most, where there are few and where there are many."""


def portions(conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
    """Numbers of conversations, portion by portion, so that little is read in two of them.

    Those with equal beginnings are put together, whether prompt or input comes first, and cut where
    neighbours have least in common.
    """
    texts = [_text(conversation) for conversation in conversations]
    order = sorted(range(len(texts)), key=lambda number: (texts[number], number))
    common = [0, *(common_length(texts[one], texts[other]) for one, other in pairwise(order))]
    most = min(_LARGE, max(_SMALL, len(order) // _MANY))
    found, start = [], 0
    while len(order) - start > most:
        ends = range(start + most, start + most // 2 - 1, -1)
        end = min(ends, key=lambda place: common[place])  # of equal ones the largest portion
        found.append(order[start:end])
        start = end
    return [*found, order[start:]] if order else []


def joined_scores(parts: Sequence[Part[LabelScores]], read: int | None) -> LabelScores:
    """The scores of all conversations, in their order.

    Args:
        parts: Each conversation is in one of them.
        read: Tokens read by all together, what they share once; None: those of the parts add up.
    """
    width = max(found.label_probs.shape[1] for _, found in parts)
    tables = [pad(f.label_probs, (0, width - f.label_probs.shape[1])) for _, f in parts]
    rows = torch.tensor([number for numbers, _ in parts for number in numbers])
    return LabelScores(torch.cat(tables)[rows.argsort()], _total(parts, read), _failed(parts))


def joined_answers(parts: Sequence[Part[Answers]], read: int | None) -> Answers:
    """The answers to all conversations, in their order; see ``joined_scores``."""
    texts: dict[int, str] = {}
    for numbers, found in parts:
        texts |= zip(numbers, found.texts, strict=True)
    ordered = tuple(texts[number] for number in range(len(texts)))
    return Answers(ordered, _total(parts, read), _failed(parts))


def _text(conversation: Sequence[Message]) -> bytes:
    whole = "\n".join(f"{message['role']}\n{message['content']}" for message in conversation)
    return whole.encode("utf-8", "surrogatepass")


def _total(parts: Sequence[Part[Found]], read: int | None) -> Usage:
    usage = sum((found.usage for _, found in parts), start=Usage())
    return usage if read is None else Usage(read, usage.written)


def _failed(parts: Sequence[Part[Found]]) -> Mapping[int, str]:
    return {numbers[place]: why for numbers, found in parts for place, why in found.failed.items()}
