"""A prompt's messages as literal texts with the fields of the input between them.

Other programs have templates of their own, in which a brace of the prompt would mean something.
Here nothing has a meaning: a piece is a text that stands as it is, or the name of a field.
"""

import keyword
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count

from stableprompt.exporting.shipped import ShippedPrompt
from stableprompt.tasks.example import Example
from stableprompt.tasks.placeholders import placeholders

# Words that mean something else in Python, Jinja, Nunjucks or a function of these packages.
_TAKEN = frozenset(
    [
        "allow_partial",
        "and",
        "caller",
        "config",
        "context",
        "demos",
        "elif",
        "else",
        "endif",
        "env",
        "false",
        "fields",
        "if",
        "in",
        "input_fields",
        "instructions",
        "is",
        "lm",
        "loop",
        "new_signature",
        "none",
        "not",
        "null",
        "or",
        "output_fields",
        "prompt",
        "self",
        "signature",
        "super",
        "this",
        "true",
        "use_jinja_sandbox",
        "vars",
    ]
)


@dataclass(frozen=True, slots=True)
class Field:
    """A place where a field of the input stands."""

    name: str


Piece = str | Field


@dataclass(frozen=True, slots=True)
class PiecedMessage:
    """One message in pieces; joined, with values for the fields, they are its content."""

    role: str
    pieces: tuple[Piece, ...]


def pieced(shipped: ShippedPrompt) -> list[PiecedMessage]:
    """The messages of a prompt in pieces.

    The template itself makes them, with marks for values, and they are cut at the marks: so no
    second description of the template can differ from what was scored.
    """
    names = field_names(shipped)
    mark = _unused_mark(shipped)
    marks = {name: mark(number) for number, name in enumerate(names)}
    example = Example(shipped.layout.text(marks), "", fields=marks)
    return [
        PiecedMessage(message["role"], tuple(_cut(message["content"], marks)))
        for message in shipped.template.messages(shipped.prompt, example)
    ]


def field_names(shipped: ShippedPrompt) -> list[str]:
    """The fields of an input, in the order of the layout."""
    layout = shipped.layout.layout
    return sorted(placeholders(layout), key=lambda name: _place(layout, name))


def variables(shipped: ShippedPrompt) -> dict[str, str]:
    """Field -> a name for it that every template language takes: ASCII, no keyword, unique."""
    names: dict[str, str] = {}
    for field in field_names(shipped):
        plain = re.sub(r"[^A-Za-z0-9_]", "_", field)
        if not plain.strip("_") or not plain[0].isalpha() or plain.startswith("model_"):
            plain = f"field_{plain.strip('_')}".rstrip("_")
        if keyword.iskeyword(plain) or plain.lower() in _TAKEN:
            plain += "_"
        others = (f"{plain}_{number}" for number in count(2))
        names[field] = plain if plain not in names.values() else _first_free(others, names)
    return names


def joined(message: PiecedMessage, text: Callable[[str], str], field: Callable[[str], str]) -> str:
    """A message's content with each literal text and each field written in some other way."""
    return "".join(field(p.name) if isinstance(p, Field) else text(p) for p in message.pieces)


def _first_free(candidates: Iterable[str], names: dict[str, str]) -> str:
    return next(name for name in candidates if name not in names.values())


def _place(layout: str, name: str) -> int:
    found = re.search(rf"\{{\s*{re.escape(name)}\s*\}}", layout)
    return found.start() if found else len(layout)


def _unused_mark(shipped: ShippedPrompt) -> Callable[[int], str]:
    """Texts that stand nowhere in the prompt, its template or its layout."""
    template = shipped.template
    known = "".join(
        (shipped.prompt, template.separator, template.input_format, shipped.layout.layout)
    )
    stem = next(s for s in (f"<field-{n}-" for n in count()) if s not in known)
    return lambda number: f"{stem}{number}>"


def _cut(content: str, marks: dict[str, str]) -> list[Piece]:
    if not marks:
        return [content] if content else []
    fields = {mark: Field(name) for name, mark in marks.items()}
    either = "|".join(re.escape(mark) for mark in fields)
    return [fields.get(part, part) for part in re.split(f"({either})", content) if part]
