"""Limits of whole runs behind an API: kept, told, and a way on from them."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stableprompt import build
from stableprompt.errors import ConfigError
from stableprompt.scoring.limits import LimitReached
from stableprompt.tasks.task import Task
from stableprompt.tuning.budget import KEPT
from stableprompt.tuning.records import Silence, TuneResult
from tests.fakes.api_server import ApiServer
from tests.fakes.killers import KillAfter, Killed
from tests.fakes.word_agent import LABELS, make_task
from tests.fakes.word_server import answer, chats, serve_words, target_at
from tests.tuning.conftest import tiny_config

pytestmark = pytest.mark.usefixtures("elsewhere")

TASK = make_task(size=40)  # 16, 12 and 12 examples
ROWS = [{"text": f"{LABELS[i % 2]} thing number {i}", "label": LABELS[i % 2]} for i in range(40)]
WRITTEN = Task.from_records(
    ROWS, name="colours", seed_prompt="sort one text", kind="generation", metric="exact_match"
)
TASKS = {"classification": TASK, "generation": WRITTEN}
PER_INPUT: dict[str, Any] = {"per_input": {"mode": "always", "prompts": 2}}
# Enough for selection and test, and not for a whole step beside them.
SCARCE = 900
PRICES = {"price_read": 2.0, "price_written": 50.0}  # dollars for a million


class Notes(Silence):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.calls: list[int] = []

    def on_note(self, note: str) -> None:
        self.notes.append(note)

    def on_calls(self, calls: int, dollars: float | None) -> None:
        self.calls.append(calls)


def start(
    server: ApiServer,
    folder: Path,
    limits: dict[str, Any],
    *,
    task: Task = TASK,
    notes: Notes | None = None,
    api: dict[str, Any] | None = None,
    **settings: Any,
) -> TuneResult:
    target = target_at(server, **api or {})
    config = tiny_config(**{"steps": 8, **settings, "target": target, "limits": limits})
    return build.start_run(task, config, folder, notes or Notes())


def sent(server: ApiServer) -> tuple[list[int], list[int]]:
    """Tokens that were read and written in each conversation, by the fake's own count: words."""
    asked = [seen.body["messages"] for seen in chats(server)]
    read = [sum(len(message["content"].split()) for message in messages) for messages in asked]
    return read, [len(answer(messages).split()) for messages in asked]


def has_figures(result: TuneResult) -> bool:
    """Whether test was read, with both prompts, and with their comparison."""
    both = (result.test.n, result.seed_test.n, result.paired.n)
    written = json.loads((result.run_dir / "result.json").read_text())
    return min(both) > 0 and written["test"]["n"] == result.test.n


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("limit", [60, 150, 250])
def test_calls_are_never_more_and_test_is_read(tmp_path: Path, limit: int, kind: str) -> None:
    with serve_words() as server:
        limits = {"max_target_calls": limit}
        result = start(server, tmp_path / "run", limits, task=TASKS[kind])
        assert len(chats(server)) == result.target_calls <= limit
    assert has_figures(result)
    assert result.test.n == result.seed_test.n == 12
    # Seed prompt on validation and test, at least; where a step can be paid for, much more.
    assert result.target_calls >= (0.6 * limit if limit >= 150 else 24)


@pytest.mark.parametrize("limit", [37, 40, 47])
def test_what_test_may_take_is_kept_to_the_call(tmp_path: Path, limit: int) -> None:
    # Three prompts at most are read on 12 examples: 36 calls. The rest is for validation, of which
    # the seed prompt alone would take 12.
    with serve_words() as server:
        result = start(server, tmp_path / "run", {"max_target_calls": limit})
        assert len(chats(server)) == limit - 36 + 12
    assert result.cost["target_calls"] == {
        "training": 0,
        "validation": limit - 36,
        "test": 12,
        "curve": 0,
    }
    assert (result.validation.n, result.test.n) == (limit - 36, 12)


