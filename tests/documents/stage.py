"""Where the commands and snippets of a page are played: files by the names that pages use, a tiny
model in the place of every model, and doors in front of what takes long or leaves this machine.
"""

import json
import shutil
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest

from stableprompt import build, estimating, evaluating
from stableprompt.config import TuneConfig, make_config, merge
from stableprompt.reporting import live, writing
from stableprompt.runs.folder import RESULT, TEST
from stableprompt.studies import comparison
from stableprompt.tasks import named
from stableprompt.tasks import task as tasks
from stableprompt.tasks.benchmarks.benchmark import Benchmark
from stableprompt.tasks.benchmarks.source import BenchmarkRows
from stableprompt.tasks.hub import HubTable
from stableprompt.tasks.task import Task
from stableprompt.tuning.records import Observer, Silence, TuneResult
from tests.documents.pages import ROOT
from tests.fakes.tiny_model import make_model, save_tiny_model
from tests.fakes.word_agent import make_word_tokenizer

ANSWERS: Final = ("delivery", "payment", "account")
NUM_ROWS: Final = 60

# Small enough for a run in half a second; guards that would cost the tiny model its prompts off.
SMALL: Final[dict[str, Any]] = {
    "device": "cpu",
    "dtype": "float32",
    "attention": "auto",
    "compile": False,
    "quantize": "none",
    "budget": None,
    "agent": {"adapter": "none", "max_prompt_tokens": 4, "num_demonstrations": 2},
    "target": {"dtype": None, "quantize": None},
    "judge": {"model": None, "api": None},
    "reward": {"examples_per_step": 4},
    "ppo": {"prompts_per_step": 4, "minibatch_size": 2, "ppo_epochs": 1},
    "anchor": {"update_period": 1, "prompts_per_decision": 2},
    "per_input": {"prompts": 2},
    "guards": {"reject_truncated": False, "max_surprise": None, "require_instruction": False},
    "selection": {"num_finalists": 2, "demonstration_sets": 1},
}


class Reached(Exception):
    """A door: everything before it was in order, and what is behind it takes too long."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A folder to be in, and what stands in for the models."""

    folder: Path
    agent: Path
    target: Path

    def small(self, config: TuneConfig) -> TuneConfig:
        """The same settings, but for sizes and models."""
        steps = {"steps": min(config.steps, 1)}
        free = {"limits": {"max_cost": None}}
        models: dict[str, Any] = {"agent": {"model": str(self.agent)}}
        if not config.target.model.startswith("function:"):
            models["target"] = {"model": str(self.target), "api": {"base_url": None}}
        demonstrations = min(config.selection.num_demonstrations, 1)
        own = {"selection": {"num_demonstrations": demonstrations}}
        whole = merge(config.model_dump(), SMALL, steps, free, models, own)
        return make_config(whole)


def rows() -> list[dict[str, str]]:
    """What every table of a page is made of."""
    return [
        {"message": f"note {n} word {'team' if n % 2 else 'name'}", "team": ANSWERS[n % 3]}
        for n in range(NUM_ROWS)
    ]


def write_files(folder: Path) -> None:
    """The files that pages name."""
    messages = [(row["message"], row["team"]) for row in rows()]
    _csv(folder / "tickets.csv", ("message", "team"), messages)
    _csv(folder / "more.csv", ("message", "team"), messages)
    pairs = [(f"{text} a", f"{text} b", label) for text, label in messages]
    _csv(folder / "pairs.csv", ("premise", "hypothesis", "label"), pairs)
    votes = [(text, str(n % 2)) for n, (text, _) in enumerate(messages)]
    _csv(folder / "votes.csv", ("body", "vote"), votes)
    quiz = [
        {"question": text, "options": [f"{n} x", f"{n} y", f"{n} z"], "answer": "ABC"[n % 3]}
        for n, (text, _) in enumerate(messages)
    ]
    _jsonl(folder / "quiz.jsonl", quiz)
    free = [{"input": text, "outputs": [label, label[:3]]} for text, label in messages]
    _jsonl(folder / "facts.jsonl", free)
    _jsonl(folder / "answers.jsonl", free)
    (folder / "inputs.txt").write_text("note team\nnote name\n", encoding="utf-8")
    (folder / "settings.toml").write_text("steps = 30\n", encoding="utf-8")
    (folder / "my_module.py").write_text(MODULE, encoding="utf-8")
    shutil.copytree(ROOT / "studies", folder / "studies")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    shutil.copy(ROOT / "constraints.txt", folder)


