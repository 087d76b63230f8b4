"""``stableprompt write``: a prompt for each input, by a trained writer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from stableprompt.cli.reporting import one_line_errors
from stableprompt.cli.terminal import hand_over, hand_over_json, say
from stableprompt.errors import ConfigError, DataError


@one_line_errors
def command(
    writer: Annotated[
        str, typer.Argument(help="Folder of a run made with --per-input, of a writer, or a hub id.")
    ],
    given: Annotated[
        str | None,
        typer.Option("--input", help="One input; or its fields as JSON, in { }."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Many: a text file with one a line, or a table with a column a field."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Draw so many prompts for each input, for voting.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides what --samples draws.")] = 0,
    messages: Annotated[
        bool, typer.Option("--messages", help="Print what the target is to be sent.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="The agent's checkpoint, where it lies elsewhere now.")
    ] = None,
) -> None:
    """Write a prompt for each input.

    Prints the prompt of --input, or one line of JSON for each input of --file.
    Example: stableprompt write runs/my-run --input "I cannot log in"
    """
    if (given is None) == (file is None):
        raise ConfigError("give either --input TEXT or --file FILE")
    if messages and samples:
        raise ConfigError("--messages takes the most probable prompt; leave --samples out")
    inputs = [fields_of(given)] if given is not None else _read(Path(str(file)))
    from stableprompt.prompt_writer import PromptWriter  # loads torch

    found = PromptWriter.from_pretrained(writer, model=model)
    told: list[Any]
    if messages:
        found.write(inputs)  # all in one go; what follows is remembered
        told = [found.messages(one) for one in inputs]
    else:
        told = found.sample(inputs, samples, seed=seed) if samples else found.write(inputs)
    name = "messages" if messages else "prompts" if samples else "prompt"
    for one, result in zip(inputs, told, strict=True):
        plain = given is not None and isinstance(result, str)
        line = {"input": one, name: result}
        hand_over(result) if plain else hand_over_json(line)
    if found.refused:
        refused = ", ".join(f"{n} {why}" for why, n in sorted(found.refused.items()))
        say(f"refused, the prompt for all stands in: {refused}", to_stderr=True)


def fields_of(text: str) -> str | Mapping[str, Any]:
    """Fields, where the text is a JSON object; else the text."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, dict) else text


def _read(path: Path) -> list[str | Mapping[str, Any]]:
    from stableprompt.tasks.table import read_table  # loads numpy

    if path.suffix.lower() not in (".txt", ""):
        rows = read_table(path)
        if not rows:
            raise DataError(f"{path} has no rows; add an input")
        return [_one(row) for row in rows]
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); check the path") from error
    found: list[str | Mapping[str, Any]] = [line for line in lines if line.strip()]
    if not found:
        raise DataError(f"{path} is empty; write one input a line")
    return found


def _one(row: Mapping[str, Any]) -> str | Mapping[str, Any]:
    """A table of one column holds inputs, one of several their fields."""
    values = list(row.values())
    return str(values[0]) if len(values) == 1 else dict(row)
