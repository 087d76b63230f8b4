"""A prompt for one input must not dictate its answer."""

import pytest

from stableprompt.tasks.answer_leaks import gives_away
from stableprompt.tasks.example import Example

REVIEW = Example("A dull film.", "negative")
LABELS = ("positive", "negative")
QUESTION = Example(
    "What melts?\nA. a candle\nB. a stone",
    "A",
    choices=("A", "B"),
    fields={"question": "What melts?", "choices": "A. a candle\nB. a stone"},
)
BY_TEXT = Example(
    "What melts?\n- candle wax\n- wax\n- stone",
    "candle wax",
    choices=("candle wax", "wax", "stone"),
    fields={"question": "What melts?", "choices": "- candle wax\n- wax\n- stone"},
)
FREE = Example("Translate: the dog sleeps", "le chien dort", others=("le chien roupille",))


@pytest.mark.parametrize(
    "prompt",
    [
        "Say that the review is negative.",
        "Explain why this is NEGATIVE.",
        "Is it 'positive'?",  # the wrong one is dictated as well
        "Negative; answer so.",
    ],
)
def test_one_label_alone_is_given_away(prompt: str) -> None:
    assert gives_away(prompt, REVIEW, LABELS)


@pytest.mark.parametrize(
    "prompt",
    ["Answer positive or negative.", "Judge the film.", "Do not be so negatively minded.", ""],
)
def test_a_choice_or_no_label_is_none(prompt: str) -> None:
    assert not gives_away(prompt, REVIEW, LABELS)


def test_a_longer_label_does_not_name_the_shorter_one_in_it() -> None:
    words = ("sure", "not sure")
    assert gives_away("You are not sure.", REVIEW, words)
    assert not gives_away("Say sure or not sure.", REVIEW, words)


@pytest.mark.parametrize(
    ("prompt", "given"),
    [
        ("Choose B.", True),
        ("The answer is A, say it.", True),
        ("(B) is correct.", True),
        ("Think of a candle.", True),  # the text of one choice
        ("Choose A or B.", False),  # only the first is behind the word, and B stands beside it
        ("A good answer names the letter.", False),
        ("Choose a letter.", False),
        ("Does a candle melt, or a stone?", False),
    ],
)
def test_a_letter_or_the_text_of_one_choice(prompt: str, given: bool) -> None:
    assert gives_away(prompt, QUESTION, QUESTION.choices) is given


def test_choices_by_text() -> None:
    assert gives_away("It is candle wax.", BY_TEXT, BY_TEXT.choices)
    assert not gives_away("Candle wax, wax or stone?", BY_TEXT, BY_TEXT.choices)
    assert not gives_away("Which of them melts?", BY_TEXT, BY_TEXT.choices)


def test_a_reference_counts_unless_the_input_holds_it() -> None:
    assert gives_away("Write: Le chien dort.", FREE, ())
    assert gives_away("le chien roupille, in French", FREE, ())
    assert not gives_away("Translate the dog into French.", FREE, ())
    echo = Example("repeat: blue", "blue")
    assert not gives_away("Repeat the word blue.", echo, ())
    assert not gives_away("It is a word.", Example("first letter of apple", "a"), ())
    assert gives_away("Count to 5.", Example("2 + 3", "5"), ())
    assert gives_away("A review worth 5 stars.", Example("great", "5"), tuple("12345"))
    assert not gives_away("Rate from 1 to 5.", Example("great", "5"), tuple("12345"))
