"""Word by word: both texts come back whole, and marks say what changed."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stableprompt.reporting import differences
from stableprompt.reporting.differences import MOST_WORDS, Part, difference


@given(st.text(max_size=60), st.text(max_size=60))
def test_both_texts_come_back_whole(old: str, new: str) -> None:
    found = difference(old, new)
    assert "".join(part.text for part in found.old) == old
    assert "".join(part.text for part in found.new) == new


def test_a_change_is_marked_without_holes() -> None:
    found = difference("Sort the news article by topic.", "Sort this story by topic.")
    assert found.compared
    assert [p.text for p in found.old if p.change == "gone"] == ["the news article"]
    assert [p.text for p in found.new if p.change == "new"] == ["this story"]


def test_equal_texts_have_no_marks() -> None:
    assert difference("Same.", "Same.").new == [Part("same", "Same.")]


@pytest.mark.parametrize("new", ["Quite another sentence altogether", "a " * (MOST_WORDS + 1)])
def test_texts_with_little_in_common_are_not_marked(new: str) -> None:
    found = difference("Which team answers?", new)
    assert not found.compared
    assert found.new == [Part("same", new)]


def test_the_example_in_the_docstring_holds() -> None:
    assert doctest.testmod(differences).failed == 0
    assert doctest.testmod(differences).attempted > 0
