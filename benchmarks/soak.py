"""Several hundred steps under faults: do memory, files and the time of a step stay as they are?

    python -m benchmarks.soak --steps 300 --seed 0 --out docs/results/soak

Runs from a checkout: the agent is the tiny one of the tests (``tests.fakes``), the target a
function that raises now and then. Three runs with the same settings:

* ``calm``: nothing happens;
* ``one process``: the target fails, the disk refuses a write now and then; the run is resumed in
  the same process, so that what it leaves behind would add up;
* ``killed``: the target fails, and the process is killed at random moments and started anew.

A call of the target that fails is made again, so that all three must end with the same bytes.
Writes JSON and, with matplotlib, two SVG. The time of a step is processor time, its checkpoint
included: other programs on the machine do not count. Faults are drawn from the seed; at which
instruction a kill comes depends on the machine.
"""

import argparse
import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median
from typing import Any

import psutil

BINS = 10
EQUAL_FILES = ("result.json", "prompts.jsonl", "pairs.jsonl", "test.json", "best_prompt.txt")
SAMPLES = "samples.jsonl"
LIFE = "life.json"


# --- the child: one life of a run ---


class DiskError(OSError):
    """Made here, so that another error of the disk is not taken for one of ours."""


def live(folder: Path, options: dict[str, Any]) -> None:
    """Run or resume until the end, or until something that this life does not survive."""
    import torch
    from tests.fakes.word_agent import make_agent, make_task
    from tests.fakes.word_server import answer

    from stableprompt import build, speakers
    from stableprompt.tuning.records import Silence, StepRecord

    torch.set_num_threads(1)
    life = Life(folder.with_name(f"{folder.name}-{SAMPLES}"), folder)
    rng = random.Random(f"{options['seed']}/{life.done}")  # a life of its own after each kill
    if options["killed"]:
        last = life.done + rng.randint(*options["killed"])
        threading.Thread(target=die, args=(life, last, rng.random()), daemon=True).start()

    def speak(messages: list[dict[str, str]]) -> str:
        if rng.random() < options["target_faults"]:
            life.faults["target"] += 1
            raise ConnectionError("the target is not there")
        return answer(messages)

    class Watch(Silence):
        def on_step(self, record: StepRecord) -> None:
            life.note(record.step)

    speakers.load_agent = lambda config, ranks=None: make_agent(seed=7)
    settings = settings_of(options)
    while True:
        try:
            with failing_disk(rng, options["disk_faults"], life):
                if (folder / "config.json").is_file():
                    build.resume(folder, target=speak, observer=Watch())
                else:
                    build.tune(
                        make_task(size=120),
                        target={
                            "model": speak,
                            "api": {"attempts": 12, "longest_pause_seconds": 0.0},
                        },
                        run_dir=folder,
                        observer=Watch(),
                        **settings,
                    )
            life.end()
            return
        except Exception as error:
            if not came_from_the_disk(error):
                raise
            life.faults["resumed"] += 1
            life.started = None


def die(life: "Life", last: int, share: float) -> None:
    """SIGKILL somewhere in the step behind ``last``."""
    while life.done < last:
        time.sleep(0.01)
    time.sleep(share * life.wall)
    os.kill(os.getpid(), signal.SIGKILL)


def settings_of(options: dict[str, Any]) -> dict[str, Any]:
    """A run as by default but for its size."""
    return {
        "steps": options["steps"],
        "seed": options["seed"],
        "agent": {"max_prompt_tokens": 8, "num_demonstrations": 2},
        "reward": {"examples_per_step": 4},
        "ppo": {"prompts_per_step": options["prompts"], "learning_rate": 1e-3},
        "guards": {"reject_truncated": False, "max_surprise": None, "require_instruction": False},
    }


def came_from_the_disk(error: BaseException | None) -> bool:
    """Whether it is one of ours, or was made of one."""
    while error is not None:
        if isinstance(error, DiskError):
            return True
        error = error.__cause__ or error.__context__
    return False


class Life:
    """Writes a line a step: time since the last one, memory, files."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self.folder = path, folder
        self.process = psutil.Process()
        self.started: float | None = None
        self.faults: Counter[str] = Counter()
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        self.done = len(lines)
        """Steps that were written down, by all lives."""
        self.wall, self._before = 0.0, time.perf_counter()

    def note(self, step: int) -> None:
        """A step is written down."""
        now = time.process_time()
        files = [file for file in self.folder.rglob("*") if file.is_file()]
        logs = sum(file.stat().st_size for file in files if file.suffix == ".jsonl")
        kept = sum(file.stat().st_size for file in files if file.suffix != ".jsonl")
        line = {
            "pid": os.getpid(),
            "step": step,
            "seconds": None if self.started is None else now - self.started,
            "rss": self.process.memory_info().rss,
            "files": len(files),
            "log_bytes": logs,
            "other_bytes": kept,
            "faults": dict(self.faults),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.wall, self._before = time.perf_counter() - self._before, time.perf_counter()
        self.done += 1
        self.started = time.process_time()

    def end(self) -> None:
        """The run is done: the parent looks for this file."""
        path = self.path.with_name(f"{self.folder.name}-{LIFE}")
        path.write_text(json.dumps(dict(self.faults)), encoding="utf-8")


@contextmanager
def failing_disk(rng: random.Random, rate: float, life: Life) -> Iterator[None]:
    """``os.fsync`` finds no space now and then: every file of a run goes through it."""
    honest = os.fsync

    def fsync(descriptor: int) -> None:
        if rng.random() < rate:
            life.faults["disk"] += 1
            raise DiskError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        honest(descriptor)

    os.fsync = fsync
    try:
        yield
    finally:
        os.fsync = honest


# --- the parent: lives until a run is done ---


def soak(name: str, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """One run to its end, killed and started anew where that is asked for."""
    run = folder / name
    kills = 0
    started = time.perf_counter()
    while not (folder / f"{name}-{LIFE}").is_file():
        command = [sys.executable, "-m", "benchmarks.soak", "--live", str(run), json.dumps(options)]
        child = subprocess.Popen(command)
        if child.wait() == -signal.SIGKILL and options["killed"]:
            kills += 1
        elif child.returncode:
            raise SystemExit(f"the run {name} ended with {child.returncode}")
    lines = (folder / f"{name}-{SAMPLES}").read_text(encoding="utf-8").splitlines()
    samples = [json.loads(line) for line in lines]
    found = summary(samples, options["steps"])
    faults = [sample["faults"] for sample in last_of_each_life(samples)]
    counted = {kind: sum(f.get(kind, 0) for f in faults) for kind in ("target", "disk", "resumed")}
    return {
        **found,
        "seconds": round(time.perf_counter() - started, 1),
        "faults": {**counted, "kills": kills},
        "digest": digest(run),
    }


def last_of_each_life(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last line of each process: its counts are those of its whole life."""
    return list({sample["pid"]: sample for sample in samples}.values())


