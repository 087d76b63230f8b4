"""The forms of export by name."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Protocol

from stableprompt.errors import ConfigError
from stableprompt.exporting.dspy import to_dspy
from stableprompt.exporting.langchain import to_langchain
from stableprompt.exporting.mlflow import to_mlflow
from stableprompt.exporting.pieces import Field, pieced
from stableprompt.exporting.promptfoo import to_promptfoo
from stableprompt.exporting.python_source import to_python
from stableprompt.exporting.shipped import ShippedPrompt, read_shipped


class FinishedRun(Protocol):
    """What ``tune`` gives."""

    @property
    def run_dir(self) -> Path:
        """Where the run is."""
        ...


def export(run: str | Path | FinishedRun, to: str = "text") -> str:
    """The prompt of a finished run, in the form that another program reads.

    Args:
        run: What ``tune`` gave, or the folder of the run.
        to: text, json, messages, promptfoo, langchain, dspy, mlflow or python.

    Raises:
        ConfigError: there is no such form.
        RunError: the folder holds no finished run.
    """
    if to not in FORMATS:
        raise ConfigError(
            f"a prompt cannot be exported to {to!r}; write one of {', '.join(FORMATS)}"
        )
    folder = Path(run) if isinstance(run, str | Path) else run.run_dir
    return FORMATS[to](read_shipped(folder))


def to_text(shipped: ShippedPrompt) -> str:
    """The prompt alone, and a line end, as in ``best_prompt.txt``."""
    return f"{shipped.prompt}\n"


def to_messages(shipped: ShippedPrompt) -> str:
    """The chat messages with placeholders, as in ``result.json``."""
    return _json(list(shipped.messages))


def to_json(shipped: ShippedPrompt) -> str:
    """Everything that a program needs to send what was scored, and the figures."""
    result = shipped.result
    pieces = [
        {
            "role": message.role,
            "pieces": [
                {"field": piece.name} if isinstance(piece, Field) else piece
                for piece in message.pieces
            ],
        }
        for message in pieced(shipped)
    ]
    told = ("setting", "test", "seed_test", "paired", "validation", "trivial_score")
    return _json(
        {
            "prompt": shipped.prompt,
            "instruction": shipped.instruction,
            "messages": list(shipped.messages),
            "pieces": pieces,
            "template": asdict(shipped.template),
            "layout": asdict(shipped.layout),
            "label_words": dict(shipped.label_words) or None,
            **{name: result.get(name) for name in told},
        }
    )


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


FORMATS: Final[Mapping[str, Callable[[ShippedPrompt], str]]] = {
    "text": to_text,
    "json": to_json,
    "messages": to_messages,
    "promptfoo": to_promptfoo,
    "langchain": to_langchain,
    "dspy": to_dspy,
    "mlflow": to_mlflow,
    "python": to_python,
}
