from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stableprompt.errors import DataError
from stableprompt.tasks.answers import choices_of, references_of, right_choices

COLOURS = ["red", "green", "blue"]
HUB = {"text": ["red", "green"], "label": ["P", "Q"]}


@pytest.mark.parametrize(
    ("value", "references"),
    [
        ("Paris", ["Paris"]),
        (" Paris ", ["Paris"]),
        (["six", "6", "six "], ["six", "6"]),
        (("a", None, ""), ["a"]),
        (np.array(["a", "b"]), ["a", "b"]),
        ('["a", "b"]', ["a", "b"]),  # a cell of a CSV file
        ("[1, 2]", ["[1, 2]"]),  # the answer itself
        ("[a", ["[a"]),
        (6, ["6"]),
        (6.0, ["6"]),
        (0.5, ["0.5"]),
        (np.int64(6), ["6"]),
        (None, []),
        (float("nan"), []),
        ("", []),
        ([], []),
    ],
)
def test_references(value: Any, references: list[str]) -> None:
    assert references_of(value, "row 1") == references


def test_a_reference_of_another_kind() -> None:
    with pytest.raises(DataError, match=r"the answer in row 4 is \"\{'a': 1\}\" \(dict\)"):
        references_of({"a": 1}, "row 4")


@pytest.mark.parametrize(
    ("value", "choices"),
    [
        (COLOURS, COLOURS),
        (["red", " green ", "red"], ["red", "green"]),
        ("red|green | blue", COLOURS),
        ('["red", "green|blue"]', ["red", "green|blue"]),
        ("[1, 2, 3]", ["1", "2", "3"]),
        (HUB, ["red", "green"]),
        ([1, 2.0, 0.5], ["1", "2", "0.5"]),
        (np.array(["a", "b"]), ["a", "b"]),
    ],
)
def test_choices(value: Any, choices: list[str]) -> None:
    assert choices_of(value, "row 1") == choices


@pytest.mark.parametrize("value", ["red", [], ["a"], ["a", "a"], ["a", ""], ["a", None], None])
def test_too_few_choices(value: Any) -> None:
    with pytest.raises(DataError, match=r"the choices in row 7 are .*: write a list of 2 to 26"):
        choices_of(value, "row 7")


def test_more_choices_than_letters() -> None:
    assert len(choices_of([str(i) for i in range(26)], "row 1")) == 26
    with pytest.raises(DataError, match="2 to 26"):
        choices_of([str(i) for i in range(27)], "row 1")


@pytest.mark.parametrize(
    ("values", "cells", "right"),
    [
        (["green", "red"], [COLOURS] * 2, [["green"], ["red"]]),
        ([0, 2], [COLOURS] * 2, [["red"], ["blue"]]),
        (["0", "2"], [COLOURS] * 2, [["red"], ["blue"]]),  # a CSV file has no numbers
        ([np.int64(1)], [COLOURS], [["green"]]),
        (["B", "A"], [COLOURS] * 2, [["green"], ["red"]]),
        (["Q"], [HUB], [["green"]]),  # as the data set calls them
        ([[0, 2]], [COLOURS], [["red", "blue"]]),
        (["A"], [["B", "A"]], [["A"]]),  # texts go before letters
        (["1"], [["2", "1"]], [["1"]]),  # and before numbers
        ([1.5, 0.5], [[0.5, 1.5]] * 2, [["1.5"], ["0.5"]]),
        ([True], [["True", "False"]], [["True"]]),
        # The first row could be a text, but the second can not: the column holds numbers.
        ([2, 0], [["2500", "2", "50"], COLOURS], [["50"], ["red"]]),
        (["C", "A"], [["C", "x", "y"], COLOURS], [["y"], ["red"]]),
        ([2], [["red", "red", "blue"]], [["blue"]]),  # counted as the data count
        (["C"], [["red", "red", "blue"]], [["blue"]]),
        ([None, "", [], "red"], [COLOURS] * 4, [[], [], [], ["red"]]),
    ],
)
def test_right_choices(values: Any, cells: Any, right: list[list[str]]) -> None:
    assert right_choices(values, cells) == right


@pytest.mark.parametrize("value", [3, -1, "D", "9" * 5000, "purple", True, 1.5, ["red", "D"]])
def test_no_such_choice(value: Any) -> None:
    with pytest.raises(DataError, match=r"the label in row 2 is .*: write the text of one of them"):
        right_choices(["red", value], [COLOURS, COLOURS])


def test_a_column_that_names_choices_in_different_ways() -> None:
    with pytest.raises(DataError, match="names choices in different ways"):
        right_choices(["red", 2], [COLOURS, COLOURS])


def test_numbers_that_could_be_texts_or_places() -> None:
    with pytest.raises(DataError, match="numbers that could be texts of choices or places"):
        right_choices([2, 1], [[1, 2, 3, 4]] * 2)
    assert right_choices(["2", "1"], [[1, 2, 3, 4]] * 2) == [["2"], ["1"]]


def test_a_row_where_every_choice_is_right() -> None:
    with pytest.raises(DataError, match="in row 2 every choice is right: 'red', 'green', 'blue'"):
        right_choices([[0], [0, 1, 2]], [COLOURS, COLOURS])


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(ANYTHING, ANYTHING)
def test_any_cells_give_answers_or_a_clear_error(value: Any, cell: Any) -> None:
    for read in (
        lambda: references_of(value, "row 1"),
        lambda: choices_of(cell, "row 1"),
        lambda: right_choices([value], [cell])[0],
    ):
        try:
            found = read()
        except DataError as error:
            assert str(error)
            continue
        assert all(isinstance(text, str) and text == text.strip() for text in found)
        assert len(set(found)) == len(found)
