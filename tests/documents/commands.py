"""What a command of a page must fulfil, program by program.

Ours is called in this process, with everything that it checks before the work begins; of others
is checked what they take from this repository.
"""

import re
import subprocess
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

from typer.testing import CliRunner

from stableprompt.cli import app
from stableprompt.models.targets.providers import PROVIDERS
from tests.documents.pages import MARK_FORM, ROOT
from tests.documents.shell import Command
from tests.documents.stage import Reached, Stage, put_run

_ELSEWHERE: Final = {"HF_TOKEN", "CUDA_VISIBLE_DEVICES"}
"""Environment variables of other programs."""
_NAMED_FOLDERS: Final = ("--run-dir", "--out")
"""Options whose folder need not exist."""


def problem_with(command: Command, stage: Stage, run: Path) -> str | None:
    """What is wrong with a command; None: nothing.

    Args:
        command: The command.
        stage: The current folder, in which it is played.
        run: A finished run, copied to wherever the command looks for one.
    """
    unknown = [name for name in command.variables if not _is_variable(name)]
    if unknown:
        return f"nothing reads the variable {unknown[0]}"
    if not command.program:
        return None
    check = _CHECKS.get(command.program)
    if check is None:
        return f"no check for {command.program!r}: write one, or put {MARK_FORM} above the block"
    return check(command.arguments, stage, run)


# --- ours ---


def _stableprompt(arguments: tuple[str, ...], stage: Stage, run: Path) -> str | None:
    given = list(arguments)
    for before, name in zip(["", *given], given, strict=False):
        if re.fullmatch(r"runs/[\w.-]+", name) and before not in _NAMED_FOLDERS:
            put_run(run, stage.folder / name, finished=before != "--resume")
    result = CliRunner().invoke(app, given, env={"COLUMNS": "80"})
    if isinstance(result.exception, Reached) or result.exit_code == 0:
        return None
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"{type(result.exception).__name__}: {result.exception}"
    return f"exit code {result.exit_code}: {_told(result.output)}"


def _told(output: str) -> str:
    return " ".join(output.replace("│", " ").split())[-300:]


def _python(arguments: tuple[str, ...], stage: Stage, run: Path) -> str | None:
    if arguments[:2] == ("-m", "stableprompt"):
        return _stableprompt(arguments[2:], stage, run)
    if arguments[:2] == ("-m", "venv"):
        return None
    if arguments[:1] == ("-m",) and arguments[1].startswith("benchmarks."):
        return _script(ROOT / f"{arguments[1].replace('.', '/')}.py", arguments[2:])
    if arguments and arguments[0].endswith(".py"):
        return _script(ROOT / arguments[0], arguments[1:])
    return f"no check for python {' '.join(arguments)}"


def _script(path: Path, arguments: tuple[str, ...]) -> str | None:
    if not path.is_file():
        return f"there is no {path.name}"
    source = path.read_text(encoding="utf-8")
    for name in arguments:
        if name.startswith("-") and not re.search(rf'add_argument\(\s*"{name}"', source):
            return f"{path.name} has no option {name}"
    return None


# --- make ---


def _make(arguments: tuple[str, ...], stage: Stage, run: Path) -> str | None:
    targets = [name for name in arguments if "=" not in name]
    variables = dict(name.split("=", 1) for name in arguments if "=" in name)
    made = subprocess.run(
        ["make", "--dry-run", "--always-make", *targets], cwd=ROOT, capture_output=True, text=True
    )
    if made.returncode:
        return made.stderr.strip()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in targets:  # one that is only said to be phony is made without a word
        if not re.search(rf"^{re.escape(name)}:", makefile, re.MULTILINE):
            return f"the Makefile has no target {name}"
    for name in variables:
        if not re.search(rf"^{name} [?:]?=", makefile, re.MULTILINE):
            return f"the Makefile has no variable {name}"
    more = tuple(variables.get("ARGS", "").split())
    if not more:
        return None
    if targets == ["demo"]:
        return _stableprompt(("tune", "support", *more), stage, run)
    if targets == ["bench"]:
        return _script(ROOT / "benchmarks" / "performance.py", more)
    missing = [name for name in more if not name.startswith("-") and not (ROOT / name).exists()]
    return f"there is no {missing[0]}" if missing else None


# --- pip and the shell ---


@cache
def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _pip(arguments: tuple[str, ...], stage: Stage, run: Path) -> str | None:
    words = list(arguments[1:])
    if arguments[:1] != ("install",):
        return f"no check for pip {arguments[0]}"
    for before, word in zip(["", *words], words, strict=False):
        if before == "-c" and not (ROOT / word).is_file():
            return f"there is no {word}"
        extras = re.fullmatch(r"(?:\.|stableprompt|.*\.whl)\[([\w,-]+)\]", word)
        for extra in extras[1].split(",") if extras else []:
            if extra not in _project()["optional-dependencies"]:
                return f"there is no extra {extra!r}"
        if "==" in word and word not in (ROOT / "Makefile").read_text(encoding="utf-8"):
            return f"the Makefile installs no {word}"
    return None


def _export(arguments: tuple[str, ...], stage: Stage, run: Path) -> str | None:
    unknown = [one for one in arguments if not _is_variable(one.partition("=")[0])]
    return f"nothing reads the variable {unknown[0]}" if unknown else None


@cache
def _is_variable(name: str) -> bool:
    keys = {one.key_variable for one in PROVIDERS.values()}
    if name in keys | _ELSEWHERE:
        return True
    sources = (ROOT / "src").rglob("*.py")
    return any(f'"{name}"' in path.read_text(encoding="utf-8") for path in sources)


def _nothing(arguments: tuple[str, ...], stage: Stage, run: Path) -> str | None:
    return None


def _cd(arguments: tuple[str, ...], stage: Stage, run: Path) -> str | None:
    return None if arguments == ("stableprompt",) else "pages stay in the folder of the project"


_CHECKS: Final[dict[str, Callable[[tuple[str, ...], Stage, Path], str | None]]] = {
    "stableprompt": _stableprompt,
    "python": _python,
    "python3": _python,
    "make": _make,
    "pip": _pip,
    "export": _export,
    "cd": _cd,
    ".": _nothing,
    "source": _nothing,
    "git": _nothing,
    "cat": _nothing,
}
