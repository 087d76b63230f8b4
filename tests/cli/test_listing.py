"""What answers at once: ``--help``, ``--version``, ``tasks``; none of it loads torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stableprompt.tasks.benchmarks.entries import benchmark_names, families
from stableprompt.tasks.bundled_tasks import bundled_names, load_bundled
from stableprompt.version import __version__
from tests.cli.conftest import assert_fits, invoke_app, options

# Imports of torch fail in this process, so that whoever tries is caught.
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from stableprompt.cli import main
main()
"""


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
    assert "One of appo, ppo-fixed, ppo-previous, best-of-n." in shown
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
