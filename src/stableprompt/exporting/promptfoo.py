"""A configuration of promptfoo: the prompt, and examples of the test split as its tests.

promptfoo renders prompts with Nunjucks. A prompt that is JSON is read first and rendered string by
string; the values of its variables then stand as they are. A raw text has no such protection: its
variables are rendered, too.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from stableprompt.exporting.pieces import joined, pieced, variables
from stableprompt.exporting.python_source import comments
from stableprompt.exporting.shipped import ShippedPrompt
from stableprompt.tasks.example import TaskKind

MOST_TESTS: Final = 20
# Nunjucks takes an end of a comment amiss where none was begun.
_NUNJUCKS = re.compile(r"\{(?=[{%#]|\Z)|#(?=\})")
_MARKUP = re.compile(r"\{[{%#]")
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
# Renders to nothing. Its line break says that the prompt is no path of a file, its first half
# keeps promptfoo from taking the second for a mistake.
_NO_PATH = "{% raw %}{% endraw %}{#\n#}"
_PROVIDERS = {
    "openai": "openai:chat",
    "anthropic": "anthropic:messages",
    "gemini": "google",
    "mistral": "mistral",
    "deepseek": "deepseek",
    "groq": "groq",
    "together": "togetherai",
    "fireworks": "fireworks",
    "openrouter": "openrouter",
    "xai": "xai",
    "ollama": "ollama:chat",
}


def to_promptfoo(shipped: ShippedPrompt) -> str:
    """``promptfooconfig.yaml``."""
    names = variables(shipped)
    contents = [
        {
            "role": message.role,
            "content": joined(message, _escaped, lambda field: f"{{{{ {names[field]} }}}}"),
        }
        for message in pieced(shipped)
    ]
    if shipped.is_plain:
        prompt = f"  - {_json(_NO_PATH + contents[0]['content'])}\n"
    else:
        lines = _json(contents, indent=2).split("\n")
        prompt = "  - |\n" + "".join(f"    {line}\n" for line in lines)
    target = str(shipped.result["setting"]["target"])
    provider, note = _provider(target)
    tests = [test for row in shipped.tests if (test := _test(row, shipped, names)) is not None]
    shown = "".join(f"  - {_json(test)}\n" for test in tests[:MOST_TESTS])
    return (
        f"{comments(shipped)}# yaml-language-server: $schema=https://promptfoo.dev/"
        "config-schema.json\n"
        f"description: {_json('Prompt of the task ' + shipped.result['setting']['task'])}\n"
        f"prompts:\n{prompt}"
        f"providers:\n{note}  - {_json(provider)}\n"
        'defaultTest:\n  options:\n    transform: "output.trim()"\n'
        + (f"tests:\n{shown}" if shown else "")
    )


def _provider(target: str) -> tuple[str, str]:
    """promptfoo's name of a target; one that only repeats the prompt where it has none."""
    provider, slash, model = target.partition("/")
    if slash and provider in _PROVIDERS:
        return f"{_PROVIDERS[provider]}:{model}", ""
    return "echo", "  # echo repeats the prompt; put the provider here that serves the target\n"


def _test(
    row: Mapping[str, Any], shipped: ShippedPrompt, names: Mapping[str, str]
) -> dict[str, Any] | None:
    """A row as a test; None where promptfoo would take its texts for something else."""
    values = {names[field]: str(row["fields"][field]) for field in names}
    if any(_is_special(value, shipped, names) for value in values.values()):
        return None
    found: dict[str, Any] = {"vars": values}
    kind = shipped.result["setting"]["kind"]
    if kind != TaskKind.GENERATION:
        answers = [row["label"], *row.get("others", ())]
        asked = [
            {"type": "equals", "value": shipped.label_words.get(answer, answer)}
            for answer in answers
        ]
        several = [{"type": "assert-set", "threshold": 1 / len(asked), "assert": asked}]
        found["assert"] = asked if len(asked) == 1 else several
    return found


def _is_special(value: str, shipped: ShippedPrompt, names: Mapping[str, str]) -> bool:
    if value.startswith(("file://", "package:")):
        return True
    if shipped.is_plain:
        return bool(_MARKUP.search(value))
    return any(name in names.values() for name in re.findall(r"\{\{\s*(\w+)\s*\}\}", value))


def _escaped(text: str) -> str:
    return _NUNJUCKS.sub(lambda match: f"{{{{ '{match.group()}' }}}}", text)


def _json(value: Any, indent: int | None = None) -> str:
    """JSON that is YAML, too: all that YAML would refuse is escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return _NOT_IN_YAML.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
