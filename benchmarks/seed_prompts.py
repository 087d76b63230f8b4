"""Load every task by name, and score its seed prompt with one target on some test examples.

    python benchmarks/seed_prompts.py --data-dir FOLDER

writes ``docs/results/seed_prompts.json`` and the table ``seed_prompts.md`` after every task. It
can be stopped at any time; a second start scores what is not scored yet.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as the program does, before torch is loaded

from stableprompt.config import TuneConfig, make_config
from stableprompt.evaluating import evaluate_with
from stableprompt.models.targets.local import LocalTarget
from stableprompt.speakers import load_target
from stableprompt.tasks.benchmarks.entries import benchmark_names, find_benchmark
from stableprompt.tasks.bundled_cards import bundled_names
from stableprompt.tasks.named import load_named
from stableprompt.tasks.splits import SPLIT_NAMES
from stableprompt.tasks.task import Task
from stableprompt.tuning.records import Silence
from stableprompt.tuning.room import answer_room
from stableprompt.version import __version__

RESULTS = Path(__file__).parent.parent / "docs" / "results"
MOST = {"classification": 50, "multiple_choice": 50, "generation": 25}
SUBJECTS, MOST_OF_SUBJECT = "mmlu/", 10  # 57 tasks that are parts of one: scored last, briefly


def main() -> None:
    """Load all, then score what is not scored yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--only", nargs="*", help="names of tasks; all by default")
    arguments = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "seed_prompts.json"
    done = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"tasks": {}}
    rows: dict[str, Any] = done["tasks"]
    names = arguments.only or [*bundled_names(), *benchmark_names()]
    scored = {name: row["n"] for name, row in rows.items() if "n" in row}
    tasks = {name: load(name, arguments.data_dir, scored.get(name)) for name in names}
    for name, task in tasks.items():
        rows[name] = rows.get(name, {}) | describe(
            task, load_named(name, data_dir=arguments.data_dir)
        )
    # Long answers come in small batches by default, which is slow.
    config = make_config({"target": {"model": arguments.model, "max_batch_tokens": 16384}})
    target = load_target(config)
    done["setting"] = {
        "model": arguments.model,
        "dtype": str(target.dtype).removeprefix("torch."),
        "split": "test",
        "stableprompt": __version__,
    }
    for name in sorted(tasks, key=lambda name: name.startswith(SUBJECTS)):
        if "score" not in rows[name]:
            rows[name] |= score(tasks[name], config, target)
            print(f"{name}: {rows[name]['score']:.3f} ({rows[name]['trivial']:.3f})", flush=True)
        path.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
        (RESULTS / "seed_prompts.md").write_text(table(done), encoding="utf-8")


def load(name: str, data_dir: Path, scored: int | None) -> Task:
    """The task with few test examples: as many as were scored, if it was."""
    kind = "classification" if name in bundled_names() else find_benchmark(name).kind
    most = MOST_OF_SUBJECT if name.startswith(SUBJECTS) else MOST[kind]
    return load_named(name, data_dir=data_dir, overrides={"limit": {"test": scored or most}})


def describe(task: Task, whole: Task) -> dict[str, Any]:
    """What can be said without a model; the trivial score is of the examples that are scored."""
    return {
        "kind": task.kind,
        "metric": task.metric.name,
        "loaded": {split: len(whole.splits.part(split)) for split in SPLIT_NAMES},
        "trivial": task.trivial_score("test"),
    }


def score(task: Task, config: TuneConfig, target: LocalTarget) -> dict[str, Any]:
    """What the seed prompt scores, and how long that took."""
    started = time.perf_counter()
    estimate = evaluate_with(task, config, target, "test", Silence())
    return {
        "score": estimate.score,
        "low": estimate.low,
        "high": estimate.high,
        "n": estimate.n,
        "max_answer_tokens": answer_room(task, config, target),
        "seconds": round(time.perf_counter() - started, 1),
    }


def table(done: dict[str, Any]) -> str:
    """The results as Markdown."""
    setting = done["setting"]
    lines = [
        "# What the seed prompts score",
        "",
        f"Every task by name: its seed prompt, with `{setting['model']}` ({setting['dtype']}) as "
        "the target and the default template, on n of its test examples. *Trivial* is the score "
        "of the best answer that is the same for every one of them (majority class, letter that "
        "is right most often, most frequent references of train), or repeats the input. Flagged: "
        "the score's 95 % interval does not lie above it. Not scored: the command was stopped "
        "before; started again it goes on. The command is "
        "`python benchmarks/seed_prompts.py --data-dir FOLDER`, the figures are in "
        "`seed_prompts.json`.",
        "",
        "| task | kind | metric | train / validation / test | trivial | score | flagged |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in done["tasks"].items():
        sizes = " / ".join(str(size) for size in row["loaded"].values())
        measured = "not scored | "
        if "score" in row:
            interval = f"[{row['low']:.3f}, {row['high']:.3f}], n = {row['n']}"
            measured = (
                f"{row['score']:.3f} {interval} | {'yes' if row['low'] <= row['trivial'] else ''}"
            )
        lines.append(
            f"| {name} | {row['kind'].replace('_', ' ')} | {row['metric']} | {sizes} "
            f"| {row['trivial']:.3f} | {measured} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
