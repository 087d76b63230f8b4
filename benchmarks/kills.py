"""Kills real runs at random points, resumes them, and compares what they leave: a Markdown table.

    python -m benchmarks.kills

Runs from a checkout. Each run is a process of its own that the command line's ``tune`` goes on in,
with tiny models of random weights as agent and target. It is ended by SIGKILL: by the clock, at a
random moment, or at a random one of all calls of a kind (writing prompts, the optimizer's step, the
copy of the anchor, each part of a checkpoint, ...), as it begins or as it ends. Some are killed a
second time while they are resumed. Processes are forked from one that has loaded torch and nothing
else, so that loading it is paid for once.
"""

import argparse
import bisect
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tests.cli.conftest import SMALL, options, write_rows
from tests.fakes.tiny_model import make_model, save_tiny_model
from tests.fakes.word_agent import make_word_tokenizer

from stableprompt import build
from stableprompt.cli import app
from stableprompt.models.agent import AgentLLM
from stableprompt.reporting.writing import REPORT
from stableprompt.runs import checkpoints
from stableprompt.runs.folder import RunFolder
from stableprompt.scoring.scorer import Scorer
from stableprompt.tuning import keeping, tuner
from stableprompt.tuning.per_input import WriterTrial

WITH_ALL = (
    "anchor.update_period=2",
    "anchor.update_threshold=0",
    "anchor.certainty=0.5",
    "ppo.prompts_per_step=8",
    "ppo.minibatch_size=4",
    "ppo.advantage=gae",
    "ppo.replay=2",
    "ppo.learning_rate=0.01",
    "agent.shown_prompt=leader",
    "selection.num_demonstrations=2",
    "selection.demonstration_sets=2",
    "selection.learning_curve=true",
)
PER_INPUT = ("ppo.learning_rate=0.01", "per_input.mode=auto")
RUNS = {
    "anchor updated": (*WITH_ALL, "seed=1"),
    "rolled back": (*WITH_ALL, "seed=0"),
    "per input": PER_INPUT,
}
# Times, sums of files that hold times, who is at work, and the page that is made of all the other
# files: it holds times, and where it was never written `stableprompt report` writes it.
_OTHERWISE = {"timing.json", "manifest.json", ".run.holder", REPORT}
_EARLY = 20  # events: a resumed run has hardly fewer
SECONDS = {"seconds", "target_seconds"}  # what differs between equal runs


# --- in the process that is killed ---


@dataclass
class Trace:
    """Says what the process does, and ends it where it is told to."""

    pipe: int
    kill_at: int | None
    count: int = 0
    inside: list[str] = field(default_factory=list)

    def say(self, what: str) -> None:
        """One more event; perhaps the last."""
        os.write(self.pipe, f"{what}\n".encode())
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1

    def follow(self, owner: Any, name: str, told: Callable[..., str | None]) -> None:
        """Say when a function begins and ends; None as its name: it is none of our business."""
        honest = getattr(owner, name)

        def followed(*arguments: Any, **named: Any) -> Any:
            what = told(*arguments, **named)
            if what is None:
                return honest(*arguments, **named)
            self.inside.append(what)
            self.say(f"{what}: begins")
            try:
                return honest(*arguments, **named)
            finally:
                self.inside.pop()
                self.say(f"{what}: ends")

        setattr(owner, name, followed)

    def in_checkpoint(self, what: str) -> str | None:
        """A name for what belongs to a checkpoint, None elsewhere."""
        return f"checkpoint, {what}" if "checkpoint" in self.inside else None

    def follow_all(self) -> None:
        """All that a run does."""
        self.follow(build, "_run", lambda *_: "run")
        self.follow(AgentLLM, "sample", lambda *_, **__: "writing prompts")
        self.follow(Scorer, "score_each", lambda _, asked, purpose: f"scoring for {purpose}")
        self.follow(tuner, "learn", lambda *_, **__: "PPO update")
        self.follow(torch.optim.AdamW, "step", lambda *_, **__: "optimizer step")
        self.follow(AgentLLM, "copy", lambda *_: "anchor copy")
        self.follow(keeping, "save_checkpoint", lambda *_, **__: "checkpoint")
        for owner, name, what in (
            (checkpoints, "save_file", "tensors"),
            (checkpoints, "_write", "JSON"),
            (checkpoints, "sync", "fsync"),
            (Path, "rename", "rename"),
            (checkpoints.shutil, "rmtree", "delete"),
        ):
            self.follow(owner, name, lambda *_, told=what, **__: self.in_checkpoint(told))
        self.follow(tuner, "select", lambda *_: "selection")
        self.follow(tuner, "read_test", lambda *_: "final test")
        self.follow(WriterTrial, "judge", lambda *_: "trial of the writer")
        self.follow(RunFolder, "append", lambda _, name, __: f"lines of {name}")
        self.follow(RunFolder, "write_text", lambda _, name, __: f"writing {name}")


