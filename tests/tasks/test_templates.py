from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stableprompt.errors import ConfigError
from stableprompt.tasks.templates import TargetTemplate


def test_prompt_first_in_one_user_message() -> None:
    assert TargetTemplate().messages("Sort.", "hello") == [
        {"role": "user", "content": "Sort.\n\nText: hello"}
    ]


def test_input_first() -> None:
    template = TargetTemplate(order="input_first", separator=" | ", input_format="<{text}>")
    assert template.messages("Sort.", "hello") == [{"role": "user", "content": "<hello> | Sort."}]


def test_prompt_as_system_message() -> None:
    assert TargetTemplate(position="system").messages("Sort.", "hello") == [
        {"role": "system", "content": "Sort."},
        {"role": "user", "content": "Text: hello"},
    ]


@given(st.text("{}text0! \n\\1%s"), st.text("{}text0! \n\\1%s"))
def test_prompt_and_text_are_put_in_literally(prompt: str, text: str) -> None:
    template = TargetTemplate(input_format="{x} {text} {{}}")
    (message,) = template.messages(prompt, text)
    assert message["content"] == prompt + "\n\n" + "{x} " + text + " {{}}"


@pytest.mark.parametrize("input_format", ["Text:", "", "{text}{text}", "{TEXT}"])
def test_the_placeholder_must_be_there_once(input_format: str) -> None:
    with pytest.raises(ConfigError, match=r"must contain \{text\} exactly once, found [02] times"):
        TargetTemplate(input_format=input_format)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"position": "top"}, "position must be one of user, system, found 'top'"),
        ({"order": "x"}, "order must be one of prompt_first, input_first, found 'x'"),
    ],
)
def test_unknown_choices(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TargetTemplate(**options)
