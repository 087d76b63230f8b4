"""The three splits: cut in proportion, free of duplicates, and provably disjoint.

Train examples give the reward, validation examples the choices, test examples
the one final figure. A text in two splits would make that figure a lie, so
duplicates are dropped (the most protected copy stays) and ``require_disjoint``
is asserted whenever a task is made.
"""

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from stableprompt.errors import ConfigError, DataError
from stableprompt.tasks.example import Example
from stableprompt.tasks.folding import fold
from stableprompt.tasks.formats import CHOICES
from stableprompt.tasks.wording import quoted

SplitName = Literal["train", "validation", "test"]
SPLIT_NAMES: Final[tuple[SplitName, ...]] = ("train", "validation", "test")
DEFAULT_FRACTIONS: Final = (0.4, 0.3, 0.3)

Stratum = Callable[[Example], str]
"""The group that an example is in; every group is cut in the same proportions."""


def _label(example: Example) -> str:
    return example.label


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
    stratum: Stratum = _label,
) -> Splits:
    """Cut the examples into three splits, each stratum in the same proportions.

    The same examples, seed and fractions give the same splits on every machine.

    Args:
        examples: At least three of each stratum.
        seed: Decides which example goes where, and the order inside a split.
        fractions: Shares of train, validation and test; they sum to 1.
        stratum: What is cut in proportion: the label, by default.

    Raises:
        ConfigError: fractions that are not three positive numbers with sum 1.
        DataError: too few examples of some stratum to have one in each split.
    """
    train, validation, test = _stratify(examples, fractions, SPLIT_NAMES, seed, stratum)
    return Splits(train, validation, test)


def carve_validation(
    splits: Splits,
    *,
    seed: int,
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
    stratum: Stratum = _label,
) -> Splits:
    """Move part of train to validation, by stratum; test stays as it is.

    Args:
        splits: With an empty validation split.
        seed: Decides which examples move.
        fractions: As in ``split_examples``; the first two give the proportion.
        stratum: As in ``split_examples``.

    Raises:
        ConfigError: fractions that are not three positive numbers with sum 1.
        DataError: too few train examples of some stratum to have one in both.
    """
    _check_fractions(fractions, 3)
    kept = fractions[0] / (fractions[0] + fractions[1])
    train, validation = _stratify(splits.train, (kept, 1 - kept), SPLIT_NAMES[:2], seed, stratum)
    return Splits(train, validation, splits.test)


def limit_splits(
    splits: Splits, limit: Mapping[SplitName, int], *, seed: int, stratum: Stratum = _label
) -> Splits:
    """At most so many examples of each split, drawn with every stratum in proportion.

    Args:
        splits: Any.
        limit: Split -> number of examples to keep; a split that is not named stays whole.
        seed: Decides which examples are kept.
        stratum: As in ``split_examples``.

    Raises:
        ConfigError: a number below 1, or no split of this name.
    """
    wrong = [f"{name}={count}" for name, count in limit.items() if count < 1]
    wrong += [str(name) for name in limit if name not in SPLIT_NAMES]
    if wrong:
        raise ConfigError(
            f"limit must give train, validation or test a number of examples, found {wrong[0]!r}: "
            "write for example test=200"
        )
    return Splits(
        *(_thin(splits.part(name), limit.get(name), seed, stratum) for name in SPLIT_NAMES)
    )


