"""Text of data and models, made harmless: what hides is shown, what could break out is escaped.

Escaping for HTML is the template's (jinja2 with autoescape). Here is what that does not do:
characters that reorder or hide text, and JSON inside a script element.
"""

import json
import re
import unicodedata
from typing import Any, Final

from markupsafe import Markup, escape

CHARACTERS: Final = 20_000
"""Characters of one text that a page shows."""

# Joiners that scripts and emoji need, and signs of category Cf that are drawn.
_DRAWN: Final = {0x200C, 0x200D, 0x6DD, 0x70F, 0x8E2, 0x110BD, 0x110CD, *range(0x600, 0x606)}
_BLANK_LETTERS: Final = {0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0}
_HIDDEN_KINDS: Final = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_SUSPECT: Final = re.compile(r"[^\n\t -~]")
_NAMED: Final = re.compile("⟨U\\+[0-9A-F]{4,6}⟩")


def visible(text: str) -> str:
    """The text with control, bidi and invisible characters replaced by their numbers.

    >>> visible("safe\u202etxt")
    'safe⟨U+202E⟩txt'
    """
    if len(text) > CHARACTERS:
        text = f"{text[:CHARACTERS]}… ({len(text)} characters in all)"
    return _SUSPECT.sub(lambda found: _shown(found[0]), text)


def _shown(character: str) -> str:
    code = ord(character)
    hides = unicodedata.category(character) in _HIDDEN_KINDS and code not in _DRAWN
    return f"⟨U+{code:04X}⟩" if hides or code in _BLANK_LETTERS else character


def marked(text: str) -> Markup:
    """The visible text as HTML, the numbers of hidden characters set apart."""
    safe = str(escape(visible(text)))
    return Markup(_NAMED.sub(r'<span class="hidden-char">\g<0></span>', safe))


def script_json(data: Any) -> Markup:
    """JSON for a script element: nothing in it can end the element or start another.

    Raises:
        ValueError: there is a number in it that JSON has not.
    """
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # non-ASCII, U+2028 and U+2029 with it, is escaped already
