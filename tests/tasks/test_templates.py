from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stableprompt.config import TargetConfig
from stableprompt.errors import ConfigError
from stableprompt.tasks.example import Example
from stableprompt.tasks.placeholders import placeholders
from stableprompt.tasks.templates import TargetTemplate, template_of

HELLO = Example("hello", "x", fields={"message": "hello"})
PAIR = Example("whole", "x", fields={"premise": "a {hypothesis}", "hypothesis": "b {text}"})


def test_prompt_first_in_one_user_message() -> None:
    assert TargetTemplate().messages("Sort.", HELLO) == [
        {"role": "user", "content": "Sort.\n\nText: hello"}
    ]


def test_input_first() -> None:
    template = TargetTemplate(order="input_first", separator=" | ", input_format="<{text}>")
    assert template.messages("Sort.", HELLO) == [{"role": "user", "content": "<hello> | Sort."}]


def test_prompt_as_system_message() -> None:
    assert TargetTemplate(position="system").messages("Sort.", HELLO) == [
        {"role": "system", "content": "Sort."},
        {"role": "user", "content": "Text: hello"},
    ]


@given(st.text("{}text0! \n\\1%s"), st.text("{}text0! \n\\1%s"))
def test_prompt_and_text_are_put_in_literally(prompt: str, text: str) -> None:
    template = TargetTemplate(input_format="{x} {text} {{}}")
    assume("text" not in placeholders(prompt))
    (message,) = template.messages(prompt, Example(text, "x"))
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
        ({"format": "html"}, "format must be one of chat, plain, found 'html'"),
    ],
)
def test_unknown_choices(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TargetTemplate(**options)


@pytest.mark.parametrize("position", ["user", "system"])
@pytest.mark.parametrize("format", ["chat", "plain"])
def test_a_prompt_that_places_the_input_is_the_whole_message(position: Any, format: Any) -> None:
    template = TargetTemplate(position=position, format=format)
    [message] = template.messages("Is {premise} so, given {{ hypothesis }}? {other}", PAIR)
    # In one pass: what was put in for the premise is not searched again.
    content = "Is a {hypothesis} so, given b {text}? {other}"
    assert message == {"role": "user", "content": content}


def test_the_whole_input_and_a_single_field_can_be_placed() -> None:
    for prompt in ("Sort {text}.", "Sort {message}.", "Sort {{text}}."):
        [message] = TargetTemplate().messages(prompt, HELLO)
        assert message["content"] == "Sort hello."


def test_a_placeholder_that_the_input_does_not_have_is_only_text() -> None:
    assert TargetTemplate().messages("Greet {name}.", HELLO) == [
        {"role": "user", "content": "Greet {name}.\n\nText: hello"}
    ]


def test_a_plain_text_has_no_system_message() -> None:
    template = TargetTemplate(
        "system", separator=" ", input_format="In: {text} Out:", format="plain"
    )
    assert template.messages("Sort.", HELLO) == [
        {"role": "user", "content": "Sort. In: hello Out:"}
    ]


def test_the_template_of_the_settings() -> None:
    settings = TargetConfig(
        format="plain", position="user", order="input_first", input_format="{text}!", separator="~"
    )
    assert template_of(settings) == TargetTemplate("user", "input_first", "{text}!", "~", "plain")
