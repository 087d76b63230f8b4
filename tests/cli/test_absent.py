"""Options that were not given are not converted; all else is as typer does it."""

import re
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from stableprompt.cli.absent import Command, Group

seen: dict[str, Any] = {}


def _note(value: str | None) -> str | None:
    seen["noted"] = value
    return value


def command(
    where: Annotated[Path, typer.Argument()],
    rest: Annotated[list[str] | None, typer.Argument()] = None,
    steps: int | None = None,
    rate: float = 0.5,
    set_: Annotated[list[str] | None, typer.Option("--set")] = None,
    noted: Annotated[str | None, typer.Option(callback=_note)] = None,
    folder: Annotated[Path | None, typer.Option(envvar="ABSENT_FOLDER")] = None,
) -> None:
    seen.update(
        where=where, rest=rest, steps=steps, rate=rate, set_=set_, noted=noted, folder=folder
    )


def call(*arguments: str, quick: bool = True, **env: str) -> tuple[int, str, dict[str, Any]]:
    seen.clear()
    app = typer.Typer(cls=Group if quick else None)
    app.command("do", cls=Command if quick else None)(command)
    app.callback()(lambda: None)
    done = CliRunner().invoke(app, ["do", *arguments], env={"COLUMNS": "80", **env})
    return done.exit_code, done.output, dict(seen)


@pytest.mark.parametrize(
    "arguments",
    [
        ["x"],
        ["x", "y", "z"],
        ["x", "--steps", "3", "--rate", "2", "--set", "a", "--set", "b", "--noted", "n"],
        [],
        ["x", "--steps", "many"],
    ],
    ids=" ".join,
)
def test_it_changes_nothing(arguments: list[str]) -> None:
    assert call(*arguments) == call(*arguments, quick=False)


def test_help_has_one_option_more() -> None:
    ours, theirs = (
        set(re.findall(r"--\w+", call("--help", quick=quick)[1])) for quick in (True, False)
    )
    assert ours == theirs | {"--verbose"}
    assert "--steps" in ours


def test_what_was_not_given_is_nothing() -> None:
    assert call("x")[2] == {
        "where": Path("x"),
        "rest": None,
        "steps": None,
        "rate": 0.5,
        "set_": None,
        "noted": None,
        "folder": None,
    }


def test_what_the_environment_gives_is_converted() -> None:
    assert call("x", ABSENT_FOLDER="here")[2]["folder"] == Path("here")


def test_what_must_be_given_is_asked_for() -> None:
    code, output, reached = call()
    assert (code, reached.get("where")) == (2, None)
    assert "Missing argument" in output


def test_no_type_stands_behind_a_flag_in_the_help() -> None:
    """It takes no value: ``--loud <bool>`` would read as if it did."""
    app = typer.Typer(cls=Group)

    @app.command("do", cls=Command)
    def _(loud: Annotated[bool, typer.Option("--loud")] = False, steps: int | None = None) -> None:
        raise AssertionError("only the help is wanted")

    app.callback()(lambda: None)
    for arguments in ([], ["do"]):
        done = CliRunner().invoke(app, [*arguments, "--help"], env={"COLUMNS": "80"})
        assert done.exit_code == 0
        assert "bool" not in done.output.lower()
        assert "--verbose" in done.output
    assert "--loud" in done.output and "int" in done.output.lower()
