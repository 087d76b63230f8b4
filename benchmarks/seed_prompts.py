"""Score the seed prompt of every task by name with one target, on at most N test examples each.

    python benchmarks/seed_prompts.py --data-dir FOLDER

writes ``docs/results/seed_prompts.json`` after every task (a second start goes on where the first
one stopped) and, at the end, the table ``docs/results/seed_prompts.md``.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as the program does, before torch is loaded

from stableprompt.build import answer_room, evaluate_with, load_target
from stableprompt.config import make_config
from stableprompt.errors import DataError
from stableprompt.tasks.benchmarks.entries import benchmark_names, find_benchmark
from stableprompt.tasks.bundled_tasks import bundled_names
from stableprompt.tasks.named import load_named
from stableprompt.tasks.splits import SPLIT_NAMES
from stableprompt.tuning.records import Silence
from stableprompt.version import __version__

RESULTS = Path(__file__).parent.parent / "docs" / "results"
MOST = {"classification": 100, "multiple_choice": 50, "generation": 50}


def main() -> None:
    """Score what is not scored yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--only", nargs="*", help="names of tasks; all by default")
    arguments = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "seed_prompts.json"
    done = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"tasks": {}}
    # Long answers come in small batches by default, which is slow.
    config = make_config({"target": {"model": arguments.model, "max_batch_tokens": 16384}})
    target = load_target(config)
    dtype = str(target.dtype).removeprefix("torch.")
    done["setting"] = {
        "model": arguments.model, "dtype": dtype, "split": "test",
        "stableprompt": __version__, "machine": platform.machine(),
    }  # fmt: skip
    for name in arguments.only or [*bundled_names(), *benchmark_names()]:
        if name in done["tasks"]:
            continue
        kind = "classification" if name in bundled_names() else find_benchmark(name).kind
        try:
            limit = {"limit": {"test": MOST[kind]}}
            task = load_named(name, data_dir=arguments.data_dir, overrides=limit)
        except DataError as error:
            print(f"{name}: left out ({error})", flush=True)
            continue
        started = time.perf_counter()
        estimate = evaluate_with(task, config, target, "test", Silence())
        row = {
            "kind": task.kind,
            "metric": task.metric.name,
            "loaded": {split: len(task.splits.part(split)) for split in SPLIT_NAMES},
            "trivial": task.trivial_score("test"),
            "score": estimate.score,
            "low": estimate.low,
            "high": estimate.high,
            "n": estimate.n,
            "near_trivial": estimate.low <= task.trivial_score("test"),
            "max_answer_tokens": answer_room(task, config, target),
            "seconds": round(time.perf_counter() - started, 1),
        }
        done["tasks"][name] = row
        print(f"{name}: {estimate.score:.3f} (trivial {row['trivial']:.3f})", flush=True)
        path.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "seed_prompts.md").write_text(table(done), encoding="utf-8")


def table(done: dict[str, Any]) -> str:
    """The results as Markdown."""
    setting = done["setting"]
    lines = [
        "# What the seed prompts score",
        "",
        f"Every task by name: its seed prompt, with `{setting['model']}` ({setting['dtype']}) as "
        "the target, on at most 100 test examples; the template is the default. "
        "*Trivial* is the score of the best answer that is the same for every example (majority "
        "class, best letter, most frequent reference). Flagged: the score's 95 % interval does "
        "not lie above it. Made by `benchmarks/seed_prompts.py`; the figures are in "
        "`seed_prompts.json`.",
        "",
        "| task | kind | metric | train / validation / test | n | trivial | score | flagged |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in done["tasks"].items():
        sizes = " / ".join(str(size) for size in row["loaded"].values())
        lines.append(
            f"| {name} | {row['kind'].replace('_', ' ')} | {row['metric']} | {sizes} | {row['n']} "
            f"| {row['trivial']:.3f} | {row['score']:.3f} [{row['low']:.3f}, {row['high']:.3f}] "
            f"| {'yes' if row['near_trivial'] else ''} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