def draw_evenly(
    examples: Sequence[Example], size: int, rng: random.Random, stratum: Stratum = _label
) -> list[int]:
    """Which examples to take: each as likely as any other, each stratum in proportion.

    They are laid in a line, stratum by stratum, and every (N / size)-th is taken, from a random
    start on (Cochran 1977, chapter 8). So of a stratum of m examples floor(size m / N) are taken or
    one more. Where all strata differ, any examples may come.

    Args:
        examples: N of them.
        size: How many, at most N.
        rng: Decides.
        stratum: As in ``split_examples``.

    Returns:
        Their places, in random order.
    """
    strata: dict[str, list[int]] = {}
    for place in rng.sample(range(len(examples)), len(examples)):
        strata.setdefault(stratum(examples[place]), []).append(place)
    line = [place for members in strata.values() for place in members]
    start = rng.randrange(max(1, len(line)))
    taken = [line[(number * len(line) + start) // size] for number in range(size)]
    rng.shuffle(taken)
    return taken


def identity(example: Example) -> str:
    """What makes an example the same as another: its text, but for case and white space.

    Choices in another order are the same choices.
    """
    if not example.choices or CHOICES not in example.fields:
        return fold(example.text)
    parts = [value for name, value in example.fields.items() if name != CHOICES]
    texts = sorted(line.partition(" ")[2] for line in example.fields[CHOICES].splitlines())
    return fold("\n".join((*parts, *texts)))


def merge_answers(splits: Splits) -> Splits:
    """Give every copy of an input the answers of all: one row may hold one reference."""
    answers: dict[str, list[str]] = {}
    for name in SPLIT_NAMES:
        for example in splits.part(name):
            answers.setdefault(identity(example), []).extend(example.answers)

    def merged(example: Example) -> Example:
        others = dict.fromkeys(a for a in answers[identity(example)] if a != example.label)
        return replace(example, others=tuple(others))

    return Splits(*(tuple(map(merged, splits.part(name))) for name in SPLIT_NAMES))


def num_contradictions(splits: Splits) -> int:
    """How many different texts have copies with different labels."""
    labels: dict[str, set[str]] = {}
    for name in SPLIT_NAMES:
        for example in splits.part(name):
            labels.setdefault(identity(example), set()).add(example.label)
    return sum(len(own) > 1 for own in labels.values())


def drop_duplicates(splits: Splits) -> tuple[Splits, int]:
    """Keep one example for each text (case and white space ignored) and count the others.

    The copy in the most protected split stays (test, then validation, then
    train); inside a split the first one. A copy with another label is dropped
    and counted like any other.
    """
    seen: set[str] = set()  # identities
    kept: dict[str, tuple[Example, ...]] = {}
    for name in reversed(SPLIT_NAMES):
        first_copies = []
        for example in splits.part(name):
            own = identity(example)
            if own not in seen:
                seen.add(own)
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
            other = home.setdefault(identity(example), name)
            if other != name:
                raise DataError(
                    f"the splits are not disjoint: {quoted(example.text)} is in {other} and in "
                    f"{name}; remove one copy (drop_duplicates does it)"
                )


def _thin(
    examples: tuple[Example, ...], count: int | None, seed: int, stratum: Stratum
) -> tuple[Example, ...]:
    if count is None or count >= len(examples):
        return examples
    kept = sorted(draw_evenly(examples, count, random.Random(seed), stratum))
    return tuple(examples[place] for place in kept)


def _stratify(
    examples: Iterable[Example],
    fractions: Sequence[float],
    names: Sequence[str],
    seed: int,
    stratum: Stratum,
) -> list[tuple[Example, ...]]:
    _check_fractions(fractions, len(names))
    strata: dict[str, list[Example]] = {}
    for example in examples:
        strata.setdefault(stratum(example), []).append(example)
    _require_one_each(strata, names)

    rng = random.Random(seed)
    parts: list[list[Example]] = [[] for _ in names]
    for group in strata.values():
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


def _require_one_each(strata: dict[str, list[Example]], names: Sequence[str]) -> None:
    short = [(label, len(group)) for label, group in strata.items() if len(group) < len(names)]
    if short == [("", len(strata.get("", ())))]:  # one stratum for all, see loading
        raise DataError(
            f"at least {len(names)} different examples are needed, one for each of "
            f"{', '.join(names)}: found {short[0][1]}; add examples"
        )
    if short:
        found = ", ".join(f"{quoted(label)} has {count}" for label, count in short[:10])
        raise DataError(
            f"each label needs at least {len(names)} examples, one for each of "
            f"{', '.join(names)}: {found}; add examples or leave these labels out"
        )