MODULE: Final = """
def answer(messages):
    return "delivery" if "team" in messages[-1]["content"] else "payment"

def starts_alike(example, prediction):
    return float(prediction[:1] == example.label[:1])
"""


def _csv(path: Path, header: tuple[str, ...], lines: list[tuple[str, ...]]) -> None:
    text = "\n".join(",".join(line) for line in (header, *lines))
    path.write_text(f"{text}\n", encoding="utf-8")


def _jsonl(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def make_stage(folder: Path) -> Stage:
    """Save an agent that writes whole words, so that what it writes is no markup, and a target."""
    tokenizer = make_word_tokenizer()
    tokenizer.save_pretrained(folder / "agent")
    make_model(len(tokenizer), seed=4).save_pretrained(folder / "agent")
    return Stage(folder, folder / "agent", save_tiny_model(folder / "target"))


def make_run(stage: Stage) -> Path:
    """A finished run that kept a writer of prompts for each input."""
    task = Task.from_records(rows(), text="message", label="team", name="tickets")
    config = stage.small(make_config({"per_input": {"mode": "always"}}))
    build.start_run(task, config, stage.folder / "run", Silence())
    return stage.folder / "run"


def put_run(run: Path, where: Path, *, finished: bool = True) -> None:
    """A copy of the run at a place that a page names; what a page made itself stays."""
    if not (where / RESULT).exists():
        shutil.copytree(run, where, dirs_exist_ok=True)
    if not finished:
        (where / RESULT).unlink()
        (where / TEST).unlink()


def set_doors(patch: pytest.MonkeyPatch, stage: Stage, *, whole: bool) -> None:
    """Put the tiny model behind every name, and doors in front of what takes long.

    Args:
        patch: Undoes it.
        stage: Where.
        whole: Whether runs are made, small; else they end at the door.
    """
    start, load, estimate = build.start_run, evaluating.load_target, estimating.estimate_run

    def start_run(
        task: Task, config: TuneConfig, path: Path, observer: Observer, **more: Any
    ) -> TuneResult:
        build.require_possible(task, config)
        if not whole:
            raise Reached
        return start(task, stage.small(config), path, observer, **more)

    def load_target(config: TuneConfig, *names: Any, **more: Any) -> Any:
        return load(stage.small(config), *names, **more)

    def estimate_run(task: Task, config: TuneConfig, *more: Any, **named: Any) -> Any:
        estimating.require_possible(task, config)
        if not whole:
            raise Reached
        return estimate(task, stage.small(config), *more, **named)

    # Named after the second in which they start, and here several start in one.
    folders = map("runs/played-{}".format, count())
    patch.setattr(build, "default_run_dir", lambda name: Path(next(folders)))
    patch.setattr(build, "start_run", start_run)
    patch.setattr(build, "resume", _door)
    patch.setattr(evaluating, "load_target", load_target)
    patch.setattr(estimating, "estimate_run", estimate_run)
    patch.setattr(comparison, "run_comparison", _compared)
    patch.setattr(live, "LiveServer", _door)  # it serves for ever
    patch.setattr(writing, "write_report", _door)
    patch.setattr(named, "load_rows", _benchmark)
    patch.setattr(tasks, "read_hub", lambda name, **_: HubTable(tuple(_labelled()), ()))


def _door(*_: Any, **__: Any) -> None:
    raise Reached


def _compared(plan: comparison.Plan, *_: Any, **__: Any) -> None:
    for arm in plan.arms:
        for seed in plan.seeds:
            plan.config(arm, seed)
    raise Reached


def _benchmark(benchmark: Benchmark, *_: Any) -> BenchmarkRows:
    labels = list(benchmark.label_words or ())  # its own: a plan may give words for them
    found = [
        {**row, "label": labels[number % len(labels)] if labels else row["label"]}
        for number, row in enumerate(_labelled())
    ]
    return BenchmarkRows(found, {"name": benchmark.name}, ())


def _labelled() -> list[dict[str, Any]]:
    return [{"text": row["message"], "label": row["team"]} for row in rows()]


class Elsewhere:
    """The hub, which is not reached: what a snippet uploads goes nowhere."""

    def create_repo(self, *_: Any, **__: Any) -> None:
        """Agree."""

    def repo_info(self, _: str) -> Any:
        """A private repository."""
        return type("Repository", (), {"private": True})

    def upload_folder(self, *, repo_id: str, folder_path: str) -> str:
        """Look that there is something to upload."""
        assert any(Path(folder_path).iterdir())
        return repo_id
