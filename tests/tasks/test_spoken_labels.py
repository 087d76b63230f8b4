"""Which label a written answer names."""

import pytest

from stableprompt.tasks.spoken_labels import spoken_label, without_thinking

MOOD = ["positive", "negative"]
LETTERS = ["A", "B", "C"]


@pytest.mark.parametrize(
    ("answer", "words", "named"),
    [
        ("positive", MOOD, "positive"),
        ("Positive.", MOOD, "positive"),
        ('**"Negative"**', MOOD, "negative"),
        ("\u201cnegative\u201d", MOOD, "negative"),
        ("Negative, because it bores.", MOOD, "negative"),
        ("The answer is: negative", MOOD, "negative"),
        ("Label: positive", MOOD, "positive"),
        ("I would call this review positive.", MOOD, "positive"),
        ("B", LETTERS, "B"),
        ("b)", LETTERS, "B"),
        ("(B) the moon", LETTERS, "B"),
        ("The correct option is C.", LETTERS, "C"),
        ("It must be (A), I think", LETTERS, "A"),
        ("on hold", ["on", "on hold"], "on hold"),
        ("it is on hold now", ["on", "on hold"], "on hold"),
        ("it is on now", ["on", "on hold"], "on"),
        ("Sci/Tech", ["World", "Sci/Tech"], "Sci/Tech"),
        ("not entailment", ["entailment", "not entailment"], "not entailment"),
        ("US", ["US", "us"], "US"),
        ("us", ["US", "us"], "us"),
        ("(c++)", ["c", "c++"], "c++"),
    ],
)
def test_an_answer_names_a_word(answer: str, words: list[str], named: str) -> None:
    found = spoken_label(answer, words)
    assert found is not None
    assert words[found] == named


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("", MOOD),
        ("   \n", MOOD),
        ("neutral", MOOD),
        ("It is partly positive, partly negative", MOOD),
        ("positive or negative", MOOD),
        ("positive/negative", MOOD),
        ("This is not positive.", MOOD),
        ("It isn't positive", MOOD),
        ("positively", MOOD),
        ("A dog ate it", LETTERS),
        ("I saw a dog", ["a", "b"]),
        ("Us", ["US", "us"]),
    ],
)
def test_an_answer_names_none_or_leaves_it_open(answer: str, words: list[str]) -> None:
    assert spoken_label(answer, words) is None


@pytest.mark.parametrize(
    ("written", "left"),
    [
        ("yes", "yes"),
        ("<think>no? yes!</think> no", " no"),
        ("it began earlier</think>no", "no"),
        ("<think>cut before its end", ""),
        ("<Thinking>a</Thinking>b", "b"),
    ],
)
def test_thinking_is_left_out(written: str, left: str) -> None:
    assert without_thinking(written) == left
