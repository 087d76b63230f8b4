"""An input as a user gives it is laid out as the examples were."""

from typing import Any

import pytest

from stableprompt.errors import ConfigError, DataError
from stableprompt.tasks.formats import InputFormat
from stableprompt.tasks.inputs import example_of

ONE = InputFormat("Ticket: {message}")
PAIR = InputFormat("Premise: {premise}\nHypothesis: {hypothesis}")
QUIZ = InputFormat("{question}\n{choices}")
BY_TEXT = InputFormat("{question}\n{choices}", "text")


def test_a_text_is_the_one_field() -> None:
    found = example_of(" I cannot log in \n", ONE)
    assert found.text == "Ticket: I cannot log in"
    assert found.fields == {"message": "I cannot log in"}
    assert found == example_of({"message": "I cannot log in", "id": 7}, ONE)


def test_a_text_for_several_fields_is_the_whole_input() -> None:
    whole = "Premise: it rains\nHypothesis: it is wet"
    assert example_of(whole, PAIR).text == whole
    given = example_of({"premise": "it rains", "hypothesis": "it is wet"}, PAIR)
    assert given.text == whole
    with pytest.raises(ConfigError, match="no field 'hypothesis'"):
        example_of(whole, PAIR, prompt="Does {premise} mean {hypothesis}?")


@pytest.mark.parametrize(
    "choices", [["a candle", "a stone"], "a candle | a stone", '["a candle", "a stone"]']
)
def test_choices_are_read_as_in_a_table(choices: object) -> None:
    found = example_of({"question": "What melts?", "choices": choices}, QUIZ)
    assert found.text == "What melts?\nA. a candle\nB. a stone"
    assert found.choices == ("A", "B")
    other = example_of({"question": "What melts?", "choices": choices}, BY_TEXT)
    assert other.choices == ("a candle", "a stone")


def test_choices_that_are_laid_out_already_stay() -> None:
    listed = "A. a candle\nB. a stone"
    assert example_of({"question": "What?", "choices": listed}, QUIZ).text == f"What?\n{listed}"


@pytest.mark.parametrize(
    ("given", "layout", "error", "message"),
    [
        ({"premise": "a"}, PAIR, ConfigError, "no field 'hypothesis'"),
        (
            {"premise": "a", "hypothesis": 7},
            PAIR,
            ConfigError,
            "the field 'hypothesis' is 7; give a text",
        ),
        ({"question": "q", "choices": 5}, QUIZ, DataError, "the choices in the input"),
        ({"question": "q", "choices": [str(n) for n in range(30)]}, QUIZ, DataError, "2 to 26"),
        ({"question": "q", "choices": ["one"]}, QUIZ, DataError, "2 to 26"),
    ],
)
def test_what_is_missing_or_no_text_is_told(
    given: Any, layout: InputFormat, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        example_of(given, layout)
