"""``stableprompt export``: the prompt of a run, in the form that another program reads."""

import json
from pathlib import Path
from typing import Annotated

import typer

from stableprompt.cli.reporting import one_line_errors
from stableprompt.cli.terminal import hand_over, say
from stableprompt.errors import ConfigError


@one_line_errors
def command(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a finished run.")],
    to: Annotated[
        str,
        typer.Option(
            help="text, json, messages, promptfoo, langchain, dspy, mlflow or python.",
        ),
    ] = "text",
    output: Annotated[
        Path | None, typer.Option(help="A file to write.", show_default="print it")
    ] = None,
    given: Annotated[
        str | None,
        typer.Option("--input", help="With --to messages: for this input; or its fields as JSON."),
    ] = None,
) -> None:
    """Write the prompt of a run for another program.

    Example: stableprompt export runs/my-run --to langchain --output prompt.py
    """
    from stableprompt.exporting.formats import export  # loads pydantic

    if given is not None and to != "messages":
        raise ConfigError("--input goes with --to messages")
    content = export(run, to) if given is None else _messages(run, given)
    if output is None:
        hand_over(content, newline=False)
        return
    if output.exists():
        raise ConfigError(f"{output} is there already and is not overwritten; name another file")
    try:
        with output.open("w", encoding="utf-8", newline="\n") as file:
            file.write(content)
    except OSError as error:
        raise ConfigError(f"{output} cannot be written ({error.strerror})") from error
    say(f"written: {output}", to_stderr=True)


def _messages(run: Path, given: str) -> str:
    from stableprompt.cli.write import fields_of
    from stableprompt.exporting.shipped import read_shipped

    found = read_shipped(run).messages_for(fields_of(given))
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"
