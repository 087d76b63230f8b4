"""What can be known about a run before a model is loaded."""

from pathlib import Path

import pytest

from stableprompt import build
from stableprompt.tuning.checks import without_decisions
from stableprompt.tuning.records import Silence
from tests.fakes.word_agent import ScriptedTarget, make_task
from tests.tuning.conftest import tiny_config


@pytest.mark.parametrize(
    ("steps", "period", "method", "noted"),
    [
        (1, 5, "appo", True),
        (4, 5, "appo", True),
        (5, 5, "appo", False),
        (0, 5, "appo", False),  # nothing is learned that could be judged
        (1, 5, "ppo-fixed", False),
        (1, 5, "best-of-n", False),
    ],
)
def test_a_run_too_short_for_a_decision_is_noted(
    steps: int, period: int, method: str, noted: bool
) -> None:
    config = tiny_config(steps=steps, method=method, anchor={"update_period": period})
    found = without_decisions(config)
    assert (found is not None) == noted
    assert not noted or f"no anchor decision falls into {steps} steps" in str(found)


def test_it_runs_and_says_so_once(target: ScriptedTarget, tmp_path: Path) -> None:
    heard: list[str] = []

    class Listener(Silence):
        def on_note(self, note: str) -> None:
            heard.append(note)

    config = tiny_config(steps=1, anchor={"update_period": 5})
    result = build.start_run(make_task(), config, tmp_path / "run", Listener())
    assert [note for note in heard if "anchor" in note] == [without_decisions(config)]
    assert result.anchor_decisions == {}
