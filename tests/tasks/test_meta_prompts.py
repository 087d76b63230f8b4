from typing import Any

import pytest

from stableprompt.errors import ConfigError
from stableprompt.tasks.meta_prompts import MetaPrompt

PAIRS = [("so good", "positive"), ("too\n\nlong", "negative")]
LABELS = ["positive", "negative"]


def test_paper_is_the_text_of_figure_6() -> None:
    assert MetaPrompt("paper").messages("Sort.", LABELS, PAIRS) == [
        {
            "role": "user",
            "content": (
                "I gave a friend an instruction and 2 inputs. The friend read the instruction and "
                "wrote an output for every one of the inputs. Here are the input-output pairs:\n\n"
                "Input : so good\nOutput : positive\n\n"
                "Input : too long\nOutput : negative\n\n"
                "The instruction was :"
            ),
        }
    ]


def test_improve_shows_examples_outputs_and_the_current_instruction() -> None:
    assert MetaPrompt().messages("Sort.", LABELS, PAIRS) == [
        {
            "role": "user",
            "content": (
                "Examples of a task:\n\n"
                "Input: so good\nOutput: positive\n\n"
                "Input: too long\nOutput: negative\n\n"
                "Allowed outputs: positive, negative\n"
                "Current instruction: Sort.\n\n"
                "Write a better instruction for this task. Reply with the instruction only."
            ),
        }
    ]


@pytest.mark.parametrize("style", ["improve", "paper"])
def test_braces_in_values_are_not_interpreted(style: Any) -> None:
    (message,) = MetaPrompt(style).messages("{n}", ["{pairs}"], [("{labels} {", "}{0}")])
    assert "{labels} {\n" in message["content"]
    assert "}{0}" in message["content"]
    if style == "improve":
        assert "Allowed outputs: {pairs}\nCurrent instruction: {n}\n" in message["content"]
        assert "for this task. Keep {n} in it. Reply with" in message["content"]


def test_long_texts_are_cut_with_an_ellipsis() -> None:
    (message,) = MetaPrompt("paper", max_example_chars=10).messages(
        "", [], [("123456789 abc", "x"), ("1234567890", "y")]
    )
    assert "Input : 123456789…\n" in message["content"]
    assert "Input : 1234567890\n" in message["content"]


def test_default_length() -> None:
    (message,) = MetaPrompt().messages("", [], [("a" * 301, "x")])
    assert "Input: " + "a" * 299 + "…\n" in message["content"]


def test_wrong_settings() -> None:
    style: Any = "poem"
    with pytest.raises(ConfigError, match="must be one of improve, paper, found 'poem'"):
        MetaPrompt(style)
    with pytest.raises(ConfigError, match="max_example_chars must be at least 1, found 0"):
        MetaPrompt(max_example_chars=0)
    with pytest.raises(ConfigError, match="at least one example"):
        MetaPrompt().messages("Sort.", LABELS, [])


def test_where_the_answer_is_free_no_outputs_are_named() -> None:
    (message,) = MetaPrompt().messages("Sort.", [], PAIRS)
    assert "\n\nCurrent instruction: Sort.\n" in message["content"]
    assert "Allowed" not in message["content"]


def test_placeholders_of_the_instruction_are_named_as_what_to_keep() -> None:
    (message,) = MetaPrompt().messages("Does {premise} give {{ hypothesis }}?", LABELS, PAIRS)
    assert "Keep {hypothesis}, {premise} in it. Reply" in message["content"]
