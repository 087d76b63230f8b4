"""The target behind an API, against a server that is real but for its model."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stableprompt.errors import ConfigError, TargetError
from stableprompt.llm_config import TargetConfig
from stableprompt.models.targets.answer_cache import AnswerCache
from stableprompt.models.targets.api import ApiTarget
from tests.fakes.api_chat import OPENAI, TRANSFORMERS, VLLM
from tests.fakes.api_faults import (
    BAD_GATEWAY,
    CHAT_PATH,
    CONTENT_FILTER,
    CONTEXT_TOO_LONG,
    EMPTY,
    ERROR_IN_200,
    HALF_JSON,
    HANG,
    NO_CONTENT,
    QUOTA,
    RESET,
    SERVER_ERROR,
    TEMPORARY,
    UNAVAILABLE,
    Faults,
    always,
    at_attempt,
    drip,
    random_faults,
    rate_limit,
)
from tests.fakes.api_server import ApiServer

KEY = "sk-canary-0123456789abcdef"
# One token a letter but for "yes" and "no", which are whole.
PIECES = ["yes", "no", *"abcdefghijklmnopqrstuvwxyz ,.?!:;"]
CHANCES = {"yes": math.log(0.6), "no": math.log(0.2), "m": math.log(0.15), "y": math.log(0.05)}


def tokenize(text: str) -> list[int]:
    ids, rest = [], text
    while rest:
        piece = next((p for p in PIECES if rest.startswith(p)), rest[0])
        ids.append(PIECES.index(piece) if piece in PIECES else 1000 + ord(piece))
        rest = rest[len(piece) :]
    return ids


def token_of(number: int) -> str:
    return PIECES[number] if number < 1000 else chr(number - 1000)


def answer(messages: list[dict[str, str]]) -> str:
    """Repeats what it is told to."""
    return messages[-1]["content"].removeprefix("Say ")


def next_token(messages: list[dict[str, str]]) -> dict[str, float]:
    """The same at the beginning of every answer; the second letter behind a first one."""
    if messages[-1]["role"] == "assistant":
        return {"a": math.log(0.5), "b": math.log(0.25), "e": math.log(0.25)}
    return CHANCES


def on(text: str, rule: Faults) -> Faults:
    """The rule, for conversations with this text."""
    return lambda seen: rule(seen) if text in str(seen.body.get("messages")) else None


Open = Callable[..., tuple[ApiTarget, ApiServer]]


@pytest.fixture
def open_target(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """A target at a server of its own; nothing is kept on disk unless a test wants it."""
    opened: list[ApiServer | ApiTarget] = []
    monkeypatch.setenv("TEST_KEY", KEY)

    def open_it(
        *,
        cache: Path | None = None,
        labels: bool = False,
        api: dict[str, Any] | None = None,
        **options: Any,
    ) -> tuple[ApiTarget, ApiServer]:
        if labels:
            options |= {
                "next_token": next_token,
                "tokenize": tokenize,
                "token_of": token_of,
            }
        server = ApiServer(**{"answer": answer, "api_key": KEY, **options}).__enter__()
        opened.append(server)
        settings = {
            "base_url": server.base_url,
            "key_variable": "TEST_KEY",
            "longest_pause_seconds": 0.01,
            "timeout_seconds": 5,
        }
        config = TargetConfig.model_validate({"model": "fake-model", "api": settings | (api or {})})
        target = ApiTarget(config, AnswerCache(cache))
        opened.append(target)
        return target, server

    yield open_it
    for one in reversed(opened):
        one.close()


def say(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": f"Say {text}"}] for text in texts]


def chats(server: ApiServer) -> list[Any]:
    return [seen for seen in server.requests if seen.path == CHAT_PATH]


# --- what a server can do is found out ---


def test_a_server_with_all_of_vllm_is_asked_for_the_very_tokens(open_target: Open) -> None:
    target, _ = open_target(labels=True, capabilities=VLLM)
    assert target.dialect.token_ids
    assert target.gives_probabilities
    assert "logprob_token_ids" in target.how


def test_one_like_openai_shows_its_top_tokens(open_target: Open) -> None:
    target, _ = open_target(labels=True, capabilities=OPENAI)
    assert (target.dialect.top, target.dialect.token_ids) == (20, False)


@pytest.mark.parametrize("unsupported", ["refuse", "ignore", "transformers"])
def test_one_without_log_probabilities_is_read_word_by_word(
    open_target: Open, unsupported: str
) -> None:
    target, _ = open_target(capabilities=TRANSFORMERS, unsupported=unsupported)
    assert not target.gives_probabilities
    assert "writes" in target.how


def test_an_old_vllm_that_ignores_what_it_does_not_know(open_target: Open) -> None:
    known = VLLM - {"logprob_token_ids"}
    target, _ = open_target(labels=True, capabilities=known, unsupported="ignore")
    assert (target.dialect.top, target.dialect.token_ids) == (20, False)


def test_probabilities_can_be_declined(open_target: Open) -> None:
    target, server = open_target(labels=True, api={"labels": "text"})
    assert not target.gives_probabilities
    assert all("logprobs" not in seen.body for seen in server.requests)


# --- labels ---


def test_whole_words_by_their_tokens(open_target: Open) -> None:
    target, _ = open_target(labels=True, capabilities=VLLM)
    [row] = target.label_scores(say("x"), [["yes", "no"]]).label_probs.tolist()
    assert row == pytest.approx([0.75, 0.25])


def test_words_of_several_tokens_are_read_to_their_end(open_target: Open) -> None:
    target, server = open_target(labels=True, capabilities=VLLM)
    # m: 0.15, then a: 0.5 or e: 0.25; no: 0.2 at once.
    scores = target.label_scores(say("x"), [["ma", "me", "no"]])
    total = 0.15 * 0.5 + 0.15 * 0.25 + 0.2
    assert scores.label_probs[0].tolist() == pytest.approx(
        [0.075 / total, 0.0375 / total, 0.2 / total], abs=1e-6
    )
    assert server.requests[-1].body["messages"][-1] == {"role": "assistant", "content": "m"}


def test_words_that_begin_others_are_left_to_the_written_answer(open_target: Open) -> None:
    target, _ = open_target(labels=True, capabilities=VLLM)
    scores = target.label_scores(say("no more", "no"), [["no", "no more"]] * 2)
    assert scores.label_probs.tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_top_tokens_count_for_the_word_that_they_begin(open_target: Open) -> None:
    target, _ = open_target(labels=True, capabilities=OPENAI)
    [row] = target.label_scores(say("x"), [["Yes", "No", "perhaps"]]).label_probs.tolist()
    assert row == pytest.approx([0.65 / 0.85, 0.2 / 0.85, 0.0])  # "y" begins yes


def test_rows_of_unequal_width_are_padded(open_target: Open) -> None:
    target, _ = open_target(capabilities=TRANSFORMERS)
    scores = target.label_scores(say("b", "neither"), [["a", "b", "c"], ["a", "b"]])
    assert scores.label_probs.tolist() == [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    assert not scores.failed


def test_thinking_is_not_read_as_an_answer(open_target: Open) -> None:
    target, _ = open_target(capabilities=TRANSFORMERS)
    texts = ["<think>yes? no!</think> yes", "<think>yes"]
    rows = target.label_scores(say(*texts), [["yes", "no"]] * 2).label_probs.tolist()
    assert rows == [[1.0, 0.0], [0.0, 0.0]]


def test_free_answers_come_in_order_with_their_tokens(open_target: Open) -> None:
    target, server = open_target()
    texts = [f"word {number}" for number in range(30)]
    answers = target.generate(say(*texts), 8)
    assert answers.texts == tuple(texts)
    sent = chats(server)[-30:]
    assert answers.usage.written > 0
    assert answers.usage.read > answers.usage.written
    assert all(seen.body["temperature"] == 0.0 for seen in sent)


# --- what goes wrong ---

PASSING = {
    "500": SERVER_ERROR,
    "502 in HTML": BAD_GATEWAY,
    "503": UNAVAILABLE,
    "reset in mid-body": RESET,
    "half JSON": HALF_JSON,
    "empty": EMPTY,
    "error in 200": ERROR_IN_200,
    "no content": NO_CONTENT,
    "429": rate_limit(None),
    "429 with seconds": rate_limit(0.05),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=list(PASSING))
def test_what_may_pass_is_tried_again(open_target: Open, fault: Any) -> None:
    only_x = on("x", at_attempt(fault, 0))
    target, _server = open_target(faults=only_x)
    before = target.traffic.sent
    answers = target.generate(say("x one", "x two", "free"), 8)
    assert answers.texts == ("x one", "x two", "free")
    assert not answers.failed
    assert (target.traffic.sent - before, target.traffic.retries) == (5, 2)


@pytest.mark.parametrize("fault", [HANG, drip(0.05)], ids=["hang", "drip"])
def test_a_call_has_a_deadline_however_slowly_it_drips(open_target: Open, fault: Any) -> None:
    rule = on("x", at_attempt(fault, 0))
    target, _ = open_target(faults=rule, api={"timeout_seconds": 0.4})
    started = time.perf_counter()
    assert target.generate(say("x"), 8).texts == ("x",)
    assert 0.4 <= time.perf_counter() - started < 10
    assert target.traffic.retries == 1


def test_retry_after_is_waited_for_by_all(open_target: Open) -> None:
    rule = on("limited", at_attempt(rate_limit(0.6), 0))
    target, _server = open_target(faults=rule, api={"concurrency": 1})
    started = time.perf_counter()
    answers = target.generate(say("limited", "next"), 8)
    assert answers.texts == ("limited", "next")
    assert time.perf_counter() - started >= 0.6


def test_a_wait_of_an_hour_stops_the_run(open_target: Open) -> None:
    target, _ = open_target(faults=on("limited", always(rate_limit(3600))))
    with pytest.raises(TargetError, match="asks to wait 3600 s"):
        target.generate(say("limited"), 8)


@pytest.mark.parametrize("fault", [CONTEXT_TOO_LONG, CONTENT_FILTER], ids=["long", "filtered"])
def test_what_will_never_be_answered_is_left_out_at_once(open_target: Open, fault: Any) -> None:
    target, _ = open_target(faults=on("bad", always(fault)))
    answers = target.generate(say("good", "bad"), 8)
    assert answers.texts == ("good", "")
    assert list(answers.failed) == [1]
    assert target.traffic.retries == 0


def test_what_fails_to_the_last_is_left_out_and_is_no_label(open_target: Open) -> None:
    target, _ = open_target(faults=on("bad", always(SERVER_ERROR)), api={"attempts": 3})
    scores = target.label_scores(say("yes", "bad yes"), [["yes", "no"]] * 2)
    assert scores.label_probs.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert "500" in scores.failed[1]
    assert target.traffic.retries == 2


def test_too_many_failures_stop_the_run(open_target: Open) -> None:
    target, _ = open_target(faults=on("bad", always(SERVER_ERROR)), api={"attempts": 2})
    target.generate(say(*map(str, range(60)), *(f"bad {n}" for n in range(6))), 8)  # 6 of 66
    with pytest.raises(TargetError, match=r"10 of the last \d+ calls .* failed for good, .*500"):
        target.generate(say(*(f"bad {n}" for n in range(10, 20))), 8)


def test_no_money_left_stops_the_run_without_a_retry(open_target: Open) -> None:
    target, _ = open_target(faults=on("x", always(QUOTA)))
    with pytest.raises(TargetError, match="wants to be paid first"):
        target.generate(say("x"), 8)
    assert target.traffic.retries == 0


def test_three_faults_in_ten_change_nothing(open_target: Open) -> None:
    texts = [f"{('yes', 'no')[n % 2]} number {n}" for n in range(120)]
    calm, _ = open_target(capabilities=TRANSFORMERS)
    kinds = tuple(fault for fault in TEMPORARY if fault.delivery not in ("hang", "drip"))
    stormy, _server = open_target(
        capabilities=TRANSFORMERS,
        faults=random_faults(0.3, 7, kinds=(*kinds, rate_limit(0.02))),
        api={"attempts": 12},
    )
    words = [["yes", "no"]] * len(texts)
    one, other = calm.label_scores(say(*texts), words), stormy.label_scores(say(*texts), words)
    assert other.label_probs.tolist() == one.label_probs.tolist()
    assert other.usage == one.usage  # nothing is counted twice
    assert not other.failed
    assert stormy.traffic.retries > 20


# --- who does not let us in ---


def test_a_wrong_key_says_where_it_is_from_and_not_what_it_is(
    open_target: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    target, _server = open_target()
    wrong = "sk-other-canary-42424242"
    monkeypatch.setenv("TEST_KEY", wrong)
    with pytest.raises(TargetError, match="refuses the key in TEST_KEY") as caught:
        ApiTarget(target._config, AnswerCache(None))
    told, error = "", caught.value
    while error is not None:
        told += repr(error) + str(error.args)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert "canary" not in told
    assert "canary" not in caplog.text


def test_no_key_is_said_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="no OPENAI_API_KEY"):
        ApiTarget(TargetConfig(model="openai/gpt-4o-mini"), AnswerCache(None))


def test_a_wrong_model_is_told_which_there_are(open_target: Open) -> None:
    with pytest.raises(TargetError, match=r"'fake-model'.*404.*the server has other-model"):
        open_target(model="other-model")


def test_a_server_that_is_down_is_said_within_seconds() -> None:
    api = {"base_url": "http://127.0.0.1:9/v1", "longest_pause_seconds": 0.1}
    config = TargetConfig.model_validate({"model": "m", "api": api})
    with pytest.raises(
        TargetError, match=r"see whether the server is up at http://127\.0\.0\.1:9/v1"
    ):
        ApiTarget(config, AnswerCache(None))


# --- how much at once ---


def test_calls_run_side_by_side_but_not_too_many_on_few_connections(open_target: Open) -> None:
    def slow(messages: list[dict[str, str]]) -> str:
        time.sleep(0.02)
        return "ok"

    target, server = open_target(answer=slow, api={"concurrency": 4})
    target.generate(say(*map(str, range(40))), 4)
    assert 2 <= server.max_in_flight <= 4
    assert server.connections <= 5


def test_requests_keep_the_pace(open_target: Open) -> None:
    target, _ = open_target(api={"requests_per_minute": 1200})  # one in 0.05 s
    started = time.perf_counter()
    target.generate(say(*map(str, range(6))), 4)
    assert time.perf_counter() - started >= 0.25


# --- on disk ---


def test_a_second_run_sends_nothing(open_target: Open, tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    target, server = open_target(labels=True, capabilities=VLLM, cache=path)
    words = [["yes", "no"], ["ma", "me"]]
    first = target.label_scores(say("x", "y"), words), target.generate(say("x"), 8)
    sent = len(server.requests)
    again = ApiTarget(target._config, AnswerCache(path))
    assert again.label_scores(say("x", "y"), words).label_probs.equal(first[0].label_probs)
    assert again.generate(say("x"), 8) == first[1]
    assert (len(server.requests), again.traffic.sent) == (sent, 0)
    assert again.requests["from_disk"] >= 4
    again.close()


@pytest.mark.parametrize(
    "change", [{"max_tokens": 9}, {"text": "x "}, {"role": "system"}], ids=["room", "text", "role"]
)
def test_whatever_the_server_reads_makes_another_question(
    open_target: Open, tmp_path: Path, change: dict[str, Any]
) -> None:
    target, server = open_target(cache=tmp_path / "answers.sqlite")
    target.generate(say("x"), 8)
    sent = len(server.requests)
    message = {"role": change.get("role", "user"), "content": f"Say {change.get('text', 'x')}"}
    target.generate([[message]], change.get("max_tokens", 8))
    assert len(server.requests) == sent + 1


def test_errors_are_never_kept(open_target: Open, tmp_path: Path) -> None:
    rule = on("bad", lambda seen: SERVER_ERROR if seen.attempt < 2 else None)
    target, _server = open_target(faults=rule, cache=tmp_path / "a.sqlite", api={"attempts": 2})
    assert list(target.generate(say("bad"), 8).failed) == [0]
    answers = target.generate(say("bad"), 8)
    assert (answers.texts, dict(answers.failed)) == (("bad",), {})


def test_no_key_is_on_disk(open_target: Open, tmp_path: Path) -> None:
    target, _ = open_target(labels=True, capabilities=VLLM, cache=tmp_path / "a.sqlite")
    target.label_scores(say("x"), [["yes", "no"]])
    assert all(b"canary" not in file.read_bytes() for file in tmp_path.iterdir())


def test_a_folder_that_is_no_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"target\.api\.cache=false"):
        AnswerCache(tmp_path / "file" / "answers.sqlite")
