"""Nothing that data or models write hides, reorders or breaks out."""

import json

import pytest

from stableprompt.reporting.visible import CHARACTERS, marked, script_json, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb", "a⟨U+202E⟩b"),  # right-to-left override
        ("a\u2066b\u2069", "a⟨U+2066⟩b⟨U+2069⟩"),  # isolates
        ("a\u200bb\ufeff", "a⟨U+200B⟩b⟨U+FEFF⟩"),  # no width
        ("a\x00b\x1b[31m\x7f\x85", "a⟨U+0000⟩b⟨U+001B⟩[31m⟨U+007F⟩⟨U+0085⟩"),
        ("a\r\nb", "a⟨U+000D⟩\nb"),
        ("a\u2028b\u2029", "a⟨U+2028⟩b⟨U+2029⟩"),
        ("a\U000e0041", "a⟨U+E0041⟩"),  # a tag: text that only models see
        ("a\ud800", "a⟨U+D800⟩"),  # half a character
        ("a\u3164", "a⟨U+3164⟩"),  # a letter without ink
        ("tab\tline\n", "tab\tline\n"),
        ("naïve שלום 東京 👩\u200d👧 क्\u200dष", "naïve שלום 東京 👩\u200d👧 क्\u200dष"),
    ],
)
def test_what_hides_is_shown_and_the_rest_stays(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_text_without_end_is_cut_and_says_so() -> None:
    shown = visible("x" * (CHARACTERS + 1))
    assert shown == "x" * CHARACTERS + f"… ({CHARACTERS + 1} characters in all)"


def test_marks_are_html_and_texts_are_not() -> None:
    assert marked('<b title="x">&\u202e') == (
        '&lt;b title=&#34;x&#34;&gt;&amp;<span class="hidden-char">⟨U+202E⟩</span>'
    )


def test_nothing_in_json_ends_its_element_and_it_says_the_same() -> None:
    nasty = {"</script><!--": ["<script>", "&amp;", "]]>", "\u2028\u2029", "é\u202e", 'a"b\\']}
    text = str(script_json(nasty))
    assert json.loads(text) == nasty
    assert text.isascii()
    assert not set("<>&") & set(text)


def test_a_number_that_json_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json({"value": float("nan")})
