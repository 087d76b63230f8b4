"""Probabilities of words from what a server shows, worked by hand."""

import math

import pytest

from stableprompt.models.targets.remote_labels import (
    can_be_told_apart,
    sequence_probs,
    tree_of,
    word_probs,
)


def top(**chances: float) -> list[tuple[str, float]]:
    return [(token.replace("_", " "), math.log(p)) for token, p in chances.items()]


def test_tokens_count_for_the_word_that_they_begin() -> None:
    found = word_probs(top(positive=0.4, _Pos=0.1, neg=0.2, other=0.3), ["positive", "negative"])
    assert found == pytest.approx([0.5 / 0.7, 0.2 / 0.7])


def test_a_word_that_is_not_shown_has_no_chance() -> None:
    assert word_probs(top(yes=0.5, the=0.5), ["yes", "no"]) == [1.0, 0.0]


def test_nothing_shown_is_all_zero_and_white_space_begins_nothing() -> None:
    assert word_probs(top(the=0.5, _=0.5), ["yes", "no"]) == [0.0, 0.0]


def test_a_token_that_begins_several_decides_nothing() -> None:
    words = ["tech", "technical"]
    assert word_probs(top(tech=0.9, technic=0.1), words) is None
    assert word_probs(top(tech=0.01, technic=0.9), words) == [0.0, 1.0]  # a twentieth at most


def test_what_to_ask_for_is_a_tree() -> None:
    assert tree_of([(1,), (2, 3), (2, 4, 5)]) == {(): [1, 2], (2,): [3, 4], (2, 4): [5]}


def test_beginnings_of_others_cannot_be_told_apart() -> None:
    assert can_be_told_apart([(1,), (2, 3), (2, 4)])
    assert not can_be_told_apart([(2,), (1,), (2, 3)])
    assert not can_be_told_apart([(1,), ()])
    assert not can_be_told_apart([(1, 2), (1, 2)])


def test_whole_words_are_products_and_sum_to_one() -> None:
    logprobs = {
        (): {1: math.log(0.2), 2: math.log(0.6)},
        (2,): {3: math.log(0.5), 4: math.log(0.1)},
    }
    found = sequence_probs([(1,), (2, 3), (2, 4)], logprobs)
    assert found == pytest.approx([0.2 / 0.56, 0.3 / 0.56, 0.06 / 0.56])


def test_very_unlikely_words_are_still_compared() -> None:
    found = sequence_probs([(1,), (2,)], {(): {1: -2000.0, 2: -2001.0}})
    assert found == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.e)])
