"""The exports as the packages themselves read them; skipped where a package is not installed.

promptfoo is a program of npm: ``STABLEPROMPT_PROMPTFOO`` names it, as in
``node_modules/.bin/promptfoo``.
"""

import json
import os
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from stableprompt.exporting.formats import FORMATS
from stableprompt.exporting.pieces import variables
from stableprompt.exporting.shipped import ShippedPrompt
from tests.exporting.prompts import LAYOUTS, NASTY, TEMPLATES, scored, ship

CASES = [
    ship(prompt, template, layout)
    for prompt, template, layout in product(NASTY, TEMPLATES, LAYOUTS)
]
WORDS = ("{x} {{ y }} {% z %} \\1 \\g<0>", "C:\\new {0} é😀", "plain", "}} %} {")


def fields_of(shipped: ShippedPrompt) -> dict[str, str]:
    """A value for each field, each with markup of its own."""
    return {
        name: "A. red\nB. {green}" if name == "choices" else WORDS[number % len(WORDS)]
        for number, name in enumerate(variables(shipped))
    }


def run_source(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "exported"}
    exec(compile(source, "export.py", "exec"), names)
    return names


def named(shipped: ShippedPrompt) -> dict[str, str]:
    names = variables(shipped)
    return {names[field]: value for field, value in fields_of(shipped).items()}


def test_langchain_renders_what_was_scored() -> None:
    pytest.importorskip("langchain_core", reason="langchain-core is not installed")
    for shipped in CASES:
        prompt = run_source(FORMATS["langchain"](shipped))["prompt"]
        assert set(prompt.input_variables) <= named(shipped).keys()
        made = prompt.invoke(named(shipped))
        expected = scored(shipped, fields_of(shipped))
        if shipped.is_plain:
            assert made.to_string() == expected[0]["content"]
            continue
        roles = {"system": "system", "human": "user"}
        said = [{"role": roles[m.type], "content": m.content} for m in made.to_messages()]
        assert said == expected


def test_mlflow_formats_what_was_scored() -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    from mlflow.entities.model_registry import PromptVersion

    for shipped in CASES:
        template = run_source(FORMATS["mlflow"](shipped))["TEMPLATE"]
        made = PromptVersion("name", 1, template).format(**named(shipped))
        expected = scored(shipped, fields_of(shipped))
        assert made == (expected[0]["content"] if shipped.is_plain else expected)


@pytest.mark.filterwarnings("default")  # of sqlalchemy
def test_mlflow_keeps_what_was_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    pytest.importorskip("sqlalchemy", reason="the registry of mlflow needs sqlalchemy")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    for number, shipped in enumerate(CASES[::17]):
        register = run_source(FORMATS["mlflow"](shipped))["register"]
        register(f"prompt-{number}")
        kept = mlflow.genai.load_prompt(f"prompts:/prompt-{number}/1")
        expected = scored(shipped, fields_of(shipped))
        made = kept.format(**named(shipped))
        assert made == (expected[0]["content"] if shipped.is_plain else expected)
        assert kept.tags["test_score"] == "0.7500"


def test_dspy_sends_what_was_scored() -> None:
    dspy = pytest.importorskip("dspy", reason="dspy is not installed")
    from dspy import lm15

    sent: list[Any] = []

    class Recorder:
        def complete(self, request: Any) -> Any:
            system = [{"role": "system", "content": request.system}] if request.system else []
            said = [{"role": m.role, "content": m.text} for m in request.messages]
            sent.append([*system, *said])
            return lm15.Response(
                id=None,
                model=request.model,
                message=lm15.Message.assistant(" yes \n"),
                finish_reason="stop",
                usage=lm15.Usage(input_tokens=0, output_tokens=0, total_tokens=0),
            )

    lm = dspy.LM("recorder", engine=Recorder(), cache=False, num_retries=0)
    with dspy.context(lm=lm, disable_history=True):
        for shipped in CASES:
            sent.clear()
            program = run_source(FORMATS["dspy"](shipped))["program"]
            answer = program(**named(shipped))
            assert sent == [scored(shipped, fields_of(shipped))]
            assert answer.answer == "yes"
            assert [p.signature.instructions for p in program.predictors()]


def test_promptfoo_sends_what_was_scored(tmp_path: Path) -> None:
    program = os.environ.get("STABLEPROMPT_PROMPTFOO")
    if not program:
        pytest.skip("promptfoo is not installed (STABLEPROMPT_PROMPTFOO names its program)")
    command = [str(Path(program).resolve())]
    quiet = {"PROMPTFOO_DISABLE_TELEMETRY": "1", "PROMPTFOO_DISABLE_UPDATE": "1"}
    environment = {**os.environ, **quiet, "PROMPTFOO_CONFIG_DIR": str(tmp_path / "state")}
    (tmp_path / "record.js").write_text(
        "const fs = require('fs');\n"
        "module.exports = class { id() { return 'record'; } async callApi(prompt) {\n"
        "  fs.appendFileSync('got.jsonl', JSON.stringify(prompt) + '\\n');\n"
        "  return { output: ' yes\\n ' }; } };\n",
        encoding="utf-8",
    )

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [*command, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    for number, template in enumerate(TEMPLATES):
        (tmp_path / "got.jsonl").unlink(missing_ok=True)
        layout = LAYOUTS[number]
        shipped = [ship(prompt, template, layout) for prompt in NASTY]
        fields = fields_of(shipped[0])
        if template.format == "plain":  # promptfoo renders the variables of raw texts
            fields = {name: "A. it's plain" for name in fields}
        configs = []
        for n, one in enumerate(shipped):
            row = {"fields": fields, "label": "1"}
            told = ship(one.prompt, template, layout, tests=(row,) if n == 0 else ())
            path = tmp_path / f"{number}-{n}.yaml"
            path.write_text(FORMATS["promptfoo"](told), encoding="utf-8", newline="\n")
            configs.append(str(path))
        assert "valid" in run("validate", "-c", configs[0])
        each = [part for path in configs for part in ("-c", path)]
        told = run("eval", *each, "-r", "file://record.js", "--no-cache", "--no-table", "-j", "1")
        assert f"{len(NASTY)} passed" in told, told
        lines = (tmp_path / "got.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        got = [json.loads(line) for line in lines]
        expected = [scored(one, fields) for one in shipped]
        if template.format == "plain":
            assert sorted(got) == sorted(messages[0]["content"] for messages in expected)
        else:
            key = json.dumps
            assert sorted((json.loads(g) for g in got), key=key) == sorted(expected, key=key)
