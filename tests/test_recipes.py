"""The settings in recipes/: they are settings, and plans of them are what their first lines say."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stableprompt.cli import app
from stableprompt.cli.settings_file import read_settings
from stableprompt.config import make_config

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))


def test_there_are_recipes() -> None:
    assert {"gpu_24gb", "gpu_80gb", "vllm_70b", "api"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_plan_of_a_recipe_fits_as_its_first_lines_say(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = path.read_text(encoding="utf-8")
    [command] = re.findall(r"^#   (stableprompt estimate .*)$", text, re.MULTILINE)
    [peaks] = re.findall(r"^#   at the peak: (.*) GB$", text, re.MULTILINE)
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(app, shlex.split(command)[1:], env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    found = re.findall(r"at the peak: fits\W+([\d.]+ of [\d.]+)", result.output)
    assert ", ".join(found) == peaks
    assert "DOES NOT FIT" not in result.output


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_that_it_was_not_run(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.search(r"^# (Not run|The API was not asked)", text, re.MULTILINE)
    assert make_config(read_settings(path)).steps >= 10
