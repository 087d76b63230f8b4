"""Is a wheel whole? Run by `make dist-check` in an empty environment that has the wheel installed.

Nothing of the checkout may be imported, so this needs the standard library alone, and runs in a
folder of its own. It ends with a run with the embedded model, as short as one can be.
"""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import distribution
from pathlib import Path

BIN = Path(sys.executable).parent
SHORT = ["--method", "best-of-n", "--steps", "1"]
SHORT += ["--limit", "train=16", "--limit", "validation=8", "--limit", "test=8"]
# Else a checkout that the variable names would be imported instead.
CLEAN = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def say(*command: str) -> str:
    """What a command prints; one that fails ends this."""
    print("$", " ".join(command), flush=True)
    done = subprocess.run(command, capture_output=True, text=True, env=CLEAN)
    if done.returncode:
        sys.exit(f"exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def require(good: bool, what: str) -> None:
    """End where something is missing."""
    if not good:
        sys.exit(f"FAIL  {what}")
    print("ok   ", what, flush=True)


def check_files(dist: Path) -> None:
    """The wheel has what the source package has under src/, and the licences."""
    [wheel], [source] = dist.glob("*.whl"), dist.glob("*.tar.gz")
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(source) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    ours = {name.removeprefix("src/") for name in names if name.startswith("src/stableprompt/")}
    require(bool(ours) and ours <= in_wheel, f"the wheel has all {len(ours)} files of the package")
    shipped = {"README.md", "CITATION.cff", "docs/index.md", "mkdocs.yml", "tests/conftest.py"}
    require(shipped <= names, "the source package has documents and tests")
    kept = {name.rpartition("/")[2] for name in in_wheel if ".dist-info/licenses/" in name}
    licences = {"LICENSE", "THIRD_PARTY_NOTICES.md", "uplot.LICENSE.txt"}
    require(kept == licences, "the wheel has the licence files")
    require("stableprompt/py.typed" in in_wheel, "the wheel has py.typed")
    print(f"      {wheel.stat().st_size / 1e6:.1f} MB, source {source.stat().st_size / 1e6:.1f} MB")


def check_program() -> None:
    """The program runs from the wheel, and so does a run."""
    where = Path(str(distribution("stableprompt").locate_file("stableprompt/__init__.py")))
    require(where.is_relative_to(Path(sys.prefix)), f"installed in {sys.prefix}")
    program, module = str(BIN / "stableprompt"), [sys.executable, "-m", "stableprompt"]
    version = distribution("stableprompt").version
    require(say(program, "--version") == say(*module, "--version"), "both ways are one program")
    require(version in say(program, "--version"), f"version {version}")
    require("support" in say(program, "tasks"), "the bundled task is there")
    require("sst2" in say(program, "tasks"), "the catalogue is there")
    say(program, "doctor")
    say(program, "tune", "support", *SHORT, "--run-dir", "run")
    result = json.loads(Path("run/result.json").read_text(encoding="utf-8"))
    require(result["test"]["n"] == 8, f"a run: {result['prompt']!r}")


if __name__ == "__main__":
    check_files(Path(sys.argv[1]))
    check_program()
