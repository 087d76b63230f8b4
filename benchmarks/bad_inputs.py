"""What bad input is told, and how many damaged files every way in has seen, as Markdown tables.

    python -m benchmarks.bad_inputs --cases 3000 --model-cases 300 --out docs/results/bad_inputs.md

With ``--run-cases`` runs are continued from damaged folders, too, which takes longer.

Runs from a checkout. The program is called in a folder of its own, with a model of the tests; no
network is needed. An error that is none of the package's own is a bug: the table names its class,
and the exit code is 1.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.cli.conftest import options, write_rows
from tests.cli.test_bad_input import CASES as OPTIONS
from tests.cli.test_bad_input import write_files
from tests.fakes.tiny_model import save_tiny_model
from typer.testing import CliRunner

from benchmarks.fuzzing import Counts, doors, throw
from benchmarks.fuzzing_models import model_doors, run_doors
from stableprompt.cli import app
from stableprompt.runs.escapes import escaped

PICKLE = b"\x80\x04\x95\x1b\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x05mkdir\x94\x93\x94."
SHOWN = 230
_LONG = "x" * 5000
_EVIL_URL = "https://user:secret@host/v1"


def more_files(folder: Path) -> None:
    """Files that someone who means ill could send, beside those of the tests."""
    header = "text,label\n"
    texts = {
        "nul.csv": header + "a\0b,red\n",
        "quote.csv": header + '"a,red\nb,green\n',
        "wide.csv": header + "a,b,c\n",
        "semicolon.csv": "text;label\na;red\n",
        "twice.csv": "text,text,label\na,b,red\n",
        "half.jsonl": '{"text": "a \\ud83d", "label": "red"}\n' * 9,
        "deep.json": "[" * 100_000,
        "digits.json": '[{"text": "a", "label": ' + "9" * 5000 + "}]",
        "list.jsonl": "[1, 2]\n",
        "cut.jsonl": '{"text": "a", "lab',
        "tests.csv": "q,__expected\na,javascript: process.exit()\n",
        "file.csv": "q,__expected\na,file:///etc/passwd\n",
        "python.yaml": "steps: !!python/object/apply:os.system ['true']\n",
        "bomb.yaml": "a: &a [x, x]\nb: &b [*a, *a]\nsteps: *b\n",
        "deep.yaml": "a: " + "[" * 5000,
        "list.toml": 'steps = ["a"]\n',
        "plan.toml": 'tasks = "support"\n',
        "odd.toml": "tasks = ['support']\nbudgets = 3\n",
        "list/config.json": "[]",
        "list/task.json": "[]",
        "list/result.json": "[]",
    }
    for name, content in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    (folder / "not.parquet").write_bytes(b"PAR1" + b"\0" * 40 + b"PAR1")
    (folder / "linked").mkdir()
    for name in ("config.json", "task.json"):
        (folder / "linked" / name).write_text("{}", encoding="utf-8")
    (folder / "linked" / "steps.jsonl").symlink_to("/etc/passwd")
    for kind in ("bin", "safetensors", "index"):
        model = save_tiny_model(folder / f"pickled-{kind}")
        (model / "model.safetensors").unlink()
        name = "model.safetensors" if kind == "safetensors" else "pytorch_model.bin"
        (model / name).write_bytes(PICKLE)
        if kind == "index":
            index = {"metadata": {}, "weight_map": {"lm_head.weight": "pytorch_model.bin"}}
            (model / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    model = save_tiny_model(folder / "coded")
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config |= {"auto_map": {"AutoConfig": "evil.C"}, "model_type": "evil"}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "writer").mkdir()
    (folder / "writer" / "writer.json").write_text('{"version": 1}', encoding="utf-8")


def cases() -> Iterator[tuple[str, list[str]]]:
    """Every bad input with a name: those of the tests, then hostile ones."""
    for name, (arguments, _) in OPTIONS.items():
        yield name, arguments
    files = {
        "NUL byte": "nul.csv",
        "quote without an end": "quote.csv",
        "more fields than the header": "wide.csv",
        "semicolons": "semicolon.csv",
        "a column twice": "twice.csv",
        "half a character": "half.jsonl",
        "100,000 brackets": "deep.json",
        "a number of 5000 digits": "digits.json",
        "a list in JSON Lines": "list.jsonl",
        "JSON Lines cut short": "cut.jsonl",
        "promptfoo: JavaScript": "tests.csv",
        "promptfoo: a file to read": "file.csv",
        "no Parquet file": "not.parquet",
        "escape sequences in the file's name": "no\x1b[2J\u202e.csv",
        "a name of 5000 characters": _LONG,
        "a folder": "full",
        "hub: a path upwards": "hub:../../etc",
    }
    for name, file in files.items():
        yield name, ["tune", file]
    told = {
        "a Python tag": "python.yaml",
        "references in YAML": "bomb.yaml",
        "5000 brackets in YAML": "deep.yaml",
        "a list for a number": "list.toml",
    }
    for name, file in told.items():
        yield f"settings: {name}", ["tune", "support", "--config", file]
    for name, given in {
        "a password in the URL": f"target.api.base_url={_EVIL_URL}",
        "a key for its variable": "target.api.key_variable=sk-secret-123",
        "another scheme": "target.api.base_url=file:///etc/passwd",
        "half a character": "target.separator=\udcff",
        "infinity": "ppo.learning_rate=inf",
        "not a number": "agent.temperature=.nan",
    }.items():
        yield f"--set: {name}", ["tune", "support", *options(given)]
    yield (
        "--base-url with a password",
        ["tune", "support", "--target", "m", "--base-url", _EVIL_URL],
    )
    yield "--seed-prompt, half a character", ["tune", "support", "--seed-prompt", "a \udcff"]
    yield "--target of no module", ["tune", "support", "--target", "no_such_module:answer"]
    yield "--metric of no module", ["tune", "rows.csv", "--metric", "no_such_module:f"]
    yield "--run-dir that cannot be", ["tune", "support", "--run-dir", _LONG]
    yield "--max-time", ["tune", "support", "--max-time", "soon"]
    yield "plan: a text for a list", ["compare", "--plan", "plan.toml"]
    yield "plan: an unknown name", ["compare", "--plan", "odd.toml"]
    yield "run folder: lists for settings", ["evaluate", "support", "--run", "list"]
    yield "run folder: a link in it", ["tune", "--resume", "linked"]
    for name in (
        "pickled-bin",
        "pickled-safetensors",
        "pickled-index",
        "coded",
        "~nobody/x",
        _LONG,
    ):
        yield f"--agent {name[:20]}", ["tune", "support", "--agent", name, "--target", name]
    yield "--agent-adapter without one", ["tune", "support", "--agent-adapter", "full"]
    yield "write: a damaged writer", ["write", "writer", "--input", "x"]
    yield "write: no such writer", ["write", _LONG, "--input", "x"]


def call(arguments: list[str]) -> tuple[int, str]:
    """Exit code and what was said; an error that is not caught is named."""
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return 1, f"BUG: {type(done.exception).__name__}: {done.exception}"
    return done.exit_code, done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""


def table_of_inputs(folder: Path) -> tuple[list[str], int]:
    """A row for each bad input; how many were not refused as they should be."""
    rows, wrong = [], 0
    for name, arguments in cases():
        code, said = call(arguments)
        wrong += code != 2 or "secret" in said
        told = said.replace(str(folder), "FOLDER").removeprefix("stableprompt: ")
        shown = told if len(told) <= SHOWN else f"{told[:SHOWN]}…"
        words = " ".join(word if len(word) < 50 else f"{word[:20]}…" for word in arguments)
        rows.append(f"| {escaped(name)} | {escaped(words)} | {code} | {escaped(shown)} |")
    return rows, wrong


def row_of(name: str, counts: Counts) -> str:
    """One door of the fuzz table."""
    others = ", ".join(f"{n} {kind}" for kind, n in sorted(counts.others.items())) or "0"
    seconds = counts.longest_seconds
    return (
        f"| {name} | {counts.cases} | {counts.read} | {counts.refused} | {others} | {seconds:.1f} |"
    )


def main() -> None:
    """Make the tables, and write them down."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--model-cases", type=int, default=30)
    parser.add_argument("--run-cases", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    out = given.out.resolve() if given.out else None
    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    write_files(folder)
    write_rows(folder / "rows.csv", 60)
    more_files(folder)
    rows, wrong = table_of_inputs(folder)
    scratch, fuzz = folder / "scratch", []
    started = time.perf_counter()
    for count, found in (
        (given.cases, doors()),
        (given.model_cases, model_doors(folder / "models")),
        (given.run_cases, run_doors(folder / "runs-made") if given.run_cases else {}),
    ):
        for name, (door, seeds) in found.items():
            counts = throw(door, seeds, count, given.seed, scratch)
            wrong += sum(counts.others.values())
            fuzz.append(row_of(name, counts))
            print(fuzz[-1], flush=True)
    text = TEXT.format(
        command=f"python -m benchmarks.bad_inputs --cases {given.cases} --model-cases "
        f"{given.model_cases} --run-cases {given.run_cases} --seed {given.seed}",
        inputs="\n".join(rows),
        fuzz="\n".join(fuzz),
        number=len(rows),
        of_runs=OF_RUNS if given.run_cases else "",
        minutes=(time.perf_counter() - started) / 60,
    )
    if out is None:
        print(text)
    else:
        out.write_text(text, encoding="utf-8")
    print(f"{wrong} were not as they should be", file=sys.stderr)
    sys.exit(bool(wrong))


OF_RUNS = """

A run that is continued from a damaged folder counts as read only if it ends with the very result
of the undamaged one; with another, it is an OtherResultError."""

TEXT = """# Bad input, and what it is told

```
{command}
```

## By name

{number} bad inputs, each given to the program in a folder of its own. Exit code 2 and one line on
stderr is what every one of them should come to. Long words are cut here; FOLDER stands for the
folder.

| input | arguments | exit | said |
|---|---|---|---|
{inputs}

## By chance

Whole files are damaged by seed: cut short, bytes flipped or left out, hostile texts put in, JSON
values exchanged or taken out, or other bytes altogether, one to six times each. *Read*: what was
left could be used. *Refused*: one of the package's own errors, on one line. *Other errors* is a
bug. Seconds are those of the slowest case. All took {minutes:.0f} minutes.{of_runs}

| way in | cases | read | refused | other errors | slowest |
|---|---|---|---|---|---|
{fuzz}
"""

if __name__ == "__main__":
    main()
