"""The three splits: cut by label, free of duplicates, and provably disjoint.

Train examples give the reward, validation examples the choices, test examples
the one final figure. A text in two splits would make that figure a lie, so
duplicates are dropped (the most protected copy stays) and ``require_disjoint``
is asserted whenever a task is made.
"""

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from stableprompt.errors import ConfigError, DataError
from stableprompt.tasks.example import Example
from stableprompt.tasks.folding import fold
from stableprompt.tasks.wording import quoted

SplitName = Literal["train", "validation", "test"]
SPLIT_NAMES: Final[tuple[SplitName, ...]] = ("train", "validation", "test")
DEFAULT_FRACTIONS: Final = (0.4, 0.3, 0.3)


@dataclass(frozen=True, slots=True)
class Splits:
    """The examples of a task by what they are for."""

    train: tuple[Example, ...] = ()
    validation: tuple[Example, ...] = ()
    test: tuple[Example, ...] = ()

    def part(self, name: SplitName) -> tuple[Example, ...]:
        """The examples of the split with this name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    def labels(self) -> set[str]:
        """Every label that some example has."""
        return {example.label for name in SPLIT_NAMES for example in self.part(name)}


def split_examples(
    examples: Iterable[Example],
    *,
    seed: int,
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
) -> Splits:
    """Cut the examples into three splits, each label in the same proportions.

    The same examples, seed and fractions give the same splits on every machine.

    Args:
        examples: At least three of each label.
        seed: Decides which example goes where, and the order inside a split.
        fractions: Shares of train, validation and test; they sum to 1.

    Raises:
        ConfigError: fractions that are not three positive numbers with sum 1.
        DataError: too few examples of some label to have one in each split.
    """
    train, validation, test = _stratify(examples, fractions, SPLIT_NAMES, seed)
    return Splits(train, validation, test)


def carve_validation(
    splits: Splits, *, seed: int, fractions: Sequence[float] = DEFAULT_FRACTIONS
) -> Splits:
    """Move part of train to validation, by label; test stays as it is.

    Args:
        splits: With an empty validation split.
        seed: Decides which examples move.
        fractions: As in ``split_examples``; the first two give the proportion.

    Raises:
        ConfigError: fractions that are not three positive numbers with sum 1.
        DataError: too few train examples of some label to have one in both.
    """
    _check_fractions(fractions, 3)
    kept = fractions[0] / (fractions[0] + fractions[1])
    train, validation = _stratify(splits.train, (kept, 1 - kept), SPLIT_NAMES[:2], seed)
    return Splits(train, validation, splits.test)


def drop_duplicates(splits: Splits) -> tuple[Splits, int]:
    """Keep one example for each text (case and white space ignored) and count the others.

    The copy in the most protected split stays (test, then validation, then
    train); inside a split the first one. A copy with another label is dropped
    and counted like any other.
    """
    seen: set[str] = set()
    kept: dict[str, tuple[Example, ...]] = {}
    for name in reversed(SPLIT_NAMES):
        first_copies = []
        for example in splits.part(name):
            text = fold(example.text)
            if text not in seen:
                seen.add(text)
                first_copies.append(example)
        kept[name] = tuple(first_copies)
    dropped = sum(len(splits.part(name)) - len(kept[name]) for name in SPLIT_NAMES)
    return Splits(**kept), dropped


def require_disjoint(splits: Splits) -> None:
    """Refuse splits that share a text (case and white space ignored).

    Raises:
        DataError: some text is in two splits.
    """
    home: dict[str, SplitName] = {}
    for name in SPLIT_NAMES:
        for example in splits.part(name):
            other = home.setdefault(fold(example.text), name)
            if other != name:
                raise DataError(
                    f"the splits are not disjoint: {quoted(example.text)} is in {other} and in "
                    f"{name}; remove one copy (drop_duplicates does it)"
                )


def _stratify(
    examples: Iterable[Example], fractions: Sequence[float], names: Sequence[str], seed: int
) -> list[tuple[Example, ...]]:
    _check_fractions(fractions, len(names))
    by_label: dict[str, list[Example]] = {}
    for example in examples:
        by_label.setdefault(example.label, []).append(example)
    _require_one_each(by_label, names)

    rng = random.Random(seed)
    parts: list[list[Example]] = [[] for _ in names]
    for group in by_label.values():
        rng.shuffle(group)
        start = 0
        sizes = _sizes(len(group), fractions, [len(part) for part in parts])
        for part, size in zip(parts, sizes, strict=True):
            part.extend(group[start : start + size])
            start += size
    for part in parts:
        rng.shuffle(part)  # else the labels would come one block after the other
    return [tuple(part) for part in parts]


def _sizes(total: int, fractions: Sequence[float], taken: Sequence[int]) -> list[int]:
    """Whole numbers that sum to the total, each at least 1, as near to the fractions as can be.

    Ties go to the part that is furthest behind over all labels: always to the
    same part, they would halve the test split of a task with five examples a label.
    """
    sizes = [1] * len(fractions)
    overall = total + sum(taken)

    def shortage(i: int) -> tuple[float, float]:
        own = fractions[i] * total - sizes[i]
        return round(own, 9), fractions[i] * overall - taken[i] - sizes[i]

    for _ in range(total - len(fractions)):
        sizes[max(range(len(fractions)), key=shortage)] += 1
    return sizes


def _check_fractions(fractions: Sequence[float], count: int) -> None:
    positive = all(fraction > 0 for fraction in fractions)
    if len(fractions) != count or not positive or not math.isclose(sum(fractions), 1):
        raise ConfigError(
            "fractions must be three positive shares (train, validation, test) that sum to 1, "
            f"found {tuple(fractions)}: give for example 0.4, 0.3, 0.3"
        )


def _require_one_each(by_label: dict[str, list[Example]], names: Sequence[str]) -> None:
    short = [(label, len(group)) for label, group in by_label.items() if len(group) < len(names)]
    if short:
        found = ", ".join(f"{quoted(label)} has {count}" for label, count in short[:10])
        raise DataError(
            f"each label needs at least {len(names)} examples, one for each of "
            f"{', '.join(names)}: {found}; add examples or leave these labels out"
        )