def digest(run: Path) -> str:
    """Of what equal runs have in common, to the byte; the steps without their seconds."""
    told = hashlib.sha256()
    for name in EQUAL_FILES:
        told.update((run / name).read_bytes())
    for line in (run / "steps.jsonl").read_text(encoding="utf-8").splitlines():
        step = json.loads(line)
        del step["seconds"]
        told.update(json.dumps(step).encode())
    return told.hexdigest()[:16]


def summary(samples: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    """Bins of equal numbers of steps, and the first quarter against the last."""

    def part(low: float, high: float) -> dict[str, float]:
        own = [s for s in samples if low * steps <= s["step"] < high * steps]
        # What a process begins with is no step: models are loaded, programs compiled.
        timed = [s["seconds"] for s in own if s["seconds"] is not None]
        return {
            "rss_mib": round(fmean(s["rss"] for s in own) / 2**20, 1),
            "step_seconds": round(median(timed), 4) if timed else float("nan"),
            "files": max(s["files"] for s in own),
            "other_mib": round(fmean(s["other_bytes"] for s in own) / 2**20, 3),
            "log_mib": round(fmean(s["log_bytes"] for s in own) / 2**20, 3),
        }

    return {
        "steps": steps,
        "processes": len({s["pid"] for s in samples}),
        "bins": [part(n / BINS, (n + 1) / BINS) for n in range(BINS)],
        "first_quarter": part(0, 0.25),
        "last_quarter": part(0.75, 1),
    }


def markdown(content: dict[str, Any]) -> str:
    """A row for each run, first quarter of its steps against the last one."""
    rows = [
        "| run | processes | faults | RSS, MiB | step, s | files | other files, MiB | logs, MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, run in content["runs"].items():
        first, last = run["first_quarter"], run["last_quarter"]
        faults = ", ".join(f"{n} {kind}" for kind, n in run["faults"].items() if n) or "none"
        cells = [
            f"{first[key]:g} → {last[key]:g}"
            for key in ("rss_mib", "step_seconds", "files", "other_mib", "log_mib")
        ]
        rows.append(f"| {name} | {run['processes']} | {faults} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def write(content: dict[str, Any], out: Path) -> None:
    """The figures as JSON, and two pictures of their bins."""
    from stableprompt.errors import ConfigError
    from stableprompt.studies.plots import curves_svg

    out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    width = content["steps"] / BINS
    for key, label in (("rss_mib", "resident memory, MiB"), ("step_seconds", "seconds a step")):
        curves = {
            name: [(n * width, part[key]) for n, part in enumerate(run["bins"])]
            for name, run in content["runs"].items()
        }
        try:
            picture = curves_svg(label, curves, "step", label)
        except ConfigError as error:
            print(f"no picture: {error}")
            return
        name = "memory" if key == "rss_mib" else "time"
        out.with_name(f"{out.name}_{name}.svg").write_text(picture, encoding="utf-8")


def main() -> None:
    """Make the three runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--prompts", type=int, default=6, help="a step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target-faults", type=float, default=0.05, help="share of calls")
    parser.add_argument("--disk-faults", type=float, default=0.005, help="share of fsync calls")
    parser.add_argument("--killed", type=int, nargs=2, default=(20, 60), help="after steps")
    parser.add_argument("--out", type=Path, help="without ending; JSON and SVG are written")
    parser.add_argument("--live", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.live:
        live(Path(given.live[0]), json.loads(given.live[1]))
        return
    calm = {"steps": given.steps, "prompts": given.prompts, "seed": given.seed}
    calm |= {"target_faults": 0.0, "disk_faults": 0.0, "killed": None}
    faulty = {**calm, "target_faults": given.target_faults}
    plans = {
        "calm": calm,
        "one process": {**faulty, "disk_faults": given.disk_faults},
        "killed": {**faulty, "killed": given.killed},
    }
    with tempfile.TemporaryDirectory() as scratch:
        runs = {name: soak(name, Path(scratch), options) for name, options in plans.items()}
    same = len({run["digest"] for run in runs.values()}) == 1
    content = {**vars(given), "out": None, "live": None, "same_bytes": same, "runs": runs}
    content = {key: value for key, value in content.items() if value is not None}
    print(markdown(content), flush=True)
    print("all runs ended with the same bytes" if same else "THE RUNS DIFFER")
    if given.out:
        write(content, given.out)


if __name__ == "__main__":
    main()
