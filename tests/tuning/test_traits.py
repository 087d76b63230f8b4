"""Traits: what texts that look alike have in common, on any text, on any machine."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stableprompt.tuning.traits import Floats, traits_of

SHAPES = 8  # the first columns


def likeness(one: str, other: str, *others: str) -> float:
    """The product of the traits of the first two."""
    traits = traits_of([one, other, *others])
    return float(traits[0] @ traits[1])


OTHERS = ("Sort the mail by team.", "What is this about?", "Answer with one word: who wrote it?")


def test_a_text_is_most_like_itself() -> None:
    traits = traits_of(OTHERS)
    products = traits @ traits.T
    assert (products.argmax(axis=1) == np.arange(len(OTHERS))).all()


@pytest.mark.parametrize(
    ("near", "far"),
    [
        ("Name the topic of the story.", "Which word rhymes with it?"),  # words
        ("NAME THE SUBJECT OF THE NEWS!", "Which word rhymes with it?"),  # whatever the case
        ("Look at the film.", "Look at it, think, and then say whether you like the film a lot."),
    ],
)
def test_who_shares_words_or_shape_is_alike(near: str, far: str) -> None:
    text = "Name the subject of the news."
    assert likeness(text, near, far, *OTHERS) > likeness(text, far, near, *OTHERS)


def test_how_a_prompt_ends_is_one_of_its_words() -> None:
    # The same words in another order: what differs is the first and the end.
    words = traits_of(["use one word please", "please use one word"])[:, SHAPES:]
    assert not np.allclose(words[0], words[1])


def test_both_halves_weigh_the_same() -> None:
    traits = traits_of(OTHERS)
    for half in (traits[:, :SHAPES], traits[:, SHAPES:]):
        assert (half**2).sum(axis=1).mean() == pytest.approx(1)
    assert traits[:, :SHAPES].mean(axis=0) == pytest.approx(0, abs=1e-12)


def test_the_numbers_are_the_same_on_every_machine() -> None:
    # CRC-32 of "a" is 0xe8b7be43, of "^a" 0x5f5433eb, of "$a" 0x8a84a297: the last bit is the sign,
    # + in all three, and the six above it are the place.
    [row] = traits_of(["a"])[:, SHAPES:]
    found = {place: round(float(number * 3**0.5), 6) for place, number in enumerate(row) if number}
    assert found == {33: 1.0, 53: 1.0, 11: 1.0}


def test_one_text_has_no_shape_beside_itself() -> None:
    traits = traits_of(["Sort it.", "Sort it."])
    assert not traits[:, :SHAPES].any()
    assert np.isfinite(traits).all()


@given(st.lists(st.text(), min_size=1, max_size=6))
def test_any_text_has_traits(texts: list[str]) -> None:
    traits: Floats = traits_of(texts)
    assert traits.shape == (len(texts), SHAPES + 64)
    assert np.isfinite(traits).all()
    assert np.array_equal(traits, traits_of(texts))


def test_the_order_of_the_texts_changes_nothing() -> None:
    assert traits_of(OTHERS[::-1])[::-1] == pytest.approx(traits_of(OTHERS))


def test_no_prompt_is_further_from_the_others_than_three_deviations() -> None:
    # Of 101 prompts the odd one lies 10 standard deviations from their mean, in words and length.
    texts = [f"Sort the mail by team {n % 10}." for n in range(100)]
    traits = traits_of([*texts, "word " * 4000])[:, :SHAPES]
    number_of_words = traits[:, 1]
    assert number_of_words[-1] / -number_of_words[0] == pytest.approx(3 / 0.1, rel=1e-3)


def words_of(*texts: str) -> Floats:
    """The second half, whose scale is the same where texts have as many words."""
    return traits_of(texts)[:, SHAPES:]


def test_capitals_make_no_other_word() -> None:
    one, other = words_of("Name THE Topic", "name the topic")
    assert np.array_equal(one, other)


def test_words_have_signs_so_that_chance_meetings_cancel_out() -> None:
    row = words_of("read the note and tell the team about each of the other things in it")[0]
    assert row.min() < 0 < row.max()


def test_of_scripts_without_spaces_each_character_is_a_word() -> None:
    apart, together = words_of("請 用 一 個 詞", "請用一個詞")
    assert np.array_equal(apart, together)
    apart, together = words_of("t h e", "the")
    assert not np.array_equal(apart, together)
