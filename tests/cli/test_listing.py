"""What answers at once: ``--help``, ``--version``, ``tasks``; none of it loads torch."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from stableprompt.cli import app
from stableprompt.cli.plan_file import PlanFile
from stableprompt.cli.target_options import DEFAULTS
from stableprompt.config import make_config
from stableprompt.presets import METHODS
from stableprompt.tasks.benchmarks.entries import benchmark_names, families
from stableprompt.tasks.bundled_cards import bundled_names
from stableprompt.tasks.bundled_tasks import load_bundled
from stableprompt.version import __version__
from tests.cli.conftest import assert_fits, invoke_app, options

# Imports of torch fail in this process, so that whoever tries is caught.
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from stableprompt.cli import main
main()
"""


# Each of these takes longer to load than it takes to print a help text.
SLOW = {
    "accelerate",
    "email",  # importlib.metadata loads it
    "importlib.metadata",
    "numpy",
    "peft",
    "pydantic",
    "ray",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
    "yaml",
}
LOADED = """
import json, sys
before = set(sys.modules)
from stableprompt.cli import main
try:
    main()
finally:
    print(json.dumps(sorted(set(sys.modules) - before)), file=sys.stderr)
"""

# What typer loads for any help text: no program that shows one by it answers sooner.
LEAST = "import typer, typer.rich_utils"
AT_ONCE = 0.3  # seconds more than a bare interpreter takes


def run_without_torch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments], capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], "Find the best prompt"),
        (["--version"], f"stableprompt {__version__}"),
        (["tasks"], "support"),
        (["tasks", "support"], "right answer"),
        (["tune", "--help"], "--resume"),
        (["evaluate", "--help"], "--split"),
    ],
)
def test_it_needs_no_torch(arguments: list[str], expected: str) -> None:
    done = run_without_torch(*arguments)
    assert done.returncode == 0
    assert done.stderr == ""
    assert expected in done.stdout


def test_the_check_catches_whoever_imports_torch() -> None:
    done = run_without_torch("doctor")  # looks at the devices that torch sees
    assert done.returncode != 0
    assert "torch" in done.stderr


def test_help_says_the_defaults_of_the_settings() -> None:
    for name, told in DEFAULTS.items():
        found: Any = make_config()
        for part in name.split("."):
            found = getattr(found, part)
        assert told == str(found)
    plan = PlanFile.model_construct()
    assert (plan.budget, plan.seeds, str(plan.out)) == (2000, [0], "runs/comparison")


def test_no_help_text_loses_what_stands_in_brackets() -> None:
    """They are markup, and vanish; a default has an argument of its own."""
    told = {
        (name, parameter.name): getattr(parameter, "help", None) or ""
        for name, command in vars(get_command(app))["commands"].items()
        for parameter in command.params
    }
    assert len(told) > 100
    assert [where for where, text in told.items() if "[" in text] == []
    assert "[default: (runs/DATA-TIME)]" in " ".join(invoke_app("tune", "--help").output.split())


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["tune", "--help"], ["evaluate", "--help"], ["tasks"]],
    ids=" ".join,
)
def test_it_loads_nothing_slow(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STABLEPROMPT_DATA", raising=False)  # a value that is given is converted
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stderr))
    assert "stableprompt.cli.tune" in loaded
    assert loaded & SLOW == set()


def test_a_task_on_show_loads_more_so_the_check_can_fail() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, "tasks", "support"], capture_output=True, text=True
    )
    assert {"numpy", "pydantic"} <= set(json.loads(done.stderr))


def test_it_answers_at_once() -> None:
    program = [sys.executable, "-m", "stableprompt"]
    commands = {
        "bare": [sys.executable, "-c", "pass"],
        "least": [sys.executable, "-c", LEAST],
        "help": [*program, "tune", "--help"],
        "list": [*program, "tasks"],
    }
    # Other work on the machine only ever adds time, so the best of some runs says most. They take
    # turns: what slows all of them slows what they are compared with.
    best = dict.fromkeys(commands, float("inf"))
    for _ in range(5):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            best[name] = min(best[name], time.perf_counter() - started)
    allowed = max(AT_ONCE, 2 * (best["least"] - best["bare"]))  # where the machine is slow
    assert best["help"] - best["bare"] < allowed, best
    assert best["list"] - best["bare"] < allowed, best


