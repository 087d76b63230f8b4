import pytest

from stableprompt.errors import ConfigError, DataError
from stableprompt.tasks.verbalizer import Verbalizer


def test_labels_and_words_keep_the_order_of_the_mapping() -> None:
    verbalizer = Verbalizer({"1": " great ", "0": "bad"})
    assert verbalizer.labels == ("1", "0")
    assert verbalizer.label_words == ("great", "bad")
    assert [verbalizer.index(label) for label in ("1", "0")] == [0, 1]


def test_order_is_part_of_equality_because_it_decides_the_index() -> None:
    one, other = Verbalizer.identity(["a", "b"]), Verbalizer.identity(["b", "a"])
    assert one != other
    assert one == Verbalizer({"a": "a", "b": "b"})
    assert hash(one) == hash(Verbalizer({"a": "a", "b": "b"}))


def test_later_changes_of_the_given_mapping_do_not_reach_it() -> None:
    words = {"a": "x", "b": "y"}
    verbalizer = Verbalizer(words)
    words["a"] = "z"
    assert verbalizer.words["a"] == "x"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "at least two labels, found 0"),
        ({"a": "a"}, "at least two labels, found 1"),
        ({"a": "x", "b": "  "}, "label word of 'b' is empty"),
        ({"a": "Yes", "b": " yES "}, "'a' and 'b' share the label word 'yES'"),
    ],
)
def test_unusable_words_are_refused(words: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Verbalizer(words)


def test_unknown_label_names_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"unknown label 'c'.*'a', 'b'"):
        Verbalizer.identity(["a", "b"]).index("c")
