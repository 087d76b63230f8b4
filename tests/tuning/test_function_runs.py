"""Whole runs with a function of the user's own as the target, and with a judge behind an API."""

import json
import re
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stableprompt import build, evaluating
from stableprompt.errors import ConfigError, TargetError
from stableprompt.tasks.task import Task
from stableprompt.tuning.records import Silence, TuneResult
from tests.fakes.api_chat import Messages
from tests.fakes.api_faults import CONTENT_FILTER, Fault, Seen
from tests.fakes.api_server import ApiServer
from tests.fakes.word_agent import LABELS, make_task
from tests.fakes.word_server import answer, chats, serve_words, target_at
from tests.tuning.conftest import TINY, tiny_config

pytestmark = pytest.mark.usefixtures("elsewhere")

TASK = make_task(size=40)  # 16, 12 and 12 examples
SHORT: dict[str, Any] = {**TINY, "steps": 2}
AT_ONCE = {"longest_pause_seconds": 0.0}


def tune(function: Any, folder: Path, *, api: dict[str, Any] | None = None) -> TuneResult:
    target = {"model": function, "api": {**AT_ONCE, **(api or {})}}
    return build.tune(TASK, target=target, run_dir=folder, **SHORT)


def weather(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "timing.json").read_text())["requests"]
    return found


def shares(folder: Path) -> dict[str, float]:
    """Share of right answers on test, by prompt."""
    found = json.loads((folder / "test.json").read_text())["prompts"]
    return {one["prompt"]: sum(one["values"]) / len(one["values"]) for one in found}


def by_hand(prompt: str, task: Task = TASK, *, without: str | None = None) -> float:
    right = [
        answer([{"role": "system", "content": prompt}, {"role": "user", "content": e.text}])
        in e.answers
        for e in task.test
        if e.text != without
    ]
    return sum(right) / len(right)


# --- a function ---


def test_half_a_character_in_an_answer_can_be_written_down(tmp_path: Path) -> None:
    rows = [{"text": f"say {i}", "answer": "red"} for i in range(40)]
    task = Task.from_records(
        rows, text="text", label="answer", kind="generation", metric="contains"
    )
    target = {"model": lambda messages: "red \ud83d", "api": AT_ONCE}
    result = build.tune(task, target=target, run_dir=tmp_path / "run", **SHORT)
    assert result.test.score == 1
    assert '"red ?"' in (tmp_path / "run" / "test.json").read_text(encoding="utf-8")


def test_a_function_is_asked_like_a_server(tmp_path: Path) -> None:
    asked: list[Messages] = []

    def speak(messages: Messages) -> str:
        asked.append(messages)
        return f" {answer(messages).upper()}! "

    result = tune(speak, tmp_path / "function")
    with serve_words() as server:
        config = tiny_config(steps=2, target=target_at(server))
        other = build.start_run(TASK, config, tmp_path / "server", Silence())
        assert [seen.body["messages"] for seen in chats(server)] != []
        sent = {json.dumps(seen.body["messages"]) for seen in chats(server)}
    for name in ("prompts.jsonl", "test.json", "pairs.jsonl"):
        assert (tmp_path / "function" / name).read_bytes() == (
            tmp_path / "server" / name
        ).read_bytes()
    assert result.test == other.test
    assert {json.dumps(messages) for messages in asked} == sent
    assert len(asked) == result.target_calls == weather(tmp_path / "function")["sent"]
    assert result.setting["target"] == "function:speak"
    assert shares(result.run_dir) == {p: by_hand(p) for p in shares(result.run_dir)}


def test_a_prompt_is_evaluated_with_a_function() -> None:
    found = evaluating.evaluate(TASK, "please sort", target=answer)
    assert (found.score, found.n) == (pytest.approx(by_hand("please sort")), 12)
    assert found.score != by_hand("sort")  # it reads the prompt


