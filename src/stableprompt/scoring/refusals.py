"""Prompts and examples that a target leaves unanswered, and what is not worth asking then."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from stableprompt.tasks.example import Example

Pair = tuple[str, Example]
"""A prompt, and an example that it is sent with."""

_ENOUGH: Final = 8  # examples that a prompt is refused on, and answered on none


def unanswered(asked: Sequence[Pair], answered: Sequence[bool]) -> tuple[set[str], set[Example]]:
    """Prompts that were answered on less than half of their examples, and examples that another
    prompt was not answered on."""
    times = Counter(prompt for prompt, _ in asked)
    pairs = list(zip(asked, answered, strict=True))
    known = Counter(prompt for (prompt, _), found in pairs if found)
    refused = {prompt for prompt in times if 2 * known[prompt] < times[prompt]}
    return refused, {e for (prompt, e), found in pairs if not found and prompt not in refused}


def worth_asking(asked: Sequence[Pair], sent: Mapping[int, bool], left: Sequence[int]) -> list[int]:
    """What is left of a plan without what would be left out anyway.

    That is each example that a prompt was not answered on; and each prompt that can no longer be
    answered on half of its examples, or was refused on all of the first eight.

    Args:
        asked: The whole plan, with what was known before.
        sent: Of the numbers that were sent, whether they were answered.
        left: Numbers that are still to be sent.
    """
    _, lost = unanswered([asked[n] for n in sent], list(sent.values()))
    open_numbers = {*sent, *left}
    times = Counter(prompt for prompt, _ in asked)
    failed = Counter(asked[n][0] for n, answered in sent.items() if not answered)
    known = {asked[n][0] for n, answered in sent.items() if answered}
    known |= {prompt for n, (prompt, _) in enumerate(asked) if n not in open_numbers}
    hopeless = {
        prompt
        for prompt, count in failed.items()
        if 2 * count > times[prompt] or (count >= _ENOUGH and prompt not in known)
    }
    return [n for n in left if asked[n][0] not in hopeless and asked[n][1] not in lost]
