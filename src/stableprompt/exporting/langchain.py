"""A file with a prompt template of ``langchain-core``."""

from stableprompt.exporting.pieces import joined, pieced, variables
from stableprompt.exporting.python_source import comments, literal
from stableprompt.exporting.shipped import ShippedPrompt

_ROLES = {"system": "system", "user": "human"}


def to_langchain(shipped: ShippedPrompt) -> str:
    """``prompt``: a ``ChatPromptTemplate``; a ``PromptTemplate`` where the target read raw text.

    Braces of the prompt are doubled, as in a format string of Python; nothing is read twice, so
    braces in an input mean nothing.
    """
    names = variables(shipped)
    contents = [
        (_ROLES[m.role], joined(m, _escaped, lambda field: f"{{{names[field]}}}"))
        for m in pieced(shipped)
    ]
    if shipped.is_plain:
        [(_, content)] = contents
        kind, made = "PromptTemplate", f"PromptTemplate.from_template({literal(content)})"
    else:
        pairs = "".join(f"        ({role!r}, {literal(c, 8)}),\n" for role, c in contents)
        kind = "ChatPromptTemplate"
        made = f"ChatPromptTemplate.from_messages(\n    [\n{pairs}    ]\n)"
    fields = ", ".join(f"{name!r}: ..." for name in names.values())
    return (
        f"{comments(shipped)}# Use: prompt.invoke({{{fields}}}), texts stripped of white space\n\n"
        f"from langchain_core.prompts import {kind}\n\nprompt = {made}\n"
    )


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
