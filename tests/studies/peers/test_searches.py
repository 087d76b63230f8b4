"""Each optimiser through its own package: within the budget, better than the seed, repeatable."""

import random
from pathlib import Path

import numpy as np
import pytest

from stableprompt.errors import ModelError
from stableprompt.scoring.ledger import Purpose
from stableprompt.studies.peers.mipro_search import plan
from stableprompt.studies.peers.registry import PEERS
from tests.fakes.word_agent import make_task
from tests.studies.peers.scripted import Scene

PACKAGES = {"gepa": ["gepa"], "miprov2": ["dspy", "optuna"], "capo": ["promptolution"]}
TINY, USUAL = 7, 1500

pytestmark = pytest.mark.parametrize("peer", PEERS)


@pytest.fixture(autouse=True)
def _installed(peer: str) -> None:
    for package in PACKAGES[peer]:
        pytest.importorskip(package, reason=f"the extra peers is not installed: no {package}")


@pytest.mark.parametrize("budget", [TINY, 19, 100, 333])
def test_the_budget_is_never_exceeded(peer: str, budget: int) -> None:
    scene = Scene(budget=budget)
    PEERS[peer](scene.problem)
    assert scene.ledger.total_calls == len(scene.target.read) <= budget
    assert scene.ledger.target_calls[Purpose.TEST] == 0


def test_a_budget_that_pays_for_no_search_gives_the_seed_prompt(peer: str) -> None:
    scene = Scene(budget=TINY)  # the validation split has 18 examples
    assert PEERS[peer](scene.problem) == scene.task.seed_prompt


@pytest.mark.parametrize("size", [60, 240])  # 18 and 72 validation examples
def test_a_liked_prompt_is_found(peer: str, size: int) -> None:
    scene = Scene(budget=USUAL, task=make_task(size=size))
    found = PEERS[peer](scene.problem)
    # The seed prompt has no liked word and is always wrong; right is what is liked enough.
    assert found == scene.problem.best != scene.task.seed_prompt
    assert scene.problem.best_score == 1.0
    asked = {text for prompt, text in scene.target.read if prompt == found}
    assert asked >= {example.text for example in scene.task.validation}


def test_the_search_ends_long_before_the_budget_where_nothing_new_is_written(peer: str) -> None:
    scene = Scene(budget=100_000, write=lambda message: "sort one text")
    PEERS[peer](scene.problem)
    assert scene.problem.calls_left > 90_000


def test_the_agent_reads_training_examples_and_the_seed_prompt_only(peer: str) -> None:
    scene = Scene(budget=USUAL)
    PEERS[peer](scene.problem)
    read = "\n".join(scene.writer.read)  # type: ignore[union-attr]
    assert scene.task.seed_prompt in read
    assert not any(example.text in read.splitlines() for example in scene.task.test)


def test_the_same_seed_asks_the_same(peer: str) -> None:
    first, second = Scene(budget=400, seed=3), Scene(budget=400, seed=3)
    assert PEERS[peer](first.problem) == PEERS[peer](second.problem)
    assert first.target.read == second.target.read
    assert first.writer.read == second.writer.read  # type: ignore[union-attr]


def test_another_seed_asks_something_else(peer: str) -> None:
    first, second = Scene(budget=400, seed=3), Scene(budget=400, seed=4)
    PEERS[peer](first.problem)
    PEERS[peer](second.problem)
    assert first.target.read != second.target.read


def test_nothing_is_printed_left_or_drawn(
    peer: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    np.random.seed(5)
    states = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    PEERS[peer](Scene(budget=300).problem)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.rglob("*")) == [home]
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index, union-attr]


def test_an_error_of_the_agent_is_not_swallowed(peer: str) -> None:
    def write(message: str) -> str:
        raise ModelError("out of memory")

    with pytest.raises(ModelError, match="out of memory"):
        PEERS[peer](Scene(budget=USUAL, write=write).problem)