def test_what_it_raises_at_times_changes_nothing(tmp_path: Path) -> None:
    attempts: Counter[str] = Counter()

    def moody(messages: Messages) -> str:
        key = json.dumps(messages)
        attempts[key] += 1
        if attempts[key] <= len(key) % 4:  # none, one, two or three times
            raise (ConnectionError("gone"), StopIteration(), SystemExit(1))[len(key) % 3]
        return answer(messages)

    tune(answer, tmp_path / "calm")
    result = tune(moody, tmp_path / "moody")
    for name in ("prompts.jsonl", "test.json", "pairs.jsonl"):
        assert (tmp_path / "moody" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()
    assert sum(result.cost["failed"].values()) == 0
    again = sum(attempts.values()) - len(attempts)
    assert weather(tmp_path / "moody")["retries"] == again > 100


def test_an_example_that_it_always_raises_on_is_left_out(tmp_path: Path) -> None:
    bad = TASK.test[3].text

    def picky(messages: Messages) -> str:
        if messages[-1]["content"] == bad:
            raise ValueError("not this one")
        return answer(messages)

    result = tune(picky, tmp_path / "run", api={"attempts": 2})
    assert (result.test.n, result.seed_test.n, result.paired.n) == (11, 11, 11)
    assert result.validation.n == 12
    assert result.cost["failed"]["test"] >= 1
    found = shares(result.run_dir)
    assert found == {prompt: pytest.approx(by_hand(prompt, without=bad)) for prompt in found}


class Notes(Silence):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def on_note(self, note: str) -> None:
        self.notes.append(note)


def test_why_the_first_call_failed_for_good_is_said_once() -> None:
    bad = {example.text for example in TASK.test[3:6]}

    def picky(messages: Messages) -> str:
        if messages[-1]["content"] in bad:
            raise ValueError("not this one")
        return answer(messages)

    watcher = Notes()
    target = {"model": picky, "api": {**AT_ONCE, "attempts": 1}}
    assert evaluating.evaluate(TASK, "sort", target=target, observer=watcher).n == 9
    told = [note for note in watcher.notes if "failed for good" in note]
    [note] = told
    said = r"a call failed for good and is left out: ValueError: not this one \(test_\S+py:\d+\)"
    assert re.fullmatch(said, note)


def test_a_function_that_never_works_is_told_after_few_tries() -> None:
    calls = 0

    def broken(messages: Messages) -> str:
        nonlocal calls
        calls += 1
        return messages[0]["text"]

    target = {"model": broken, "api": AT_ONCE}
    told = (
        r"none of its first 10 calls, the last one failed so: KeyError: 'text' \(test_\S+py:\d+\)"
    )
    with pytest.raises(TargetError, match=told):
        evaluating.evaluate(TASK, "sort", target=target)
    assert calls <= 41  # the next one may have begun


@pytest.mark.parametrize("first", [3, 9], ids=lambda n: f"{n} of 12")
def test_the_first_inputs_may_be_those_that_never_work(first: int) -> None:
    bad = {example.text for example in TASK.test[:first]}
    calls: Counter[str] = Counter()

    def picky(messages: Messages) -> str:
        calls[messages[-1]["content"]] += 1
        if messages[-1]["content"] in bad:
            raise ValueError("not this one")
        return answer(messages)

    target = {"model": picky, "api": AT_ONCE}
    prompt = "sort"
    if first == 3:
        assert evaluating.evaluate(TASK, prompt, target=target).n == 9
    else:
        with pytest.raises(TargetError, match=r"less than half of 12 examples .*not this one"):
            evaluating.evaluate(TASK, prompt, target=target)
    assert {calls[text] for text in bad} == {8}  # as often as the settings say


@pytest.mark.parametrize("returned", [None, 3, b"red", ["red"]], ids=lambda r: type(r).__name__)
def test_what_is_no_text_is_said_at_once(tmp_path: Path, returned: Any) -> None:
    calls = []

    def speak(messages: Messages) -> Any:
        calls.append(messages)
        return returned

    told = f"the target function speak must return a text, found {type(returned).__name__}"
    with pytest.raises(TargetError, match=told):
        tune(speak, tmp_path / "run")
    assert len(calls) <= 2  # the next one may have begun
    with pytest.raises(TargetError, match=told):
        evaluating.evaluate(TASK, "sort", target=speak)


@pytest.mark.parametrize("concurrency", [1, 4, 12])
def test_a_slow_function_is_called_from_so_many_threads(concurrency: int) -> None:
    lock = threading.Lock()
    together = threading.Barrier(concurrency)
    running = most = 0

    def slow(messages: Messages) -> str:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(20)  # until so many are here at once; 12 calls are whole groups of them
        with lock:
            running -= 1
        return answer(messages)

    target = {"model": slow, "api": {"concurrency": concurrency, "attempts": 1}}
    assert evaluating.evaluate(TASK, "sort", target=target).n == 12
    assert most == concurrency


def test_a_call_that_hangs_takes_no_other_calls_place(tmp_path: Path) -> None:
    first = True

    def hangs_once(messages: Messages) -> str:
        nonlocal first
        if first:
            first = False
            time.sleep(20)
        return answer(messages)

    api = {**AT_ONCE, "timeout_seconds": 0.3}
    started = time.monotonic()
    found = evaluating.evaluate(TASK, "sort", target={"model": hangs_once, "api": api})
    assert 0.3 <= time.monotonic() - started < 10
    assert (found.n, found.score) == (12, pytest.approx(by_hand("sort")))


def test_a_run_with_a_function_is_resumed_with_it_alone(tmp_path: Path) -> None:
    calls = 0

    def tires(messages: Messages) -> str:
        nonlocal calls
        calls += 1
        if 50 < calls < 100:
            raise TimeoutError
        return answer(messages)

    tune(answer, tmp_path / "whole")
    with pytest.raises(TargetError, match="failed for good, the last one: TimeoutError"):
        tune(tires, tmp_path / "cut", api={"attempts": 2})
    with pytest.raises(ConfigError, match="'function:tires' is a function of your own; give it"):
        build.resume(tmp_path / "cut")
    calls = 100
    build.resume(tmp_path / "cut", target=tires)
    for name in ("prompts.jsonl", "test.json", "pairs.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# --- a judge ---

ROWS = [{"text": f"{LABELS[i % 2]} thing number {i}", "label": LABELS[i % 2]} for i in range(40)]
JUDGED = Task.from_records(
    ROWS, name="colours", seed_prompt="sort one text", kind="generation", metric="judge"
)


def speak_or_judge(messages: Messages) -> str:
    """Rates an answer with yes where it is the reference."""
    question = messages[-1]["content"]
    if not is_rating(messages):
        return answer(messages)
    rated = question.partition("Answer to rate:\n")[2].partition("\n")[0]
    reference = question.partition("this reference: ")[2].partition("\n")[0]
    return "Yes." if rated == reference else "No."


def is_rating(messages: Messages) -> bool:
    return "Answer to rate:" in messages[-1]["content"]


def start(server: ApiServer, folder: Path, **api: Any) -> TuneResult:
    config = tiny_config(steps=2, target=target_at(server, **api))
    return build.start_run(JUDGED, config, folder, Silence())


def ratings(server: ApiServer) -> list[Seen]:
    return [
        seen
        for seen in server.requests
        if seen.body.get("messages") and is_rating(seen.body["messages"])
    ]


def test_a_judge_behind_the_api_rates_what_was_written(tmp_path: Path) -> None:
    with serve_words(answer=speak_or_judge) as server:
        result = start(server, tmp_path / "run")
        assert len(ratings(server)) > 0
        assert len({seen.body_hash for seen in server.requests}) == len(server.requests)
    assert result.test.metric == "judge"
    found = shares(result.run_dir)
    assert found == {prompt: pytest.approx(by_hand(prompt, JUDGED)) for prompt in found}
    assert result.cost["judge_calls"] >= 24


@pytest.mark.parametrize("after", [5, 40], ids=["early", "late"])
def test_a_judge_that_fails_for_good_stops_the_run_and_it_goes_on_when_it_works(
    tmp_path: Path, after: int
) -> None:
    works = False
    met = 0

    def rule(seen: Seen) -> Fault | None:
        nonlocal met
        if works or not is_rating(seen.body.get("messages") or [{"content": ""}]):
            return None
        met += 1
        return CONTENT_FILTER if met > after else None

    with serve_words(answer=speak_or_judge, faults=rule) as server:
        with pytest.raises(TargetError, match=r"the judge .* failed on .* resume the run when it"):
            start(server, tmp_path / "cut")
        assert met > after
        assert not (tmp_path / "cut" / "result.json").exists()
        works = True
        build.resume(tmp_path / "cut")
        answered = Counter(seen.body_hash for seen in server.requests if seen.status == 200)
    assert set(answered.values()) == {1}
    with serve_words(answer=speak_or_judge) as server:
        start(server, tmp_path / "whole")
    for name in ("prompts.jsonl", "test.json", "pairs.jsonl", "result.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_judge_is_asked_once_about_each_answer_without_the_cache_too(tmp_path: Path) -> None:
    with serve_words(answer=speak_or_judge) as server:
        result = start(server, tmp_path / "run", cache=False)
        asked = Counter(seen.body_hash for seen in ratings(server))
    assert result.cost["judge_calls"] == sum(asked.values())
    assert set(asked.values()) == {1}


def test_dollars_are_those_of_the_judge_as_well_where_it_is_the_target(tmp_path: Path) -> None:
    with serve_words(answer=speak_or_judge) as server:
        result = start(server, tmp_path / "run", cache=False, price_read=1.0, price_written=1.0)
    cost = result.cost
    tokens = sum(cost["target_tokens"].values()) + cost["judge_tokens"]
    assert cost["judge_tokens"] > 0
    assert cost["dollars"] == pytest.approx(tokens / 1e6, abs=1e-6)


def test_a_judge_of_its_own_has_its_price_and_is_hung_up(tmp_path: Path) -> None:
    with serve_words() as server, serve_words(answer=speak_or_judge) as other:
        judge = {"model": "fake-model", "api": target_at(other, price_read=3.0)["api"]}
        config = tiny_config(
            steps=2, target=target_at(server, price_read=1.0, price_written=2.0), judge=judge
        )
        result = build.start_run(JUDGED, config, tmp_path / "run", Silence())
        threads = [thread for thread in threading.enumerate() if thread.name == "traffic"]
    cost = result.cost
    written = sum(cost["target_written"].values())
    read = sum(cost["target_tokens"].values()) - written
    judged = cost["judge_tokens"] - cost["judge_written"]
    assert cost["dollars"] == pytest.approx((read + 2 * written + 3 * judged) / 1e6, abs=1e-6)
    assert judged > 0
    assert threads == []
    found = json.loads((tmp_path / "run" / "timing.json").read_text())
    assert found["judge_requests"]["sent"] >= cost["judge_calls"] > 0


def test_a_limit_in_tokens_holds_for_the_judge_as_well(tmp_path: Path) -> None:
    with serve_words(answer=speak_or_judge) as server:
        whole = start(server, tmp_path / "whole")
        most = (sum(whole.cost["target_tokens"].values()) + whole.cost["judge_tokens"]) * 2 // 3
        config = tiny_config(steps=2, target=target_at(server), limits={"max_tokens": most})
        result = build.start_run(JUDGED, config, tmp_path / "cut", Silence())
    used = sum(result.cost["target_tokens"].values()) + result.cost["judge_tokens"]
    assert sum(result.cost["target_tokens"].values()) < used <= most * 1.05
