"""What is asked while the agent writes changes no figure, costs no more and keeps to limits."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from stableprompt import build
from stableprompt.errors import TargetError
from stableprompt.models.agent import AgentLLM
from stableprompt.models.targets.ahead import UnderWay
from stableprompt.tasks.task import Task
from stableprompt.tuning.collect import draw_examples
from stableprompt.tuning.records import Silence
from tests.fakes.api_faults import CONTENT_FILTER, TEMPORARY, Fault, Seen, random_faults
from tests.fakes.api_server import ApiServer
from tests.fakes.word_agent import make_agent
from tests.fakes.word_server import chats, for_input, serve_words, target_at
from tests.tuning.conftest import tiny_config
from tests.tuning.test_api_runs import PER_INPUT, SHORT, TASK, left_behind, refuse_prompts, start

pytestmark = pytest.mark.usefixtures("elsewhere")

# The anchor is compared with the policy after the second step.
LONG: dict[str, Any] = {"steps": 3}


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What was sent ahead."""
    questions: list[Any] = []
    begin = UnderWay.begin

    def noting(self: UnderWay, question: Any, send: Any) -> None:
        questions.append(question)
        begin(self, question, send)

    monkeypatch.setattr(UnderWay, "begin", noting)
    yield questions


@pytest.mark.parametrize(
    ("dialect", "settings"),
    [("written answers", LONG), ("top tokens", PER_INPUT), ("token ids", LONG)],
)
def test_no_figure_depends_on_it_and_nothing_is_sent_twice(
    tmp_path: Path, dialect: str, settings: dict[str, Any], begun: list[Any]
) -> None:
    api: dict[str, Any] = {"cache": False}
    with serve_words(dialect) as server:
        start(server, tmp_path / "after", api={**api, "ask_ahead": False}, **settings)
        after = Counter(seen.body_hash for seen in chats(server))
    assert begun == []
    with serve_words(dialect) as server:
        start(server, tmp_path / "ahead", api=api, **settings)
        ahead = Counter(seen.body_hash for seen in chats(server))
    assert len(begun) >= 3  # of two steps the first one's are not: nothing was answered yet
    assert ahead == after
    assert left_behind(tmp_path / "ahead") == left_behind(tmp_path / "after")


def test_replicas_and_faults_change_nothing_either(tmp_path: Path, begun: list[Any]) -> None:
    with serve_words() as server:
        start(server, tmp_path / "after", api={"cache": False, "ask_ahead": False}, **LONG)
    with ExitStack() as stack:
        servers = [
            stack.enter_context(serve_words(faults=random_faults(0.2, n, kinds=TEMPORARY)))
            for n in range(3)
        ]
        urls = [server.base_url for server in servers]
        start(servers[0], tmp_path / "ahead", api={"cache": False, "base_url": urls}, **LONG)
    assert begun
    assert left_behind(tmp_path / "ahead") == left_behind(tmp_path / "after")


@pytest.mark.parametrize("what", ["an input", "prompts"])
def test_what_the_target_refuses_is_counted_the_same(
    tmp_path: Path, what: str, begun: list[Any]
) -> None:
    bad = draw_examples(TASK, tiny_config(**SHORT), 1).reward_examples[1]
    faults = for_input(bad.text, CONTENT_FILTER)
    if what == "prompts":
        faults = refuse_prompts(lambda prompt: len(prompt) % 5 == 0 and prompt != TASK.seed_prompt)
    costs = []
    for name, ahead in ("after", False), ("ahead", True):
        with serve_words(faults=faults) as server:
            api = {"cache": False, "ask_ahead": ahead}
            costs.append(start(server, tmp_path / name, api=api, **LONG).cost)
    assert begun
    assert sum(costs[0]["failed"].values()) > 0
    assert costs[0] == costs[1]
    assert left_behind(tmp_path / "ahead") == left_behind(tmp_path / "after")


