"""Texts of different splits that are nearly equal: found exactly, reported, never dropped.

Two texts are as similar as the sets of their word 3-grams: the Jaccard
similarity, |shared| / |either|. All pairs above a threshold are found without
comparing all pairs (prefix filtering: Bayardo, Ma and Srikant 2007, "Scaling
Up All Pairs Similarity Search"): with the grams in one order, rarest first,
two sets as similar as that share a gram in their short prefixes.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from typing import Final

from stableprompt.errors import ConfigError
from stableprompt.tasks.example import Example
from stableprompt.tasks.splits import SPLIT_NAMES, SplitName, Splits
from stableprompt.tasks.wording import quoted

FEWEST_WORDS: Final = 6
"""Shorter texts are left out: with four grams or fewer, one word more or less
decides between everything and nothing, and short texts ("yes", "thank you very
much") are equal by chance, not because one was copied."""

_GRAM_WORDS: Final = 3
_WORD: Final = re.compile(r"\w+")
_ROUNDING: Final = 1e-9  # 0.28 * 25 is 7.000000000000001, yet 7 shared grams of 25 are enough


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """An example and the one that it resembles most in a less protected split.

    Attributes:
        text: Of the example in the more protected split (test before validation).
        split: Where it is.
        other_text: Of the example that resembles it most.
        other_split: Where that one is; train comes before validation at equal similarity.
        similarity: Shared word 3-grams / all word 3-grams of the two, 0 to 1.
    """

    text: str
    split: SplitName
    other_text: str
    other_split: SplitName
    similarity: float


def near_duplicates(splits: Splits, *, threshold: float = 0.8) -> list[NearDuplicate]:
    """Find the validation and test examples that nearly equal one of a less protected split.

    Args:
        splits: The examples; texts of fewer than six words are left out.
        threshold: The least similarity that counts, above 0 and at most 1.

    Returns:
        At most one record for each validation and test example, in the order of the splits.

    Raises:
        ConfigError: a threshold outside its range.
    """
    if not 0 < threshold <= 1:
        raise ConfigError(
            f"the threshold must be above 0 and at most 1, found {threshold}: give for example 0.8"
        )
    grams = {name: _gram_sets(splits.part(name)) for name in SPLIT_NAMES}
    ranks = _ranks(grams)
    index = _Index(threshold)
    found: list[NearDuplicate] = []
    for name in SPLIT_NAMES:  # each split is looked up among those before it
        texts = [(text, sorted(ranks[gram] for gram in own)) for text, own in grams[name].items()]
        for text, own_ranks in texts:
            nearest = index.nearest(own_ranks)
            if nearest is not None:
                found.append(NearDuplicate(text, name, *nearest))
        for text, own_ranks in texts:
            index.add(text, name, own_ranks)
    return found


def near_duplicate_note(pairs: Sequence[NearDuplicate]) -> str | None:
    """One line about near duplicates for the notes of a task; None without any."""
    if not pairs:
        return None
    counts = Counter(pair.split for pair in pairs)
    held_out = " and ".join(
        f"{counts[name]} {name} example{'s' if counts[name] > 1 else ''}"
        for name in SPLIT_NAMES
        if counts[name]
    )
    others = {pair.other_split for pair in pairs}
    among = " or ".join(name for name in SPLIT_NAMES if name in others)
    shown = max(pairs, key=lambda pair: pair.similarity)
    texts = _from_first_difference(shown.text, shown.other_text)
    verb = "equals" if len(pairs) == 1 else "equal"
    return (
        f"{held_out} nearly {verb} one of {among}, such as {quoted(texts[0])} ({shown.split}) and "
        f"{quoted(texts[1])} ({shown.other_split}); all were kept: where they are copies, remove "
        "one of the two, or scores on them say little about new texts"
    )


def _from_first_difference(text: str, other: str) -> tuple[str, str]:
    """Both texts from shortly before they differ: their beginnings are often the same."""
    pairs = zip(text, other, strict=False)
    start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) - 15
    return (text, other) if start <= 0 else (f"…{text[start:]}", f"…{other[start:]}")


def _gram_sets(examples: Sequence[Example]) -> dict[str, frozenset[tuple[str, ...]]]:
    """The grams of each text that is long enough, in the order of the examples."""
    grams = {}
    for example in examples:
        words = _WORD.findall(example.text.casefold())
        if len(words) >= FEWEST_WORDS:
            starts = range(_GRAM_WORDS)
            grams[example.text] = frozenset(zip(*(words[i:] for i in starts), strict=False))
    return grams


def _ranks(
    grams: Mapping[SplitName, Mapping[str, frozenset[tuple[str, ...]]]],
) -> dict[tuple[str, ...], int]:
    """The place of each gram when the rarest come first."""
    counts = Counter(chain.from_iterable(own for part in grams.values() for own in part.values()))
    return {gram: rank for rank, gram in enumerate(sorted(counts, key=counts.__getitem__))}


class _Index:
    """Sets of ranks, each found by the few ranks in its prefix.

    Behind the first gram that two sets share, no more can be shared than either
    has left. Sets of one size with a gram at one position are therefore kept
    together: where all texts have one template, they are passed over at once.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._sets: list[tuple[str, SplitName, frozenset[int]]] = []
        # rank -> (size of the set, position of the rank in it) -> places in _sets
        self._places: dict[int, dict[tuple[int, int], list[int]]] = {}

    def add(self, text: str, split: SplitName, ranks: Sequence[int]) -> None:
        for position, rank in enumerate(self._prefix(ranks)):
            groups = self._places.setdefault(rank, {})
            groups.setdefault((len(ranks), position), []).append(len(self._sets))
        self._sets.append((text, split, frozenset(ranks)))

    def nearest(self, ranks: Sequence[int]) -> tuple[str, SplitName, float] | None:
        """The most similar set at or above the threshold, the earliest of equals."""
        own = frozenset(ranks)
        best: tuple[str, SplitName, float] | None = None
        for place in sorted(self._candidates(ranks)):
            text, split, other = self._sets[place]
            shared = len(own & other)
            similarity = shared / (len(own) + len(other) - shared)
            if similarity >= self._threshold and (best is None or similarity > best[2]):
                best = (text, split, similarity)
        return best

    def _candidates(self, ranks: Sequence[int]) -> set[int]:
        """Places of every set that reaches the threshold, and of some that do not."""
        places: set[int] = set()
        for position, rank in enumerate(self._prefix(ranks)):
            for (size, other_position), group in self._places.get(rank, {}).items():
                most = min(len(ranks) - position, size - other_position)
                if most >= self._least_shared(len(ranks) + size):
                    places.update(group)
        return places

    def _least_shared(self, sizes: int) -> float:
        # shared / (sizes - shared) >= threshold, solved for shared
        return self._threshold / (1 + self._threshold) * sizes - _ROUNDING

    def _prefix(self, ranks: Sequence[int]) -> Sequence[int]:
        """The rarest grams: without any of them, too few are left to reach the threshold."""
        return ranks[: len(ranks) - math.ceil(self._threshold * len(ranks) - _ROUNDING) + 1]