@pytest.mark.parametrize("limit", [110, 150, 200])
def test_calls_are_never_more_with_prompts_for_each_input(tmp_path: Path, limit: int) -> None:
    with serve_words() as server:
        limits = {"max_target_calls": limit}
        # Without the cache: what a use would cost is really asked then.
        result = start(server, tmp_path / "run", limits, api={"cache": False}, **PER_INPUT)
        assert len(chats(server)) == result.target_calls <= limit
    assert has_figures(result)
    assert result.per_input is not None
    assert result.per_input.test.n == 12


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize(("limit", "concurrency"), [(SCARCE, 4), (1500, 1), (2500, 4)])
def test_tokens_are_more_by_one_portion_at_most(
    tmp_path: Path, limit: int, concurrency: int, kind: str
) -> None:
    with serve_words() as server:
        limits, api = {"max_tokens": limit}, {"concurrency": concurrency}
        result = start(server, tmp_path / "run", limits, task=TASKS[kind], api=api)
        read, written = sent(server)
    tokens = [one + other for one, other in zip(read, written, strict=True)]
    assert sum(result.cost["target_tokens"].values()) == sum(tokens)
    assert sum(tokens) <= limit + 4 * concurrency * max(tokens)
    assert sum(tokens) >= 0.4 * limit
    assert has_figures(result)


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("limit", [0.006, 0.015])
def test_dollars_are_more_by_one_portion_at_most(tmp_path: Path, limit: float, kind: str) -> None:
    with serve_words() as server:
        limits, api = {"max_cost": limit}, {"concurrency": 2, **PRICES}
        result = start(server, tmp_path / "run", limits, task=TASKS[kind], api=api)
        read, written = sent(server)
    calls = [(one * 2.0 + other * 50.0) / 1e6 for one, other in zip(read, written, strict=True)]
    assert result.cost["dollars"] == pytest.approx(sum(calls), abs=1e-6)
    assert 0.4 * limit <= sum(calls) <= limit + 8 * max(calls)
    assert has_figures(result)
    lines = (result.run_dir / "steps.jsonl").read_text().splitlines()
    for step in map(json.loads, lines):  # so many calls had been made, in whatever order
        known = step["target_calls"]
        least, most = sum(sorted(calls)[:known]), sum(sorted(calls)[-known:])
        assert 0 < least - 1e-6 <= step["dollars"] <= most + 1e-6


def test_seconds_end_a_run_of_a_slow_server(tmp_path: Path) -> None:
    def slow(messages: list[dict[str, str]]) -> str:
        time.sleep(0.1)
        return answer(messages)

    with serve_words(answer=slow) as server:
        started = time.monotonic()
        result = start(server, tmp_path / "run", {"max_seconds": 6.0}, steps=500)
        took = time.monotonic() - started
        calls = len(chats(server))
    # Eight at once, so 80 calls a second at best: 480, of which 36 are kept for test.
    assert took < 15  # the machine may be busy
    assert 50 < calls < 500
    assert len((result.run_dir / "steps.jsonl").read_text().splitlines()) < 500
    assert has_figures(result)


def test_seconds_end_a_long_selection_of_a_slow_server(tmp_path: Path) -> None:
    def slow(messages: list[dict[str, str]]) -> str:
        time.sleep(0.08)
        return answer(messages)

    many = {"num_demonstrations": 1, "demonstration_sets": 16, "rounds": 1}
    settings: dict[str, Any] = {"method": "few-shot", "steps": 0, "selection": many}
    with serve_words(answer=slow) as server:
        limits, api = {"max_seconds": 6.0}, {"concurrency": 1}
        started = time.monotonic()
        result = start(server, tmp_path / "run", limits, api=api, **settings)
        took = time.monotonic() - started
        calls = len(chats(server))
    # 12 calls a second at best: 72, where all 16 sets would take 12 * (1 + 16) + 24.
    assert calls <= 72
    assert took < 12  # it would be 18 at least
    assert has_figures(result)


