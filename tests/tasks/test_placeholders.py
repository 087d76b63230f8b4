import pytest
from hypothesis import given
from hypothesis import strategies as st

from stableprompt.tasks.placeholders import fill, placeholders


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Sort {text}.", {"text"}),
        ("{premise} / {hypothesis} / {premise}", {"premise", "hypothesis"}),
        ("{{ text }} and {{name}}", {"text", "name"}),
        ("{my text} {a.b} {a-b} {é}", {"my text", "a.b", "a-b", "é"}),
        ('{} {0} {1a} {"json": 1} { a} {a\nb} {a:b}', set()),
        ("{a{b}", {"b"}),
    ],
)
def test_names(text: str, names: set[str]) -> None:
    assert placeholders(text) == names


def test_filling_is_one_pass() -> None:
    values = {"a": "{b}", "b": "{{ a }}"}
    assert fill("{a}, {{b}}, {c}, {{ c }}", values) == "{b}, {{ a }}, {c}, {{ c }}"


def test_backslashes_are_put_in_as_they_are() -> None:
    assert fill("{a}", {"a": r"\1 \g<0> \n"}) == r"\1 \g<0> \n"


@given(st.text("{}ab \n"), st.dictionaries(st.sampled_from("ab"), st.text("{}ab \n")))
def test_what_is_not_known_stays_and_nothing_ever_fails(text: str, values: dict[str, str]) -> None:
    filled = fill(text, values)
    if not placeholders(text) & values.keys():
        assert filled == text
