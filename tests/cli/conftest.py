"""A folder with data and a saved tiny model, and ways to call the command line in it."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from stableprompt.cli import app
from tests.fakes.tiny_model import save_tiny_model

Invoke = Callable[..., Result]

SPLITS = ("train", "validation", "test")
COLUMNS = ("--text", "message", "--label", "team")
# Guards that would cost the tiny model all its prompts are off, as in tests/tuning/conftest.py.
SMALL = (
    "dtype=float32",
    "device=cpu",
    "steps=2",
    "agent.max_prompt_tokens=4",
    "agent.num_demonstrations=2",
    "reward.examples_per_step=4",
    "ppo.prompts_per_step=4",
    "ppo.minibatch_size=2",
    "anchor.update_period=2",
    "anchor.prompts_per_decision=2",
    "guards.reject_truncated=false",
    "guards.max_surprise=null",
    "guards.require_instruction=false",
    "selection.num_finalists=2",
)


def options(*assignments: str) -> list[str]:
    return [part for assignment in assignments for part in ("--set", assignment)]


def write_rows(path: Path, count: int, *, split: bool = False) -> None:
    """Rows with console markup in every text."""
    lines = ["message,team,split" if split else "message,team"]
    for i in range(count):
        row = f"colour {i} [bold]x[/bold] [/x],{'red' if i % 2 else 'green'}"
        lines.append(f"{row},{SPLITS[i % 3]}" if split else row)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def invoke_app(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "80"})


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny model, agent and target of all runs here."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def unraisable_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted command leaves its own behind."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Call the command line in a new folder that holds ``rows.csv``: 60 rows, no split column."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.csv", 60)
    return invoke_app


def assert_fits(output: str, width: int = 80) -> None:
    assert [line for line in output.splitlines() if len(line) > width] == []
