"""Runs of the whole loop on a tiny agent and a scripted target."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stableprompt import build, speakers
from stableprompt.config import TuneConfig, make_config, merge
from stableprompt.tuning.records import TuneResult
from tests.fakes.word_agent import ScriptedTarget, make_agent
from tests.fakes.word_server import KEY, KEY_VARIABLE

TINY: dict[str, Any] = {
    "steps": 4,
    "agent": {"max_prompt_tokens": 8, "num_demonstrations": 2},
    "reward": {"examples_per_step": 6},
    "ppo": {"prompts_per_step": 6, "minibatch_size": 3, "learning_rate": 1e-2},
    "anchor": {"update_period": 2, "prompts_per_decision": 3, "max_examples": None},
    "guards": {
        "reject_truncated": False,
        "max_surprise": None,
        "require_instruction": False,
    },
    "selection": {"num_finalists": 3},
}


def tiny_config(**settings: Any) -> TuneConfig:
    return make_config(merge(TINY, settings))


def scripted_models(monkeypatch: pytest.MonkeyPatch) -> ScriptedTarget:
    """The target of all runs from now on; agents are made afresh for each run."""
    scripted = ScriptedTarget()

    def load_models(config: TuneConfig, function: Any = None, ranks: Any = None) -> tuple[Any, Any]:
        return make_agent(seed=7, temperature=config.agent.temperature), scripted

    monkeypatch.setattr(build, "load_models", load_models)
    return scripted


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> ScriptedTarget:
    """The target of all runs of a test."""
    return scripted_models(monkeypatch)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The tiny agent for targets outside this process, which are real; the folder of the cache."""
    monkeypatch.setattr(
        speakers,
        "load_agent",
        lambda config, ranks=None: make_agent(seed=7, temperature=config.agent.temperature),
    )
    # With prompts for each input the agent answers alone, too: it could not.
    monkeypatch.setattr(build, "target_of", lambda agent, config: ScriptedTarget())
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.setenv("STABLEPROMPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


Run = Callable[..., TuneResult]


@pytest.fixture
def run(target: ScriptedTarget, tmp_path: Path) -> Run:
    """Run a tiny configuration in a folder of its own."""
    from stableprompt.tuning.records import Silence
    from tests.fakes.word_agent import make_task

    def tune(name: str = "run", **settings: Any) -> TuneResult:
        config = tiny_config(**settings)
        return build.start_run(make_task(), config, tmp_path / name, Silence())

    return tune