def start(arguments: list[str], log: Path, *, kill_at: int | None = None) -> tuple[int, int]:
    """The command line in a process of its own: its id, and the pipe that its events come from."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    code = 70
    try:
        os.close(reading)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        torch.set_num_threads(1)
        Trace(writing, kill_at).follow_all()
        app(arguments, standalone_mode=False)
        code = 0
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        sys.stdout.flush()
        os._exit(code)


# --- in the process that kills ---


def events(reading: int) -> Iterator[str]:
    """What a process says, until it is gone."""
    with os.fdopen(reading, encoding="utf-8") as lines:
        for line in lines:
            yield line.rstrip("\n")


@dataclass
class Reference:
    """The uninterrupted run."""

    name: str
    arguments: list[str]
    folder: Path
    told: list[str]
    times: list[float]
    """Of each event, in seconds since the first."""


def uninterrupted(name: str, arguments: list[str], folder: Path) -> Reference:
    """Make the run in one piece, listening."""
    pid, reading = start([*arguments, "--run-dir", str(folder)], folder.with_suffix(".log"))
    told, times = [], []
    for event in events(reading):
        told.append(event)
        times.append(time.perf_counter())
    wait_for(pid, folder)
    return Reference(name, arguments, folder, told, [now - times[0] for now in times])


def wait_for(pid: int, folder: Path) -> None:
    """Wait for a process that has to succeed."""
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise SystemExit(f"{folder}: {folder.with_suffix('.log').read_text(encoding='utf-8')}")


@dataclass(frozen=True)
class Kill:
    """When a process is killed."""

    event: int
    """After this one was heard."""
    pause: float | None = None
    """From outside, so many seconds later; None: by itself, there and then."""

    def __str__(self) -> str:
        pause = "" if self.pause is None else f" + {self.pause:.3f} s"
        return f"event {self.event}{pause}"


def killed(arguments: list[str], kill: Kill, folder: Path) -> str:
    """Start, kill; the last thing that was heard, or what came of it where it was too late."""
    own = kill.event if kill.pause is None else None
    pid, reading = start(arguments, folder.with_suffix(".log"), kill_at=own)
    last = "nothing"
    for number, event in enumerate(events(reading)):
        last = event
        if kill.pause is not None and number == kill.event:
            time.sleep(kill.pause)
            os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return last if os.WIFSIGNALED(status) else "the run was over"


def drawn(reference: Reference, by_clock: int, by_event: int, rng: random.Random) -> list[Kill]:
    """Random moments, and random events of as many kinds as there are, one kind after another."""
    kills = []
    for _ in range(by_clock):
        # By the reference's clock: how long an event takes depends on what else the machine does.
        moment = rng.uniform(0, reference.times[-1])
        event = bisect.bisect_right(reference.times, moment) - 1
        kills.append(Kill(event, moment - reference.times[event]))
    places: dict[str, list[int]] = {}
    for number, event_name in enumerate(reference.told):
        places.setdefault(event_name, []).append(number)
    kinds = sorted(places)
    rng.shuffle(kinds)
    kills += [Kill(rng.choice(places[kinds[i % len(kinds)]])) for i in range(by_event)]
    return kills


def last_step(folder: Path) -> int:
    """Steps that are safe."""
    return max(
        (int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*")),
        default=0,
    )


def left_behind(folder: Path) -> dict[str, Any]:
    """Everything in a run folder but for times: of each file what it holds."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or path.name in _OTHERWISE:
            continue
        if path.name == "steps.jsonl":
            found[name] = [without_times(json.loads(line)) for line in path.open(encoding="utf-8")]
        elif path.name == "state.json":
            state = without_times(json.loads(path.read_text(encoding="utf-8")))
            # The steps' lines hold times: neither their sum nor their length is the same.
            del state["lines"]["steps.jsonl"]
            found[name] = state
        else:
            found[name] = path.read_bytes()
    return found