def test_a_half_and_four_fifths_are_told_once(tmp_path: Path) -> None:
    notes = Notes()
    with serve_words() as server:
        limits = {"max_target_calls": 300, "max_tokens": 100_000}
        result = start(
            server, tmp_path / "run", limits, notes=notes, api={"concurrency": 1}, seed=1
        )
    assert result.target_calls >= 240
    # After each portion of four calls, many times in a step.
    assert notes.calls == sorted(notes.calls)
    assert notes.calls[-1] == result.target_calls
    assert len(set(notes.calls)) >= result.target_calls // 4
    [early] = [note for note in notes.notes if " steps: " in note]
    assert early.endswith(f" of 8 steps: {KEPT}")
    assert int(early[0]) < 8
    notes.notes.remove(early)
    told = [note.split(":")[0] for note in notes.notes]
    assert told == [
        "50% of limits.max_target_calls used",
        "80% of limits.max_target_calls used",
    ]
    half, most = (int(note.split()[4]) for note in notes.notes)
    # At the first look behind it; between two looks is a step or a race at most.
    assert 150 <= half < 240 <= most <= 300


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize(
    "limits",
    [{"max_target_calls": 5}, {"max_tokens": 60}, {"max_cost": 0.0004}],
    ids=["calls", "tokens", "dollars"],
)
def test_a_limit_too_small_for_test_is_an_error_and_the_run_goes_on_with_a_larger_one(
    tmp_path: Path, limits: dict[str, Any], kind: str
) -> None:
    [name] = limits
    notes = Notes()
    with serve_words() as server:
        api = {"concurrency": 1, **PRICES}
        with pytest.raises(LimitReached, match=rf"{name}.*raise it and resume the run"):
            start(server, tmp_path / "cut", limits, task=TASKS[kind], api=api, steps=2)
        assert not (tmp_path / "cut" / "result.json").exists()
        assert len(chats(server)) <= 12
        result = build.resume(tmp_path / "cut", limits={name: 400 * limits[name]}, observer=notes)
        asked = Counter(seen.body_hash for seen in chats(server))
    assert has_figures(result)
    assert set(asked.values()) == {1}
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert config["limits"][name] == 400 * limits[name]


def test_a_limit_that_is_taken_away_leaves_the_run_as_it_is_without(tmp_path: Path) -> None:
    with serve_words() as server:
        with pytest.raises(LimitReached):
            start(server, tmp_path / "cut", {"max_target_calls": 5}, steps=2)
        build.resume(tmp_path / "cut", limits={"max_target_calls": None})
    with serve_words() as server:
        start(server, tmp_path / "whole", {}, steps=2)
    for name in ("result.json", "prompts.jsonl", "test.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_run_under_limits_can_be_killed_and_resumed(tmp_path: Path) -> None:
    limits = {"max_target_calls": 200, "max_tokens": 2500}
    with serve_words() as server:
        start(server, tmp_path / "whole", limits)
    with serve_words() as server:
        config = tiny_config(steps=8, target=target_at(server), limits=limits)
        with pytest.raises(Killed):
            build.start_run(TASK, config, tmp_path / "cut", KillAfter(phase="reading"))
        build.resume(tmp_path / "cut")
        asked = Counter(seen.body_hash for seen in chats(server))
    assert set(asked.values()) == {1}
    for name in ("result.json", "prompts.jsonl", "test.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_answers_on_disk_count_so_that_a_run_goes_the_same_way_again(tmp_path: Path) -> None:
    limits = {"max_cost": 0.01}
    with serve_words() as server:
        start(server, tmp_path / "one", limits, api=PRICES)
    start(server, tmp_path / "two", limits, api=PRICES)
    assert (tmp_path / "one" / "result.json").read_bytes() == (
        tmp_path / "two" / "result.json"
    ).read_bytes()


def test_a_limit_in_dollars_of_unknown_price_is_refused_when_a_run_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_words() as server:
        monkeypatch.setattr("stableprompt.models.targets.providers._is_at_home", lambda url: False)
        with pytest.raises(ConfigError, match="needs to know what"):
            start(server, tmp_path / "new", {"max_cost": 1.0})
        with pytest.raises(LimitReached):
            start(server, tmp_path / "run", {"max_target_calls": 5})
        refused = False
        try:
            build.resume(tmp_path / "run", limits={"max_target_calls": None, "max_cost": 1e-9})
        except ConfigError:
            refused = True
        assert refused