@pytest.mark.parametrize("limit", [150, 173, 600])
def test_limits_are_as_exact(tmp_path: Path, limit: int, begun: list[Any]) -> None:
    limits = {"max_target_calls": limit}
    for name, ahead in ("after", False), ("ahead", True):
        with serve_words() as server:
            api = {"cache": False, "ask_ahead": ahead}
            result = start(server, tmp_path / name, api=api, limits=limits, **LONG)
            # What was really sent, not what the ledger says of it.
            assert len(chats(server)) == result.target_calls <= limit
    assert left_behind(tmp_path / "ahead") == left_behind(tmp_path / "after")
    assert bool(begun) == (limit == 600)  # only where the limit is far away


def test_a_limit_in_seconds_leaves_no_call_uncounted(tmp_path: Path, begun: list[Any]) -> None:
    with serve_words() as server:
        start(server, tmp_path / "run", limits={"max_seconds": 600}, **LONG)
    assert not begun


def test_answers_that_come_while_others_are_written_are_kept_on_disk(
    tmp_path: Path, begun: list[Any]
) -> None:
    with serve_words() as server:
        start(server, tmp_path / "one", **LONG)
        asked = len(server.requests)
        number = len(begun)
        start(server, tmp_path / "two", **LONG)
        assert len(server.requests) == asked
    assert number > 0
    assert len(begun) == number  # what is on disk is not sent ahead either
    assert left_behind(tmp_path / "two") == left_behind(tmp_path / "one")


def test_generated_answers_are_asked_ahead_too(tmp_path: Path, begun: list[Any]) -> None:
    rows = [{"text": f"red thing number {n}", "label": "red"} for n in range(40)]
    task = Task.from_records(rows, kind="generation", name="echo", seed_prompt="sort one text")
    for name, ahead in ("after", False), ("ahead", True):
        with serve_words() as server:
            config = tiny_config(**SHORT, target=target_at(server, cache=False, ask_ahead=ahead))
            build.start_run(task, config, tmp_path / name, Silence())
    assert begun
    assert left_behind(tmp_path / "ahead") == left_behind(tmp_path / "after")


def test_the_target_works_while_the_agent_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = threading.Event()
    sample = AgentLLM.sample

    def noted(self: AgentLLM, *args: Any, **options: Any) -> Any:
        writing.set()
        try:
            return sample(self, *args, **options)
        finally:
            writing.clear()

    meanwhile: list[str] = []

    def rule(request: Seen) -> Fault | None:
        messages = request.body.get("messages", ())
        if writing.is_set() and len(messages) > 1:
            meanwhile.append(messages[0]["content"])
        return None

    monkeypatch.setattr(AgentLLM, "sample", noted)
    with serve_words(faults=rule) as server:
        start(server, tmp_path / "run", api={"cache": False}, **LONG)
    assert set(meanwhile) - {TASK.seed_prompt}  # prompts of which others are still written


def test_a_server_that_dies_meanwhile_is_told_like_any(tmp_path: Path, begun: list[Any]) -> None:
    servers: list[ApiServer] = []

    def dies(seen: Seen) -> Fault | None:
        if seen.number == 70:
            threading.Thread(target=servers[0].close).start()
        return None

    servers.append(serve_words(faults=dies))
    with servers[0], pytest.raises(TargetError, match=r"cannot be reached.*resume the run"):
        start(servers[0], tmp_path / "cut", api={"attempts": 2})
    assert begun


def test_rows_are_told_once_as_soon_as_they_end_and_as_they_are() -> None:
    agent = make_agent(seed=7, temperature=1.0)
    query = agent.query_ids([{"role": "user", "content": "sort one text"}])
    uniforms = torch.rand(12, 16, dtype=torch.float64, generator=torch.manual_seed(3))
    told: list[tuple[int, str]] = []
    found = agent.sample(
        query, uniforms, on_end=lambda rows, texts: told.extend(zip(rows, texts, strict=True))
    )
    ended = [row for row, cut in enumerate(found.truncated) if not cut]
    assert sorted(row for row, _ in told) == ended
    assert len(ended) > 3
    assert all(found.texts[row] == text for row, text in told)
    lengths = found.mask.sum(dim=1).tolist()
    assert [lengths[row] for row, _ in told] == sorted(lengths[row] for row in ended)
    alone = agent.sample(query, uniforms)
    assert alone.texts == found.texts
    assert torch.equal(alone.ids, found.ids)
