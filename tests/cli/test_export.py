"""``stableprompt export``: on the screen, into a file, for one input; and what it refuses."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from stableprompt.config import make_config
from stableprompt.exporting.formats import FORMATS
from stableprompt.runs.folder import CONFIG, RESULT, TASK, RunFolder
from stableprompt.tasks.archive import task_to_dict
from stableprompt.tasks.bundled_tasks import load_bundled
from stableprompt.tasks.templates import TargetTemplate
from tests.cli.conftest import assert_fits, invoke_app
from tests.cli.test_listing import run_without_torch

PROMPT = "Which team {should} answer this? {{ é }}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, as far as an export reads it."""
    task = load_bundled("support")
    folder = RunFolder.create(tmp_path_factory.mktemp("runs") / "run")
    folder.write_json(CONFIG, make_config().model_dump(mode="json"))
    folder.write_json(TASK, task_to_dict(task))
    estimate = {"score": 0.5, "low": 0.25, "high": 0.75, "n": 12, "metric": "accuracy"}
    result: dict[str, Any] = {
        "prompt": PROMPT,
        "instruction": PROMPT,
        "messages": [{"role": "system", "content": PROMPT}, {"role": "user", "content": "{text}"}],
        "template": asdict(TargetTemplate("system", input_format="{text}")),
        "layout": asdict(task.layout),
        "test": estimate,
        "seed_test": estimate,
        "setting": {
            "task": "support",
            "kind": "classification",
            "target": "openai/gpt-4o-mini",
            "versions": {"stableprompt": "0.1.0"},
        },
    }
    folder.write_json(RESULT, result)
    return folder.path


@pytest.mark.parametrize("form", FORMATS)
def test_a_form_is_printed_or_written_the_same_without_torch(
    form: str, run: Path, tmp_path: Path
) -> None:
    printed = invoke_app("export", run, "--to", form)
    assert printed.exit_code == 0
    assert PROMPT.split()[0] in printed.stdout
    path = tmp_path / "out"
    written = invoke_app("export", run, "--to", form, "--output", path)
    assert (written.exit_code, written.stdout) == (0, "")
    assert path.read_bytes() == printed.stdout_bytes
    again = invoke_app("export", run, "--to", form, "--output", path)
    assert again.exit_code == 2
    assert "is there already" in again.stderr


def test_no_torch_is_loaded(run: Path) -> None:
    done = run_without_torch("export", str(run), "--to", "python")
    assert done.returncode == 0, done.stderr
    names: dict[str, Any] = {}
    exec(done.stdout, names)
    assert names["messages"](" hi ")[1] == {"role": "user", "content": "hi"}


def test_one_input_is_put_in(run: Path) -> None:
    done = invoke_app("export", run, "--to", "messages", "--input", " Where is {it}? ")
    said = [{"role": "system", "content": PROMPT}, {"role": "user", "content": "Where is {it}?"}]
    assert json.loads(done.stdout) == said
    plain = invoke_app("export", run, "--to", "messages")
    assert json.loads(plain.stdout)[1]["content"] == "{text}"


def test_the_provider_is_named_as_promptfoo_does(run: Path) -> None:
    assert '- "openai:chat:gpt-4o-mini"' in invoke_app("export", run, "--to", "promptfoo").stdout


def test_what_cannot_be_exported_says_why(run: Path, tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        done = invoke_app("export", *arguments)
        assert done.exit_code == 2
        assert len(done.stderr.splitlines()) == 1
        return str(done.stderr)

    forms = "text, json, messages, promptfoo, langchain, dspy, mlflow, python"
    assert f"cannot be exported to 'langchian'; write one of {forms}" in refused(
        run, "--to", "langchian"
    )
    assert "is not a run folder" in refused(tmp_path)
    assert "--input goes with --to messages" in refused(run, "--input", "x")
    folder = RunFolder.create(tmp_path / "half")
    for name in (CONFIG, TASK):
        folder.write_text(name, (run / name).read_text(encoding="utf-8"))
    assert (
        f"is not finished, so there is no prompt to export; continue it with: stableprompt tune "
        f"--resume {folder.path}" in refused(folder.path)
    )
    folder.write_text(RESULT, '{"prompt": "x"}')
    assert "is damaged, or of another version" in refused(folder.path)
    missing = tmp_path / "no" / "folder.txt"
    assert "cannot be written" in refused(run, "--output", missing)


def test_the_help_fits() -> None:
    help_text = invoke_app("export", "--help").stdout
    assert_fits(help_text)
    assert all(form in help_text for form in FORMATS)
