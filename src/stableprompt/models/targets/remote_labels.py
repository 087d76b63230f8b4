"""From what a server says of next tokens to probabilities of words. Pure, no requests."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

Ids = tuple[int, ...]


def word_probs(top: Iterable[tuple[str, float]], words: Sequence[str]) -> list[float] | None:
    """Probabilities of words from the most probable first tokens of an answer.

    A token counts for the one word that it begins, whatever its case: " Pos" for "positive". What
    begins several words decides nothing: where such a token has more than a twentieth of what the
    words have together, None. All 0 where no token begins a word. The server shows 20 tokens at
    most, so that a word which is not among them has 0, too.

    Args:
        top: Tokens with their log-probabilities, in nats.
        words: What may be answered.
    """
    folded = [word.casefold() for word in words]
    found, open_mass = [0.0] * len(words), 0.0
    for token, logprob in top:
        start = token.strip().casefold()
        if not start:
            continue
        begun = [n for n, word in enumerate(folded) if word.startswith(start)]
        if len(begun) == 1:
            found[begun[0]] += math.exp(logprob)
        elif begun:  # "on" of "on" and "on hold", too: nobody knows which
            open_mass += math.exp(logprob)
    total = sum(found)
    if open_mass > 0.05 * (total + open_mass):
        return None
    return normalised(found)


def normalised(values: Sequence[float]) -> list[float]:
    """Values that sum to 1, or all 0."""
    total = sum(values)
    return [value / total for value in values] if total > 0 else [0.0] * len(values)


def tree_of(words: Sequence[Ids]) -> dict[Ids, list[int]]:
    """What to ask for behind which beginning, to know all tokens of all words.

    >>> tree_of([(1,), (2, 3), (2, 4)])
    {(): [1, 2], (2,): [3, 4]}
    """
    tree: dict[Ids, list[int]] = {}
    for ids in words:
        for length, token in enumerate(ids):
            asked = tree.setdefault(ids[:length], [])
            if token not in asked:
                asked.append(token)
    return tree


def can_be_told_apart(words: Sequence[Ids]) -> bool:
    """Whether no word is the beginning of another, or empty: then their tokens tell all."""
    ordered = sorted(words)
    return all(ordered) and all(b[: len(a)] != a for a, b in itertools.pairwise(ordered))


def sequence_probs(
    words: Sequence[Ids], logprobs: Mapping[Ids, Mapping[int, float]]
) -> list[float]:
    """Probabilities of whole words, normalised over them.

    Args:
        words: Token ids of each.
        logprobs: Behind each beginning, the log-probabilities of next tokens, in nats.
    """
    sums = [sum(logprobs[ids[:length]][token] for length, token in enumerate(ids)) for ids in words]
    largest = max(sums)
    return normalised([math.exp(value - largest) for value in sums])
