import os
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stableprompt.errors import ConfigError, DataError
from stableprompt.tasks.example import Example
from stableprompt.tasks.folding import fold
from stableprompt.tasks.splits import (
    Splits,
    carve_validation,
    drop_duplicates,
    require_disjoint,
    split_examples,
)


def examples_of(**counts: int) -> list[Example]:
    return [Example(f"{label} {i}", label) for label, n in counts.items() for i in range(n)]


def label_counts(splits: Splits, label: str) -> list[int]:
    parts = (splits.train, splits.validation, splits.test)
    return [sum(example.label == label for example in part) for part in parts]


def test_each_label_is_cut_in_the_given_proportions() -> None:
    splits = split_examples(examples_of(a=10, b=20), seed=0)
    assert label_counts(splits, "a") == [4, 3, 3]
    assert label_counts(splits, "b") == [8, 6, 6]


@pytest.mark.parametrize("test_fraction", [0.3, 1 - 0.3 - 0.4])  # 0.29999999999999993
def test_ties_over_many_small_labels_do_not_starve_a_split(test_fraction: float) -> None:
    # Five a label: shares 2, 1.5, 1.5. The odd one goes to validation and test in turn.
    examples = examples_of(a=5, b=5, c=5, d=5)
    splits = split_examples(examples, seed=0, fractions=(0.4, 0.3, test_fraction))
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [8, 6, 6]


def test_labels_are_mixed_inside_a_split() -> None:
    train = split_examples(examples_of(a=50, b=50), seed=0).train
    assert [example.label for example in train] != ["a"] * 20 + ["b"] * 20


def test_another_seed_gives_other_splits() -> None:
    examples = examples_of(a=20, b=20)
    assert split_examples(examples, seed=1) == split_examples(examples, seed=1)
    assert split_examples(examples, seed=1) != split_examples(examples, seed=2)


def test_splits_do_not_depend_on_the_hash_seed_of_the_process() -> None:
    code = (
        "from stableprompt.tasks.example import Example\n"
        "from stableprompt.tasks.splits import split_examples\n"
        "print(split_examples([Example(f'{l}{i}', l) for l in 'abc' for i in range(9)], seed=3))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(3, 40), min_size=1, max_size=6),
    seed=st.integers(0, 2**32),
    weights=st.tuples(*[st.integers(1, 100)] * 3),
)
def test_splits_are_disjoint_complete_and_have_every_label(
    counts: list[int], seed: int, weights: tuple[int, int, int]
) -> None:
    examples = examples_of(**{f"label{i}": count for i, count in enumerate(counts)})
    fractions = tuple(weight / sum(weights) for weight in weights)
    splits = split_examples(examples, seed=seed, fractions=fractions)
    everything = [*splits.train, *splits.validation, *splits.test]
    assert sorted(map(repr, everything)) == sorted(map(repr, examples))
    require_disjoint(splits)
    for part in (splits.train, splits.validation, splits.test):
        assert {example.label for example in part} == {example.label for example in examples}


def test_too_few_examples_of_a_label() -> None:
    with pytest.raises(DataError, match=r"at least 3 examples.*train, validation, test: 'b' has 2"):
        split_examples(examples_of(a=9, b=2), seed=0)


@pytest.mark.parametrize(
    "fractions", [(0.5, 0.5, 0.5), (0.5, 0.5), (1.0, 0.0, 0.0), (1.5, -1.0, 0.5)]
)
def test_fractions_that_are_no_shares(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="three positive shares"):
        split_examples(examples_of(a=9, b=9), seed=0, fractions=fractions)
    with pytest.raises(ConfigError, match="three positive shares"):
        carve_validation(Splits(train=(Example("t", "a"),)), seed=0, fractions=fractions)


def test_validation_is_carved_from_train_and_test_is_untouched() -> None:
    test = tuple(examples_of(a=2, b=2))
    train = tuple(Example(f"train {example.text}", example.label) for example in examples_of(a=7))
    splits = carve_validation(Splits(train=train, test=test), seed=0)
    assert (len(splits.train), len(splits.validation)) == (4, 3)  # 0.4 : 0.3
    assert splits.test == test
    require_disjoint(splits)


def test_too_few_train_examples_to_carve_from() -> None:
    with pytest.raises(DataError, match=r"at least 2 examples.*train, validation: 'a' has 1"):
        carve_validation(Splits(train=(Example("t", "a"),)), seed=0)


def test_the_most_protected_copy_of_a_duplicate_stays() -> None:
    splits = Splits(
        train=(Example("One  two", "a"), Example("three", "a"), Example("THREE ", "a")),
        validation=(Example("one\ntwo", "a"), Example("four", "a")),
        test=(Example("ONE two", "a"), Example("four", "b")),
    )
    kept, dropped = drop_duplicates(splits)
    assert kept == Splits(
        train=(Example("three", "a"),),
        validation=(),
        test=(Example("ONE two", "a"), Example("four", "b")),
    )
    assert dropped == 4


def test_the_first_of_two_labels_for_one_text_stays_and_the_other_is_counted() -> None:
    kept, dropped = drop_duplicates(Splits(train=(Example("same", "a"), Example("Same", "b"))))
    assert kept.train == (Example("same", "a"),)
    assert dropped == 1


@settings(deadline=None)
@given(
    st.tuples(
        *[st.lists(st.builds(Example, st.text("aA \n", max_size=4), st.sampled_from("xy")))] * 3
    )
)
def test_after_dropping_each_text_is_there_once(parts: tuple[list[Example], ...]) -> None:
    given_splits = Splits(*(tuple(part) for part in parts))
    kept, dropped = drop_duplicates(given_splits)
    texts = [fold(example.text) for part in parts for example in part]
    left = [fold(e.text) for e in (*kept.train, *kept.validation, *kept.test)]
    assert Counter(left) == Counter(set(texts))
    assert dropped == len(texts) - len(left)
    require_disjoint(kept)


def test_a_text_in_two_splits_is_refused() -> None:
    splits = Splits(train=(Example("Same text", "a"),), test=(Example("same  TEXT", "b"),))
    with pytest.raises(DataError, match=r"not disjoint: 'same  TEXT' is in train and in test"):
        require_disjoint(splits)
