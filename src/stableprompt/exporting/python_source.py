"""Python source: texts as literals, and a function that makes the messages of a prompt."""

from stableprompt.exporting.pieces import Field, PiecedMessage, pieced, variables
from stableprompt.exporting.shipped import ShippedPrompt
from stableprompt.runs.escapes import on_one_line
from stableprompt.tasks.formats import CHOICES

_LINES = {
    "letters": """\
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    lines = [f"{letter}. {str(choice).strip()}" for letter, choice in zip(letters, given)]
""",
    "text": """\
    lines = [f"- {str(choice).strip()}" for choice in given]
""",
}


def to_python(shipped: ShippedPrompt) -> str:
    """A file without dependencies: its ``messages`` gives what was scored."""
    return f"{comments(shipped)}\n\n{messages_source(shipped)}"


def comments(shipped: ShippedPrompt) -> str:
    """What the prompt is, at the head of a file; whatever it holds, no line of it is code."""
    return "".join(f"# {on_one_line(line)}\n" for line in shipped.about())


def messages_source(shipped: ShippedPrompt) -> str:
    """Source of a function from an input to chat messages.

    It takes a text, where the input is one; else a mapping of its fields.
    """
    names = variables(shipped)
    single = len(names) == 1
    given = next(iter(names.values())) if single else "fields"
    what = "one input" if single else f"an input with {', '.join(map(repr, names))}"
    doc = f'    """What the target is sent for {what}."""\n'
    if shipped.is_plain:
        doc = f'    """What the target reads for {what}: raw text, without a chat template."""\n'
    reading = [_reading(field, name, single) for field, name in names.items()]
    shown = "".join(_message_source(message, names) for message in pieced(shipped))
    helper = _choices_source(shipped) if CHOICES in names else ""
    return f"{helper}def messages({given}):\n{doc}{''.join(reading)}    return [\n{shown}    ]\n"


def literal(text: str, indent: int = 0) -> str:
    """Source of a text; one of several lines is written line by line."""
    *lines, last = text.split("\n")
    parts = [f"{line}\n" for line in lines] + ([last] if last else [])
    if len(parts) < 2:
        return repr(text)
    margin = " " * indent
    shown = "".join(f"{margin}    {part!r}\n" for part in parts)
    return f"(\n{shown}{margin})"


def _reading(field: str, name: str, single: bool) -> str:
    value = name if single else f"fields[{field!r}]"
    return f"    {name} = {f'_choices({value})' if field == CHOICES else f'{value}.strip()'}\n"


def _message_source(message: PiecedMessage, names: dict[str, str]) -> str:
    parts = [
        names[piece.name] if isinstance(piece, Field) else literal(piece, 12)
        for piece in message.pieces
    ]
    content = "\n            + ".join(parts) or "''"
    return (
        f"        {{\n            'role': {message.role!r},\n"
        f"            'content': {content},\n        }},\n"
    )


def _choices_source(shipped: ShippedPrompt) -> str:
    lines = _LINES[shipped.layout.choice_style]
    return (
        "def _choices(given):\n"
        "    if isinstance(given, str):  # one a line already, as the target reads them\n"
        "        return given.strip()\n"
        f'{lines}    return "\\n".join(lines)\n\n\n'
    )
