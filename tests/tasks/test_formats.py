import pytest

from stableprompt.errors import ConfigError
from stableprompt.tasks.formats import InputFormat

CHOICES = ["red", "deep blue"]


def test_one_field_is_the_input_as_it_is() -> None:
    layout = InputFormat.plain(["message"], with_choices=False)
    assert layout.text({"message": "hello {x}"}) == "hello {x}"


def test_several_fields_stand_under_their_names() -> None:
    layout = InputFormat.plain(["premise", "their_claim"], with_choices=False)
    shown = layout.text({"premise": "a {their_claim}", "their_claim": "b"})
    assert shown == "Premise: a {their_claim}\nTheir claim: b"


def test_choices_stand_below_with_letters() -> None:
    layout = InputFormat.plain(["q"], with_choices=True)
    assert layout.answer_words(CHOICES) == ("A", "B")
    fields = {"q": "Which?", "choices": layout.choice_list(CHOICES)}
    assert layout.text(fields) == "Which?\nA. red\nB. deep blue"


def test_or_without_letters_their_own_text_is_the_answer() -> None:
    layout = InputFormat.plain(["q"], with_choices=True, choice_style="text")
    assert layout.answer_words(CHOICES) == ("red", "deep blue")
    assert layout.choice_list(CHOICES) == "- red\n- deep blue"


def test_a_layout_must_show_the_fields_and_nothing_else() -> None:
    InputFormat("{choices} {q}").require_fields(["q"], with_choices=True)
    for layout, with_choices, message in (
        ("{q}", True, r"does not show the field 'choices': write \{choices\}"),
        ("{choices}", True, "does not show the field 'q'"),
        ("{q} {choices}", False, r"has the placeholder \{choices\}, but the fields are 'q'"),
        ("{q} {z}", False, r"has the placeholder \{z\}"),
    ):
        with pytest.raises(ConfigError, match=message):
            InputFormat(layout).require_fields(["q"], with_choices=with_choices)


def test_an_unknown_style() -> None:
    with pytest.raises(ConfigError, match="choice_style must be one of letters, text, found 'x'"):
        InputFormat("{q}", "x")  # type: ignore[arg-type]
