"""Readability: the scale of surprise worked by hand, and what is taken for an instruction."""

import math

import numpy as np
import pytest

from stableprompt.tasks.readability import ODDEST, SurpriseScale, is_instruction, plain_instructions

# --- how odd a text is ---


def test_points_on_a_line_give_the_line_and_no_spread() -> None:
    lengths = [1, 4, 9, 25]
    scale = SurpriseScale.fit([7 + 3 * n for n in lengths], lengths)
    assert (scale.opening, scale.rate) == (pytest.approx(7), pytest.approx(3))
    assert scale.spread == pytest.approx(0, abs=1e-12)


def test_a_scale_worked_by_hand() -> None:
    # Two texts of 4 and two of 16 tokens, each pair half above and half below 10 + 2 T by 0.5 and
    # 1.5 times the root of T: so the line is their weighted least squares, the residuals over the
    # root are +-0.5 and +-1.5, and the spread is sqrt((2 * 0.25 + 2 * 2.25) / (4 - 2)) = sqrt(2.5).
    nats = [18 + 0.5 * 2, 18 - 0.5 * 2, 42 + 1.5 * 4, 42 - 1.5 * 4]
    scale = SurpriseScale.fit(nats, [4, 4, 16, 16])
    assert (scale.opening, scale.rate) == (pytest.approx(10), pytest.approx(2))
    assert scale.spread == pytest.approx(math.sqrt(2.5))
    # 9 tokens are expected to cost 28; 31 are 3 more, 3 / 3 = 1 above, 1 / sqrt(2.5) = 0.632.
    assert scale.surprise(31, 9) == pytest.approx(0.632456, abs=1e-6)
    assert scale.surprise(28, 9) == pytest.approx(0, abs=1e-9)
    assert scale.surprise(25, 9) == pytest.approx(-0.632456, abs=1e-6)


def test_a_long_text_weighs_less_than_a_short_one() -> None:
    # Of two lengths the line goes through both means, 2 at 1 token and 4 at 4.
    scale = SurpriseScale.fit([1, 3, 0, 8], [1, 1, 4, 4])
    assert (scale.opening, scale.rate) == (pytest.approx(4 / 3), pytest.approx(2 / 3))
    # Of three the weights 1 / T show. Points (1, 0), (4, 0), (9, 6), by the normal equations with
    # weights 1, 1/4, 1/9: sum w = 49/36, sum wT = 3, sum wTT = 14, sum wy = 2/3, sum wTy = 6.
    # The determinant is 49/36 * 14 - 9 = 181/18, the rate (49/36 * 6 - 3 * 2/3) / it = 111/181, the
    # opening (14 * 2/3 - 3 * 6) / it = -156/181.
    scale = SurpriseScale.fit([0, 0, 6], [1, 4, 9])
    assert scale.rate == pytest.approx(111 / 181)
    assert scale.opening == pytest.approx(-156 / 181)


def test_short_and_long_plain_texts_are_equally_odd_on_average() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 60, size=4000)
    nats = 8 + 2.5 * lengths + 1.7 * np.sqrt(lengths) * rng.standard_normal(4000)
    scale = SurpriseScale.fit(nats.tolist(), lengths.tolist())
    found = np.array([scale.surprise(n, t) for n, t in zip(nats, lengths, strict=True)])
    # Standard errors: 1 / sqrt(1300) = 0.03 of a mean, 0.02 of a standard deviation.
    for part in (lengths < 20, (lengths >= 20) & (lengths < 40), lengths >= 40):
        assert abs(found[part].mean()) < 0.1
        assert abs(found[part].std() - 1) < 0.08


@pytest.mark.parametrize("nats", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_as_odd_as_can_be_and_fits_into_a_file(nats: float) -> None:
    assert SurpriseScale(1.0, 1.0, 1.0).surprise(nats, 4) == ODDEST < math.inf


def test_without_spread_everything_off_the_line_is_very_odd() -> None:
    scale = SurpriseScale(10.0, 2.0, 0.0)
    assert scale.surprise(18, 4) == 0
    assert scale.surprise(18.1, 4) == ODDEST


@pytest.mark.parametrize(
    ("nats", "lengths"), [([1.0, 2.0], [1, 2]), ([1.0, 2.0, 3.0], [5, 5, 5]), ([], [])]
)
def test_too_few_texts_give_no_scale(nats: list[float], lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="three texts of different lengths"):
        SurpriseScale.fit(nats, lengths)


# --- whether it asks for something ---

INSTRUCTIONS = [
    "Classify the message.",
    "classify",
    "Please classify the message as spam or ham.",
    "Read the review and say whether it is positive.",
    "Decide if the customer is angry",
    "Then sort the tickets by team.",
    "Only answer with one word.",
    "Is this review positive or negative?",
    "What is the sentiment of the text?",
    "Does the second sentence follow from the first?",
    "You are a helpful assistant who labels support tickets.",
    "You sort mail at the benefits office.",
    "Your task is sentiment analysis.",
    "In this task, texts are assigned to topics.",
    "The answer must be one of red, green or blue.",
    "A ticket is given. Name the team that should handle it.",
    "Given a review, output positive or negative.",
    "Below is an email. Please mark it as phishing or legitimate.",
    "Carefully: pick the best label.",
    "Text first, label second.\nWrite the label in lower case.",
    "Summarise the article in one sentence.",
    "Summarize the article in one sentence.",
    "Translate the following sentence into French.",
    "You will be shown two sentences.",
    "How many animals are named?",
]
BABBLE = [
    "",
    "...",
    "The sky at noon.",
    "the the the the the",
    "zq xv blorp fnord",
    "positive negative neutral",
    "Great service and a lovely room.",
    "I loved every minute of this film.",
    "Sentiment: positive",
    "colour of the sky over Berlin",
    "Two days late and nobody called",
    "Input Output Allowed outputs Current instruction",
    "1 2 3 4 5 6",
    "alpha1 beta2 gamma3",
    "A review of a restaurant in the old town.",
    "Customer service, billing, technical support, sales.",
    "Thank you very much!",
    "It was raining when they arrived.",
    "Bestimme die Farbe.",
    "¿?",
    "?????",
    "negative reviews often mention the weather",
    "https://example.com/a/b",
    "def main(): pass",
    "Sincerely, the team",
]


@pytest.mark.parametrize("text", INSTRUCTIONS)
def test_an_order_a_question_or_a_role_is_an_instruction(text: str) -> None:
    assert is_instruction(text)


@pytest.mark.parametrize("text", BABBLE)
def test_a_text_that_asks_for_nothing_is_none(text: str) -> None:
    assert not is_instruction(text)


def test_capitals_make_no_difference() -> None:
    for text in (*INSTRUCTIONS, *BABBLE):
        assert is_instruction(text.upper()) == is_instruction(text), text


def test_a_question_without_its_mark_or_a_mark_without_question_asks_nothing() -> None:
    assert not is_instruction("what a lovely day")
    assert not is_instruction("a lovely day?")


def test_plain_instructions_are_instructions_all_different_and_of_many_lengths() -> None:
    plain = plain_instructions()
    assert len(set(plain)) == len(plain) >= 40
    assert [text for text in plain if not is_instruction(text)] == []
    lengths = {len(text.split()) for text in plain}
    assert min(lengths) <= 5
    assert max(lengths) >= 20
    assert len(lengths) >= 15
