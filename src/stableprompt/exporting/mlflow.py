"""A file that registers the prompt with MLflow.

MLflow has two template languages and takes Jinja's where it sees ``{% %}``. Its own one knows no
escape, and puts values in one after the other, searching those that are in already; so it is used
where there is one variable and nothing in the prompt that looks like another.
"""

import re

from stableprompt.exporting.pieces import joined, pieced, variables
from stableprompt.exporting.python_source import comments, literal
from stableprompt.exporting.shipped import ShippedPrompt

_OWN_MARKUP = re.compile(r"\{\{|\}\}|\{%|%\}|[{}]\Z|\A[{}]")
# What Jinja would read as markup, or change: it ends lines in its own way, and drops the last end.
_JINJA = re.compile(r"\{(?=[{%#\r]|\n?\Z)|\r\n?|\n\Z")
_NOTHING = "{% raw %}{% endraw %}"


def to_mlflow(shipped: ShippedPrompt) -> str:
    """``TEMPLATE``, and ``register()``, which makes a version of a prompt of it."""
    names, messages = variables(shipped), pieced(shipped)
    literals = [p for m in messages for p in m.pieces if isinstance(p, str)]
    own = len(names) == 1 and not any(_OWN_MARKUP.search(text) for text in literals)
    escape = str if own else _in_jinja
    contents = [
        (m.role, joined(m, escape, lambda field: f"{{{{ {names[field]} }}}}")) for m in messages
    ]
    if not own:  # says that this is Jinja, to MLflow
        contents = [(role, _NOTHING + content) for role, content in contents]
    if shipped.is_plain:
        template = literal(contents[0][1])
    else:
        rows = "".join(
            f"    {{'role': {role!r}, 'content': {literal(content, 4)}}},\n"
            for role, content in contents
        )
        template = f"[\n{rows}]"
    setting = shipped.result["setting"]
    name = re.sub(r"[^\w.-]", "-", setting["task"], flags=re.ASCII) or "prompt"
    tags = {
        "target": str(setting["target"]),
        "stableprompt": str(setting["versions"]["stableprompt"]),
        "test_score": f"{shipped.result['test']['score']:.4f}",
    }
    fields = ", ".join(f"{name}=..." for name in names.values())
    return (
        f"{comments(shipped)}# Use: register().format({fields}), texts stripped of white space\n\n"
        f"TEMPLATE = {template}\n\n\n"
        f"def register(name={name!r}):\n"
        '    """A new version of the prompt in the registry of MLflow."""\n'
        "    import mlflow\n\n"
        "    return mlflow.genai.register_prompt(\n"
        f"        name=name, template=TEMPLATE, tags={tags!r}\n    )\n\n\n"
        'if __name__ == "__main__":\n    register()\n'
    )


def _in_jinja(text: str) -> str:
    return _JINJA.sub(lambda match: f"{{{{ {match.group()!r} }}}}", text)
