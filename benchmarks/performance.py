"""Measure how fast and how small it is here, against controls, in one run.

    python benchmarks/performance.py --data-dir FOLDER            # all of it
    python benchmarks/performance.py --quick                      # a few minutes
    python benchmarks/performance.py --only update step           # these, into the same file
    python benchmarks/performance.py --markdown                   # the results as Markdown

Ratios are of medians over rounds in which the contestants take turns. The results are written
after every section, so that a run which is stopped goes on with ``--only`` the missing ones.
"""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as the program does, before torch is loaded
sys.path.insert(0, str(Path(__file__).parent.parent))  # the same imports for scripts and tests

import torch
from transformers.utils.logging import disable_progress_bar

from benchmarks import scoring
from benchmarks.bench import WHOLE_MINUTES, Bench
from benchmarks.measure import machine, run_alone, summary
from benchmarks.report import markdown, table
from benchmarks.training import Training
from benchmarks.workload import load_workload
from stableprompt.errors import StablePromptError
from stableprompt.version import __version__

LATEST = Path(__file__).parent / "results" / "latest.json"
SECTIONS = (
    "startup", "scoring", "bf16", "long", "update", "step", "profile", "memory", "growth",
)  # fmt: skip

_TIMED = """
import json, subprocess, sys, time
start = time.perf_counter()
subprocess.run([sys.executable, *{arguments!r}], check=True, stdout=subprocess.DEVNULL)
print(json.dumps({{"seconds": time.perf_counter() - start}}))
"""
_LOADED = """
import json, time
start = time.perf_counter()
from stableprompt.models.loading import load_model
imported = time.perf_counter()
load_model({name!r}, device={device!r}, dtype={dtype!r})
loaded = time.perf_counter()
load_model({name!r}, device={device!r}, dtype={dtype!r})
again = time.perf_counter() - loaded
print(json.dumps({{"import": imported - start, "load": loaded - imported, "again": again}}))
"""


def main() -> None:
    """Measure, and show."""
    options = _parse()
    if options.markdown:
        print(markdown(json.loads(options.output.read_text(encoding="utf-8"))))
        return
    warnings.filterwarnings("ignore", category=FutureWarning)
    disable_progress_bar()
    try:
        bench = _make(options)
        _run(bench, options.only or SECTIONS)
    except StablePromptError as error:
        sys.exit(f"error: {error}")
    print(f"\n{table(bench.results)}\n\n{options.output}")


def _run(bench: Bench, wanted: Collection[str]) -> None:
    sections = _sections(bench)
    for name in SECTIONS:
        if name in wanted:
            bench.say(f"--- {name}")
            sections[name]()
            bench.save()
    bench.measure_ceiling(bench.dtype)  # once more, so that a drift shows
    bench.save()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, help="the benchmarks' data; $STABLEPROMPT_DATA")
    parser.add_argument("--output", type=Path, default=LATEST)
    parser.add_argument("--model", default="smollm2-135m", help="agent and target")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--prompts", type=int, help="P; 8, with --quick 3")
    parser.add_argument("--examples", type=int, help="N; 32, with --quick 8")
    parser.add_argument("--repeats", type=int, help="rounds at most; 3, with --quick 2")
    parser.add_argument(
        "--minutes",
        type=float,
        help="about so many for all; slow sections then take fewer rounds, but one at least",
    )
    parser.add_argument("--quick", action="store_true", help="a smaller workload")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="these sections")
    parser.add_argument("--markdown", action="store_true", help="show the results of --output")
    return parser.parse_args()


def _make(options: argparse.Namespace) -> Bench:
    request: dict[str, Any] = {
        "settings": {
            "device": options.device,
            "dtype": options.dtype,
            "agent": {"model": options.model},
            "target": {"model": options.model},
        },
        "num_prompts": options.prompts or (3 if options.quick else 8),
        "num_examples": options.examples or (8 if options.quick else 32),
    }
    bench = Bench(
        load_workload(options.data_dir, **request),
        rounds=options.repeats or (2 if options.quick else 3),
        minutes=options.minutes or (6 if options.quick else WHOLE_MINUTES),
        output=options.output,
        data_dir=options.data_dir,
        request=request,
        quick=options.quick,
    )
    settings = {
        "model": bench.model_name,
        "task": bench.workload.task.name,
        "device": bench.device.type,
        "dtype": options.dtype,
        "prompts": request["num_prompts"],
        "examples": request["num_examples"],
        "quick": options.quick,
        "stableprompt": __version__,
    }
    if options.only and options.output.exists():
        bench.results = json.loads(options.output.read_text(encoding="utf-8"))
        if bench.results["settings"] != settings:
            sys.exit(f"error: {options.output} has other settings; give another --output")
    bench.results |= {"machine": machine(bench.device), "settings": settings}
    bench.measure_ceiling(bench.dtype)
    return bench


def _sections(bench: Bench) -> dict[str, Callable[[], None]]:
    training = Training(bench)
    return {
        "startup": lambda: startup(bench),
        "scoring": lambda: scoring.scoring(bench),
        "bf16": lambda: scoring.bf16(bench),
        "long": lambda: scoring.long_prompts(bench),
        "update": training.update,
        "step": training.step,
        "profile": training.profile,
        "memory": training.memory,
        "growth": lambda: scoring.growth(bench),
    }


def startup(bench: Bench) -> None:
    """A bare interpreter, the program's help, and the model."""
    plain, helped = [], []
    for _ in range(1 + 2 * bench.rounds):
        plain.append(_seconds("-c", "pass"))
        helped.append(_seconds("-m", "stableprompt", "--help"))
    config = bench.workload.config
    code = _LOADED.format(name=config.target.model, device=config.device, dtype=config.dtype)
    loads = [run_alone("-c", code) for _ in range(bench.rounds)]
    bench.results["startup"] = {
        "what": "seconds of wall clock, each a process of its own; files in the page cache",
        "python": summary(plain[1:]),
        "help": summary(helped[1:]),
        "help_above_python": summary([b - a for a, b in zip(plain, helped, strict=True)][1:]),
        "import_models": summary([load["import"] for load in loads]),
        "load_model": summary([load["load"] for load in loads]),
        "load_model_again": summary([load["again"] for load in loads]),
    }


def _seconds(*arguments: str) -> float:
    return float(run_alone("-c", _TIMED.format(arguments=arguments))["seconds"])


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