def test_the_installed_program_and_the_module_are_one() -> None:
    program = Path(sys.executable).parent / "stableprompt"
    for command in ([program], [sys.executable, "-m", "stableprompt"]):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout == f"stableprompt {__version__}\n"


@pytest.mark.parametrize("command", ["tune", "evaluate", "tasks", "doctor"])
def test_help_names_every_command_and_fits(command: str) -> None:
    overview, own = invoke_app("--help"), invoke_app(command, "--help")
    assert overview.exit_code == own.exit_code == 0
    assert command in overview.stdout
    assert_fits(overview.stdout)
    assert_fits(own.stdout)


def test_help_of_tune_offers_every_method_and_preset() -> None:
    shown = " ".join(invoke_app("tune", "--help").stdout.replace("│", " ").split())
    assert f"One of {', '.join(METHODS)}." in shown
    assert "appo, appo-paper, ppo-fixed, ppo-previous, grpo, best-of-n, few-shot, seed" in shown
    assert "One of default, paper." in shown


def test_tasks_lists_bundled_tasks_and_families_of_benchmarks() -> None:
    done = invoke_app("tasks")
    assert done.exit_code == 0
    assert_fits(done.stdout)
    for name in (*bundled_names(), *(family.name for family in families())):
        assert f"{name} " in done.stdout
    assert "ii/antonyms" not in done.stdout


def test_tasks_lists_the_members_of_a_family() -> None:
    done = invoke_app("tasks", "ii/*")
    assert done.exit_code == 0
    assert_fits(done.stdout)
    members = [name for name in benchmark_names() if name.startswith("ii/")]
    assert len(members) == 24
    assert all(f"{name} " in done.stdout for name in members)


def test_tasks_shows_one_task_as_the_target_will_see_it() -> None:
    done = invoke_app("tasks", "support")
    assert done.exit_code == 0
    task = load_bundled("support")
    for part in (
        "licence:              Apache-2.0",
        "kind:                 classification",
        "metric:               accuracy",
        "examples:             124 train, 60 validation, 120 test",
        f"answers:              {', '.join(task.labels)}",
        "majority class:       0.250 on test",
    ):
        assert part in done.stdout
    for example in task.train[:3]:
        shown = f"[system]\n{task.seed_prompt}\n[user]\n{example.text}\n"
        assert f"{shown}right answer: {task.shown_answer(example)}\n" in done.stdout
    assert task.train[3].text not in done.stdout
    assert not any(example.text in done.stdout for example in (*task.validation, *task.test))


def test_tasks_shows_it_in_the_template_that_is_set() -> None:
    settings = ("target.position=user", "target.separator=' // '", "target.input_format=<{text}>")
    done = invoke_app("tasks", "support", *options(*settings))
    task = load_bundled("support")
    assert f"[user]\n{task.seed_prompt} // <{task.train[0].text}>\nright" in done.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [("suport", "did you mean support"), ("zz/*", "no family of tasks 'zz/*'")],
)
def test_tasks_knows_no_such_name(name: str, message: str) -> None:
    done = invoke_app("tasks", name)
    assert done.exit_code == 2
    assert message in done.stderr


def test_an_unknown_command_is_refused() -> None:
    done = invoke_app("tuen")
    assert done.exit_code == 2
    assert "tuen" in done.stderr


def test_characters_that_the_terminal_cannot_show_become_question_marks(tmp_path: Path) -> None:
    rows = "".join(f"text {i},{'größe' if i % 2 else 'klein'}\n" for i in range(60))
    (tmp_path / "rows.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "tune", "rows.csv"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert "UnicodeEncodeError" not in done.stderr
    assert "labels: klein, gr??e" in done.stdout
