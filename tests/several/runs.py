"""Runs that are made by one process and by two, and must come out the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from stableprompt import build
from stableprompt.config import TuneConfig, make_config
from stableprompt.tasks.task import Task
from stableprompt.tuning.records import Silence, StepRecord
from tests.fakes.word_agent import ScriptedTarget, make_task
from tests.tuning.conftest import scripted_models, tiny_config

# Four rows and three written again, in minibatches of three: the last one has one row, and one of
# two processes none. Updates are taken back, decisions made, demonstrations tried.
WORDS: dict[str, Any] = {
    "steps": 4,
    "agent": {"shown_prompt": "leader"},
    "ppo": {"prompts_per_step": 4, "replay": 3, "max_update_kl": 0.01},
    "anchor": {"update_threshold": 0.0, "certainty": 0.2},
    "selection": {"num_demonstrations": 2, "demonstration_sets": 2},
}
LOCAL: dict[str, Any] = {
    "dtype": "float32",
    "device": "cpu",
    "steps": 2,
    "agent": {"max_prompt_tokens": 4, "num_demonstrations": 2},
    "reward": {"examples_per_step": 4},
    "ppo": {"prompts_per_step": 3, "minibatch_size": 2, "advantage": "gae"},
    "anchor": {"update_period": 1, "prompts_per_decision": 2, "max_examples": None},
    "guards": {"reject_truncated": False, "max_surprise": None, "require_instruction": False},
    "selection": {"num_finalists": 2},
}


class Killed(Exception):
    """Stands in for the end of all processes."""


class KillAfter(Silence):
    """Kills the run after a step, counted from 0."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step(self, record: StepRecord) -> None:
        if record.step == self._step:
            raise Killed


def local_config(model: Path, **settings: Any) -> TuneConfig:
    """Agent and target in this process, one checkpoint."""
    named = {"agent": {**LOCAL["agent"], "model": str(model)}, "target": {"model": str(model)}}
    return make_config({**LOCAL, **named, **settings})


def run_locally(folder: Path, model: Path, kind: str) -> None:
    """A run with a real model as the target, which is asked for labels or for texts; or for labels,
    with prompts that are written for each input."""
    texts = [f"colour {'red' if n % 2 else 'green'} {n}" for n in range(40)]
    labels = ["red" if n % 2 else "green" for n in range(40)]
    settings: dict[str, Any] = {}
    if kind == "inputs":
        ppo = {**LOCAL["ppo"], "prompts_per_step": 4}
        settings = {"per_input": {"mode": "always", "prompts": 2}, "ppo": ppo, "steps": 1}
    if kind != "texts":
        rows: Sequence[dict[str, str]] = [
            {"text": text, "label": label} for text, label in zip(texts, labels, strict=True)
        ]
        task = Task.from_records(rows, name="colours")
    else:
        rows = [{"text": text, "label": text} for text in texts]
        task = Task.from_records(rows, name="texts", kind="generation", metric="token_f1")
    build.start_run(task, local_config(model, **settings), folder, Silence())


def run_words(folder: Path, observer: Silence | None = None) -> None:
    """A run in which there is something to learn."""
    with pytest.MonkeyPatch.context() as patch:
        scripted_models(patch)
        build.start_run(make_task(), tiny_config(**WORDS), folder, observer or Silence())


def run_writers(folder: Path) -> None:
    """One that writes a prompt for each input, and saves the writer."""
    settings: dict[str, Any] = {
        "steps": 2,
        "ppo": {"prompts_per_step": 6},
        "per_input": {"mode": "always", "prompts": 2},
    }
    with pytest.MonkeyPatch.context() as patch:
        scripted_models(patch)
        patch.setattr(build, "target_of", lambda agent, config: ScriptedTarget())
        build.start_run(make_task(), tiny_config(**settings), folder, Silence())


def resume_words(folder: Path) -> None:
    """Go on with one of them."""
    with pytest.MonkeyPatch.context() as patch:
        scripted_models(patch)
        build.resume(folder)


def cut_words(folder: Path, step: int) -> None:
    """One that was killed after a step."""
    with pytest.raises(Killed):
        run_words(folder, KillAfter(step))