def without_times(content: dict[str, Any]) -> dict[str, Any]:
    """The rest of it."""
    return {key: value for key, value in content.items() if key not in SECONDS}


def row(number: int, reference: Reference, kills: list[Kill], folder: Path) -> tuple[str, bool]:
    """Start, kill, resume, perhaps twice: a line of the table, and whether all is as it should."""
    first, *again = kills
    resume = ["tune", "--resume", str(folder)]
    how = str(first)
    heard = killed([*reference.arguments, "--run-dir", str(folder)], first, folder)
    steps = [str(last_step(folder))]
    for kill in again:
        if (folder / "config.json").exists() and not (folder / "result.json").exists():
            heard = f"{heard}; then {killed(resume, kill, folder)}"
            how += f"; then {kill}"
            steps.append(str(last_step(folder)))
    if not (folder / "result.json").exists():
        begun = (folder / "config.json").exists()
        anew = [*reference.arguments, "--run-dir", str(folder)]
        pid, reading = start(resume if begun else anew, folder.with_suffix(".log"))
        for _ in events(reading):
            pass
        wait_for(pid, folder)
    one, other = left_behind(folder), left_behind(reference.folder)
    differing = sorted(n for n in {*one, *other} if one.get(n) != other.get(n))
    same = "yes" if not differing else f"no: {', '.join(differing)}"
    told = f"| {number} | {how} | {heard} | {', '.join(steps)} | {same} |"
    return told, not differing


def references(folder: Path, steps: int, names: list[str]) -> list[Reference]:
    """The runs that are killed, in one piece."""
    target, agent = save_tiny_model(folder / "target"), save_word_model(folder / "agent")
    write_rows(folder / "rows.csv", 60)
    made = []
    for name in names:
        own = RUNS[name]
        data = [str(folder / "rows.csv"), "--text", "message", "--label", "team"]
        models = ["--agent", str(agent), "--target", str(target)]
        settings = options(*SMALL, *own, f"steps={steps}")
        slug = name.replace(" ", "-")
        order = ["tune", *data, *models, *settings]
        made.append(uninterrupted(name, order, folder / f"whole-{slug}"))
        require_learning(made[-1].folder)
    return made


def save_word_model(folder: Path) -> Path:
    """An agent of whole words: what one of bytes writes is refused, and nothing is learned."""
    tokenizer = make_word_tokenizer()
    make_model(len(tokenizer), seed=7).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def require_learning(folder: Path) -> None:
    """Check that there is something to lose: else any resumed run would be identical."""
    lines = (folder / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    idle = [n for n, line in enumerate(lines) if not json.loads(line)["update"]["gradient_norm"]]
    tensors = load_file(sorted(folder.glob("checkpoints/step-*"))[-1] / checkpoints.TENSORS)
    roles = {name: t for name, t in tensors.items() if name.startswith("policy/")}
    moved = any(
        not t.equal(tensors[name.replace("policy/", "anchor/")]) for name, t in roles.items()
    )
    if idle or not moved or not any(name.startswith("optimizer/") for name in tensors):
        raise SystemExit(
            f"this run proves nothing: steps without gradient {idle}, policy away from the anchor "
            f"{moved}; change its settings"
        )


def main() -> None:
    """Print the table; exit with 1 where a run did not end as it should."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clock", type=int, default=5, help="kills by the clock, of each run")
    parser.add_argument("--events", type=int, default=15, help="kills at events, of each run")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", nargs="+", default=list(RUNS))
    given = parser.parse_args()
    rng = random.Random(given.seed)
    fine = True
    with tempfile.TemporaryDirectory() as scratch:
        for reference in references(Path(scratch), given.steps, given.runs):
            print(
                f"\n{reference.name}: {len(reference.told)} events of "
                f"{len(set(reference.told))} kinds, {reference.times[-1]:.1f} s\n"
            )
            print("| point | killed after | doing | steps safe | identical |")
            print("|---|---|---|---|---|")
            kills = drawn(reference, given.clock, given.events, rng)
            for number, kill in enumerate(kills, start=1):
                # Every third one is killed again while it is resumed.
                again = Kill(rng.randrange(_EARLY), rng.uniform(0, 0.02))
                more = [again] if number % 3 == 0 else []
                folder = Path(scratch) / f"{reference.folder.name}-{number}"
                told, same = row(number, reference, [kill, *more], folder)
                print(told, flush=True)
                fine = fine and same
    raise SystemExit(0 if fine else 1)


if __name__ == "__main__":
    main()
