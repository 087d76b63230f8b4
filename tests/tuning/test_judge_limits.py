"""A judge costs money, tokens and time as the target does: whole runs and evaluations with one."""

import time
from pathlib import Path
from typing import Any

import pytest

from stableprompt import build, evaluating, speakers
from stableprompt.config import make_config
from stableprompt.errors import ConfigError, ModelError
from stableprompt.models.targets.interface import Answers, Usage
from stableprompt.scoring.limits import LimitReached
from stableprompt.tasks.task import Task
from stableprompt.tuning.records import Silence, TuneResult
from tests.fakes.api_chat import Messages
from tests.fakes.api_server import ApiServer
from tests.fakes.word_agent import LABELS, ScriptedTarget
from tests.fakes.word_server import answer, serve_words, target_at
from tests.tuning.conftest import TINY, tiny_config
from tests.tuning.test_function_runs import JUDGED, ratings, speak_or_judge

pytestmark = pytest.mark.usefixtures("elsewhere")

ROWS = [{"text": f"{LABELS[i % 2]} thing number {i}", "label": LABELS[i % 2]} for i in range(400)]
LARGE = Task.from_records(
    ROWS, name="colours", seed_prompt="sort one text", kind="generation", metric="judge"
)
PORTION = 32  # 4 for each of 8 calls at once


def at(server: ApiServer, **api: Any) -> dict[str, Any]:
    return {"model": "fake-model", "api": target_at(server, **api)["api"]}


def test_an_evaluation_stops_where_the_judge_has_spent_the_limit() -> None:
    dear = {"price_read": 1000.0, "price_written": 1000.0}
    with serve_words() as server, serve_words(answer=speak_or_judge) as other:
        target = target_at(server, price_read=0.0, price_written=0.0)
        with pytest.raises(LimitReached, match=r"max_cost 0\.05"):
            evaluating.evaluate(
                LARGE, "sort", target=target, judge=at(other, **dear), limits={"max_cost": 0.05}
            )
        assert len(ratings(other)) == PORTION  # the first one: nothing was known before


def test_the_time_of_a_slow_judge_is_looked_at_before_each_portion() -> None:
    def slow(messages: Messages) -> str:
        time.sleep(0.05)
        return speak_or_judge(messages)

    with serve_words() as server, serve_words(answer=slow) as other:
        started = time.monotonic()
        with pytest.raises(LimitReached):
            evaluating.evaluate(
                LARGE,
                "sort",
                target=target_at(server),
                judge=at(other, concurrency=1),
                limits={"max_seconds": 1.0},
            )
        assert time.monotonic() - started < 4  # all of them would take 6
        assert len(ratings(other)) <= 2 * PORTION


@pytest.mark.parametrize("share", [0.6, 0.8])
def test_a_run_keeps_its_limit_with_a_dear_judge(tmp_path: Path, share: float) -> None:
    def go(name: str, **limits: float) -> TuneResult:
        with serve_words() as server, serve_words(answer=speak_or_judge) as other:
            target = target_at(server, price_read=0.0, price_written=0.0)
            judge = at(other, price_read=1000.0, price_written=1000.0)
            config = tiny_config(steps=2, target=target, judge=judge, limits=limits)
            return build.start_run(JUDGED, config, tmp_path / name, Silence())

    whole = go("whole").cost["dollars"]
    limit = whole * share
    found = go("cut", max_cost=limit).cost["dollars"]
    # Somewhat more, where what is asked next is dearer than what was asked so far.
    assert limit * 0.5 < found < limit * 1.2


def test_what_becomes_of_the_replicas_of_a_judge_is_told(tmp_path: Path) -> None:
    class Noting(Silence):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def on_note(self, note: str) -> None:
            self.notes.append(note)

    noting = Noting()
    with (
        serve_words() as server,
        serve_words(answer=speak_or_judge) as other,
        serve_words(answer=speak_or_judge) as dead,
    ):
        judge = at(other, base_url=[other.base_url, dead.base_url], cache=False)
        dead.close()
        config = tiny_config(steps=1, target=target_at(server), judge=judge)
        build.start_run(JUDGED, config, tmp_path / "run", noting)
    aside = [note for note in noting.notes if "is set aside" in note]
    assert [note.split(" is set")[0] for note in aside] == [f"the replica {dead.base_url}"]


def test_what_a_judge_makes_of_the_agent_alone_is_counted_and_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Alone(ScriptedTarget):
        def generate(self, conversations: Any, max_tokens: int) -> Answers:
            texts = tuple(f"alone {number}" for number in range(len(conversations)))
            return Answers(texts, Usage(1, 1), {})

    monkeypatch.setattr(build, "target_of", lambda agent, config: Alone())
    with serve_words() as server, serve_words(answer=speak_or_judge) as other:
        config = tiny_config(
            steps=2,
            target=target_at(server, cache=False),
            judge=at(other, cache=False),
            per_input={"mode": "always", "prompts": 2},
        )
        result = build.start_run(JUDGED, config, tmp_path / "run", Silence())
        asked = ratings(other)
    assert sum("alone" in seen.body["messages"][-1]["content"] for seen in asked) == 12
    assert result.cost["judge_calls"] == len(asked) == len({seen.body_hash for seen in asked})


def price(**settings: Any) -> tuple[float, float] | None:
    return speakers.judge_price(make_config(settings))


def test_the_price_of_the_target_is_not_that_of_another_judge() -> None:
    given = {"price_read": 0.01, "price_written": 0.02}
    target = {"model": "openai/gpt-4o-mini", "api": given}
    assert price(target=target) == (0.01, 0.02)
    table = price(target={"model": "openai/gpt-4o"})
    assert price(target=target, judge={"model": "openai/gpt-4o"}) == table != (0.01, 0.02)
    assert price(target=target, judge={"model": "smollm2-135m"}) == (0.0, 0.0)
    far = {"model": "m", "api": {**given, "base_url": "http://far:8000/v1"}}
    assert price(target=far, judge={"model": "other"}) is None


def test_a_limit_in_dollars_needs_the_price_of_the_judge() -> None:
    api = {"base_url": "http://far:8000/v1"}
    config = make_config({"judge": {"model": "m", "api": api}, "limits": {"max_cost": 1.0}})
    with pytest.raises(ConfigError, match=r"what m costs, .*judge\.api\.price_read"):
        speakers.require_price(config)


def test_how_a_judge_is_asked_needs_a_judge_behind_an_api(tmp_path: Path) -> None:
    settings: dict[str, Any] = {**TINY, "judge": {"api": {"concurrency": 1}}}
    with pytest.raises(ConfigError, match=r"judge\.api says how .* 'function:answer' is none"):
        build.tune(JUDGED, target=answer, run_dir=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_a_judge_that_cannot_be_loaded_leaves_no_folder(tmp_path: Path) -> None:
    settings = {**TINY, "judge": {"model": str(tmp_path / "nowhere")}}
    with pytest.raises(ModelError, match="nowhere"):
        build.tune(JUDGED, target=speak_or_judge, run_dir=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()
