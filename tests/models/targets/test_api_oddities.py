"""Servers that say odd things: no run ends with a traceback for it, and no limit is lost."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stableprompt.errors import TargetError
from stableprompt.llm_config import TargetConfig
from stableprompt.models.targets.answer_cache import AnswerCache
from stableprompt.models.targets.api import ApiTarget
from stableprompt.models.targets.interface import Usage
from stableprompt.models.targets.providers import is_api
from tests.fakes.api_faults import (
    CHAT_PATH,
    CONTENT_FILTER,
    HALF_JSON,
    RESET,
    SERVER_ERROR,
    Fault,
    Reply,
    Seen,
    at_attempt,
    for_path,
    rate_limit,
)
from tests.fakes.api_server import ApiServer
from tests.fakes.word_server import KEY, KEY_VARIABLE, serve_words, target_at

Open = Callable[..., tuple[ApiTarget, ApiServer]]
WORDS = ["red", "green"]


@pytest.fixture
def open_target(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    opened: list[Any] = []
    monkeypatch.setenv(KEY_VARIABLE, KEY)

    def open_it(
        *, cache: Path | None = None, dialect: str = "written answers", api: Any = None, **more: Any
    ) -> tuple[ApiTarget, ApiServer]:
        server = serve_words(dialect, **more).__enter__()
        opened.append(server)
        config = TargetConfig.model_validate(target_at(server, **api or {}))
        target = ApiTarget(config, AnswerCache(cache))
        opened.append(target)
        return target, server

    yield open_it
    for one in reversed(opened):
        one.close()


def conversations(*texts: str) -> list[list[dict[str, str]]]:
    return [
        [{"role": "system", "content": "sort"}, {"role": "user", "content": text}] for text in texts
    ]


def says(value: Any, *, status: int = 200) -> Callable[[Seen], Fault | None]:
    """This, to everything that is about a text; bytes as they are."""
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    fault = Fault("odd", lambda _: Reply(status, content))
    return lambda seen: fault if len(seen.body.get("messages", ())) > 1 else None


def reply(content: Any = "red", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": "stop", **more.pop("choice", {})}
    return {"choices": [choice], **more}


def listed(logprob: Any) -> dict[str, Any]:
    """Log-probabilities at the first place."""
    return {"logprobs": {"content": [{"top_logprobs": [{"token": "red", "logprob": logprob}]}]}}


READABLE: dict[str, Any] = {
    "tokens in a text": reply(usage={"prompt_tokens": "many"}),
    "tokens in a list": reply(usage=[1, 2]),
    "no number of tokens": reply(usage={"prompt_tokens": float("nan")}),
    "endless tokens": reply(usage={"prompt_tokens": float("inf")}),
    "fewer than no tokens": reply(usage={"prompt_tokens": -5, "completion_tokens": -1}),
    "text in parts": reply([{"type": "text", "text": "re"}, {"type": "text", "text": "d"}]),
    "thoughts in parts": reply(
        [
            {"type": "thinking", "thinking": [{"type": "text", "text": "red or green?"}]},
            {"type": "text", "text": "red"},
        ]
    ),
    "half a character": b'{"choices":[{"message":{"content":"red \\ud83d"}}]}',
    "a mark at the beginning": b"\xef\xbb\xbf" + json.dumps(reply()).encode(),
    "log-probabilities in words": reply(choice=listed("likely")),
    "no log-probability": reply(choice=listed(float("nan"))),
    "more than certain": reply(choice=listed(1e6)),
    "endless certainty": reply(choice=listed(float("inf"))),
    "log-probabilities as a text": reply(choice={"logprobs": "none"}),
}


@pytest.mark.parametrize("dialect", ["written answers", "top tokens"])
@pytest.mark.parametrize("said", READABLE.values(), ids=list(READABLE))
def test_what_can_be_read_is_read(
    open_target: Open, tmp_path: Path, said: Any, dialect: str
) -> None:
    target, _ = open_target(dialect=dialect, cache=tmp_path / "a.sqlite", faults=says(said))
    for _ in range(2):  # the second time from disk
        scores = target.label_scores(conversations("red thing"), [WORDS])
        assert scores.label_probs.tolist() == [[1.0, 0.0]]
        assert not scores.failed
        assert scores.usage.read > 0
        assert scores.usage.written > 0


UNREADABLE: dict[str, Any] = {
    "no choices": {"choices": None},
    "a choice that is none": {"choices": ["red"]},
    "a message that is none": {"choices": [{"message": "red"}]},
    "a list": [reply()],
    "a text": "red",
    "nothing": None,
    "a page": b"<html>busy</html>",
    "a stream": b'data: {"choices":[{"delta":{"content":"red"}}]}\n\ndata: [DONE]\n\n',
    "another encoding": '{"choices":[{"message":{"content":"r\u00e9d"}}]}'.encode("latin-1"),
    "brackets without end": b"[" * 100_000,
}


@pytest.mark.parametrize("said", UNREADABLE.values(), ids=list(UNREADABLE))
def test_what_cannot_be_read_is_tried_again_and_then_left_out(open_target: Open, said: Any) -> None:
    target, _ = open_target(faults=says(said), api={"attempts": 2})
    scores = target.label_scores(conversations("red thing"), [WORDS])
    assert list(scores.failed) == [0]
    assert target.traffic.retries == 1


def test_an_answer_that_was_filtered_is_none_even_where_some_of_it_was_written(
    open_target: Open,
) -> None:
    said = reply("re", choice={"finish_reason": "content_filter"})
    target, _ = open_target(faults=says(said))
    scores = target.label_scores(conversations("red thing"), [WORDS])
    assert scores.failed == {0: "the answer was filtered"}
    assert target.traffic.retries == 0


def test_a_refusal_of_the_model_is_its_answer(open_target: Open) -> None:
    said = reply(None)
    said["choices"][0]["message"]["refusal"] = "I will not say."
    target, _ = open_target(faults=says(said))
    answers = target.generate(conversations("red thing"), 5)
    assert (answers.texts, dict(answers.failed)) == (("I will not say.",), {})


def test_where_a_server_counts_no_tokens_they_are_estimated(open_target: Open) -> None:
    target, _ = open_target(faults=says(reply("red" * 8)))
    answers = target.generate(conversations("x" * 36), 50)
    # Four characters each: 4 + 36 read and 24 written, and one more for what is left over.
    assert answers.usage == Usage(11, 7)


TOLD: dict[str, Any] = {
    "OpenAI's": ({"error": {"message": "too odd", "code": "odd"}}, "400 odd too odd"),
    "in a list": ([{"error": {"message": "not valid", "code": 400}}], "400 400 not valid"),
    "a plain text": ({"error": "too odd"}, "400 too odd"),
    "FastAPI's": ({"detail": "too odd"}, "400 too odd"),
    "a page": (b"<html>bad</html>", "400"),
    "with the key": ({"error": {"message": f"{KEY} may not"}}, "400 [key] may not"),
}


@pytest.mark.parametrize(("said", "why"), TOLD.values(), ids=list(TOLD))
def test_why_a_call_was_refused_is_told(open_target: Open, said: Any, why: str) -> None:
    target, _ = open_target(faults=says(said, status=400))
    assert target.generate(conversations("red"), 5).failed == {0: why}


def test_without_a_key_the_word_none_is_no_key(
    open_target: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    said = {"error": {"message": "none of them"}}
    api = {"key_variable": None}
    target, _ = open_target(api_key=None, api=api, faults=says(said, status=400))
    assert target.generate(conversations("red"), 5).failed == {0: "400 none of them"}


# --- the beginning ---


@pytest.mark.parametrize(
    "fault", [SERVER_ERROR, RESET, HALF_JSON, rate_limit()], ids=lambda f: f.name
)
def test_a_fault_while_it_is_seen_whether_the_server_tokenizes(
    open_target: Open, fault: Fault
) -> None:
    rule = for_path("/tokenize", at_attempt(fault, 0))
    target, server = open_target(dialect="token ids", faults=rule)
    assert target.dialect.token_ids
    assert target.requests["sent"] == len(server.requests)  # each of them is counted


def test_a_server_that_stops_tokenizing_is_not_read_in_another_way(
    open_target: Open, tmp_path: Path
) -> None:
    broken = True

    def rule(seen: Seen) -> Fault | None:
        return SERVER_ERROR if broken and seen.body.get("prompt") in WORDS else None

    target, _ = open_target(
        dialect="token ids", cache=tmp_path / "a.sqlite", faults=rule, api={"attempts": 2}
    )
    with pytest.raises(TargetError, match="did tokenize and no longer does: 500"):
        target.label_scores(conversations("red thing"), [WORDS])
    broken = False  # and nothing of that was kept
    [row] = target.label_scores(conversations("red thing"), [WORDS]).label_probs.tolist()
    assert row == pytest.approx([0.2, 0.8])


def test_a_folder_is_a_name_like_any_other_to_a_server_of_its_own(tmp_path: Path) -> None:
    url = "http://localhost:8000/v1"
    config = TargetConfig.model_validate({"model": str(tmp_path), "api": {"base_url": url}})
    assert is_api(config)
    assert is_api(config, str(tmp_path))
    (tmp_path / "judge").mkdir()
    assert not is_api(config, str(tmp_path / "judge"))  # another model's folder is loaded
    assert not is_api(TargetConfig(model=str(tmp_path)))


# --- when to stop ---


def test_what_a_server_refuses_is_left_out_and_nothing_is_down(open_target: Open) -> None:
    def rule(seen: Seen) -> Fault | None:
        return CONTENT_FILTER if "bad" in str(seen.body.get("messages")) else None

    target, _ = open_target(faults=rule)
    some = [f"{('bad ', '')[n % 3 > 0]}red {n}" for n in range(150)]
    assert len(target.generate(conversations(*some), 5).failed) == 50  # a third
    answers = target.generate(conversations(*(f"bad red {n}" for n in range(100))), 5)
    assert len(answers.failed) == 100


def test_a_server_that_is_gone_is_no_fault_of_an_example(open_target: Open) -> None:
    target, server = open_target(api={"attempts": 2})
    server.close()
    with pytest.raises(TargetError, match=r"cannot be reached: no connection .*resume the run"):
        target.generate(conversations("red"), 5)


def test_pauses_grow_where_the_server_always_asks_for_a_short_one(
    open_target: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    # The upper end of what is drawn at random.
    monkeypatch.setattr("tenacity.wait.random.uniform", lambda low, high: high)
    monkeypatch.setattr("tenacity.wait.random.random", lambda: 1.0)

    def rule(seen: Seen) -> Fault | None:
        return rate_limit(0.01) if len(seen.body.get("messages", ())) > 1 else None

    api = {"attempts": 5, "longest_pause_seconds": 0.4}
    target, _ = open_target(faults=for_path(CHAT_PATH, rule), api=api)
    honest = target.traffic._pause

    def pause(state: Any) -> float:
        asked.append(honest(state))
        return asked[-1]

    monkeypatch.setattr(target.traffic, "_pause", pause)
    started = time.monotonic()
    assert list(target.generate(conversations("red"), 5).failed) == [0]
    # 0.5 seconds doubled each time, 0.4 at most; three pauses, and the fifth attempt later.
    assert asked[:3] == [0.4] * 3
    assert time.monotonic() - started >= 1.2
