"""Several servers with the same target, real but for the model behind them."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from stableprompt.errors import TargetError
from stableprompt.llm_config import ApiConfig, TargetConfig
from stableprompt.models.targets.answer_cache import AnswerCache
from stableprompt.models.targets.api import ApiTarget
from stableprompt.models.targets.failures import Down, Failed, MayPass
from stableprompt.models.targets.traffic import Traffic
from tests.fakes.api_chat import OPENAI
from tests.fakes.api_faults import (
    CONTENT_FILTER,
    HANG,
    SERVER_ERROR,
    TEMPORARY,
    Fault,
    Faults,
    Seen,
    always,
    for_text,
    random_faults,
    rate_limit,
)
from tests.fakes.api_server import ApiServer

CALLS = 60


def answer(messages: list[dict[str, str]]) -> str:
    """Repeats what it is told to."""
    return messages[-1]["content"].removeprefix("Say ")


def say(count: int = CALLS) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": f"Say {number}"}] for number in range(count)]


TEXTS = tuple(map(str, range(CALLS)))


def is_call(seen: Seen) -> bool:
    """Whether it is one of ours, and not a question about what the server can do."""
    return any("Say" in str(message.get("content")) for message in seen.body.get("messages", ()))


def calls(server: ApiServer) -> int:
    """How many of ours came."""
    return sum(map(is_call, server.requests))


def taking(seconds: float) -> Faults:
    """No fault: each of our calls takes so long."""
    return lambda seen: time.sleep(seconds) if is_call(seen) else None


def for_calls(rule: Faults) -> Faults:
    return lambda seen: rule(seen) if is_call(seen) else None


Open = Callable[..., ApiServer]


@pytest.fixture
def serve() -> Iterator[Open]:
    opened: list[ApiServer] = []

    def open_it(**options: Any) -> ApiServer:
        server = ApiServer(**{"answer": answer, **options})
        server.__enter__()
        opened.append(server)
        return server

    yield open_it
    for server in opened:
        server.close()


def target_at(*servers: ApiServer, cache: Path | None = None, **api: Any) -> ApiTarget:
    own = {
        "base_url": [server.base_url for server in servers],
        "longest_pause_seconds": 0.05,
        "timeout_seconds": 5,
    }
    config = TargetConfig.model_validate({"model": "fake-model", "api": own | api})
    return ApiTarget(config, AnswerCache(cache))


def until(condition: Callable[[], bool]) -> None:
    """Wait, a minute at most."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# --- who takes how much ---


def test_replicas_share_the_calls_and_the_order_is_kept(serve: Open) -> None:
    servers = [serve(faults=taking(0.01)) for _ in range(3)]
    with closing(target_at(*servers)) as target:
        assert target.generate(say(), 4).texts == TEXTS
        told = target.requests
    shares = [calls(server) for server in servers]
    assert sum(shares) == CALLS
    assert min(shares) > CALLS / 6
    assert [told["replicas"][server.base_url]["sent"] for server in servers] == [
        len(server.requests) for server in servers
    ]
    assert told["sent"] == sum(len(server.requests) for server in servers)


def test_a_slower_replica_takes_less(serve: Open) -> None:
    fast, slow = serve(faults=taking(0.02)), serve(faults=taking(0.06))
    with closing(target_at(fast, slow, concurrency=2)) as target:
        assert target.generate(say(120), 4).texts == tuple(map(str, range(120)))
        assert target.requests["replicas"][slow.base_url]["set_aside"] == 0
    # Three to one: 90 and 30, less what a busy machine makes of it.
    assert 15 < calls(slow) < 45


def test_one_that_holds_up_the_others_is_set_aside_and_tried_again(serve: Open) -> None:
    fast, slow = serve(faults=taking(0.01)), serve(faults=taking(0.4))
    with closing(target_at(fast, slow, concurrency=2, longest_pause_seconds=0.3)) as target:
        for _ in range(8):
            assert target.generate(say(), 4).texts == TEXTS
        times = target.requests["replicas"][slow.base_url]["set_aside"]
        assert times >= 1
        until(lambda: not target.traffic.replicas.all[1].aside)
        before = calls(slow)
        target.generate(say(), 4)
        assert calls(slow) > before
    assert calls(slow) < calls(fast) / 5


def test_each_replica_has_slots_of_its_own(serve: Open) -> None:
    servers = [serve(faults=taking(0.4)) for _ in range(2)]
    with closing(target_at(*servers, concurrency=3)) as target:
        started = time.monotonic()
        target.generate(say(24), 4)
        seconds = time.monotonic() - started
        assert target.at_once == 4 * 3 * 2
        servers[1].close()
        target.generate(say(24), 4)
    assert [server.max_in_flight for server in servers] == [3, 3]
    assert seconds < 24 / 3 * 0.4  # what one alone takes at least


def test_the_pace_is_that_of_each_replica(serve: Open) -> None:
    servers = [serve() for _ in range(2)]
    with closing(target_at(*servers, requests_per_minute=1200)) as target:  # one in 0.05 s
        started = time.monotonic()
        target.generate(say(20), 4)
        seconds = time.monotonic() - started
    assert 9 * 0.05 < seconds < 19 * 0.05


# --- failures ---


def test_what_a_dead_replica_does_not_answer_another_one_does(serve: Open) -> None:
    dying, *others = servers = [serve(faults=taking(0.01)) for _ in range(3)]

    def die(seen: Seen) -> Fault | None:
        if is_call(seen) and calls(dying) == 8:
            threading.Thread(target=dying.close).start()
        return HANG if calls(dying) >= 8 else None  # until the connection ends

    dying._faults = die
    notes: list[str] = []
    # One attempt: what fails at one place costs the call nothing, as long as others work.
    with closing(target_at(*servers, attempts=1)) as target:
        target.tell = notes.append
        found = target.generate(say(), 4)
        again = target.generate(say(), 4)
        aside = target.requests["replicas"][dying.base_url]["set_aside"]
    assert found.texts == again.texts == TEXTS
    assert not found.failed
    assert aside == 1
    assert [note.split(" is set aside")[0] for note in notes] == [f"the replica {dying.base_url}"]
    assert sum(map(calls, others)) >= 2 * CALLS - 8


def test_a_dead_replica_that_comes_back_is_used_again(serve: Open) -> None:
    one, other = serve(faults=taking(0.01)), serve(faults=taking(0.01))
    notes: list[str] = []
    with closing(target_at(one, other)) as target:
        target.tell = notes.append
        assert target.generate(say(), 4).texts == TEXTS
        port = other.port
        other.close()
        before = calls(one)
        assert target.generate(say(), 4).texts == TEXTS
        assert calls(one) == before + CALLS
        back = serve(port=port, faults=taking(0.01))
        until(lambda: not target.traffic.replicas.all[1].aside)
        assert target.generate(say(), 4).texts == TEXTS
    assert CALLS / 4 < calls(back) < CALLS
    assert [note.removeprefix(f"the replica {other.base_url} ")[:13] for note in notes] == [
        "is set aside ",
        "answers again",
    ]


def test_one_that_hangs_is_set_aside_and_holds_up_a_few_calls_only(serve: Open) -> None:
    hanging, good = serve(faults=for_calls(always(HANG))), serve()
    with closing(target_at(hanging, good, timeout_seconds=0.3, attempts=1)) as target:
        found = target.generate(say(), 4)
    assert found.texts == TEXTS
    assert calls(hanging) <= 3 * 8  # it answers small questions, and is given some calls again


def test_all_dead_is_said_as_of_one_server(serve: Open) -> None:
    servers = [serve() for _ in range(3)]
    with closing(target_at(*servers, attempts=3)) as target:
        target.generate(say(), 4)
        for server in servers:
            server.close()
        started = time.monotonic()
        with pytest.raises(TargetError, match=r"cannot be reached.*resume the run when it is up"):
            target.generate(say(), 4)
    assert time.monotonic() - started < 10  # nobody is waited for


def test_a_call_that_fails_everywhere_is_left_out_alone(serve: Open) -> None:
    servers = [serve(faults=for_text("Say 7", SERVER_ERROR)) for _ in range(2)]
    texts = [conversation for n, conversation in enumerate(say(30)) if n != 7]
    with closing(target_at(*servers, attempts=4)) as target:
        found = target.generate([*texts, *say(8)[7:]], 4)
    assert list(found.failed) == [29]
    assert "500" in found.failed[29]
    assert found.texts[:29] == tuple(str(n) for n in range(30) if n != 7)
    asked = sum("Say 7" in str(s.body["messages"]) for one in servers for s in one.requests)
    assert 4 <= asked <= 8  # four attempts, each at both where both work


def test_what_one_answers_with_an_error_is_not_said_to_find_nobody() -> None:
    async def call(number: int, at: int) -> str:
        raise MayPass("500 of the first") if at == 0 else Down("nobody at the second")

    async def greet(at: int) -> None:
        raise Down("still nobody")

    config = ApiConfig(attempts=1, longest_pause_seconds=0.01)
    traffic = Traffic(config, 1, "m", ["first", "second"])
    traffic.replicas.greet = greet
    try:
        # Were nobody anywhere, it would stop the run.
        assert traffic.run(call, 1) == [Failed("500 of the first")]
    finally:
        traffic.close()


def test_a_replica_that_asks_for_a_rest_gets_it_and_the_other_goes_on(serve: Open) -> None:
    tired = serve(faults=for_calls(lambda seen: rate_limit(6.0) if seen.attempt == 0 else None))
    good = serve(faults=taking(0.01))
    with closing(target_at(tired, good)) as target:
        started = time.monotonic()
        assert target.generate(say(), 4).texts == TEXTS
        assert time.monotonic() - started < 5
    assert calls(tired) <= 8


def test_three_faults_in_ten_everywhere_lose_nothing(serve: Open) -> None:
    servers = [serve(faults=for_calls(random_faults(0.3, n, kinds=TEMPORARY))) for n in range(3)]
    with closing(target_at(*servers)) as target:
        found = target.generate(say(200), 4)
    assert found.texts == tuple(map(str, range(200)))
    assert not found.failed


def slow_at_second(greet: Callable[[int], Awaitable[None]]) -> tuple[Traffic, list[int]]:
    """Two replicas, of which the second holds up the first, after calls that showed it."""
    config = ApiConfig(concurrency=8, longest_pause_seconds=0.02)
    traffic = Traffic(config, 8, "m", ["fast", "slow"])
    traffic.replicas.greet = greet
    at_second: list[int] = []

    async def call(number: int, at: int) -> int:
        if at == 1:
            at_second.append(number)
        # Not all of them at once: while the last of the first eight is under way others are sent.
        await asyncio.sleep(0.2 + 0.02 * len(at_second) if at == 1 else 0.005)
        return number

    assert traffic.run(call, 1200) == list(range(1200))
    return traffic, at_second


def test_answers_to_what_was_sent_before_do_not_bring_one_back() -> None:
    async def greet(at: int) -> None:
        raise Down("it does not greet")

    traffic, at_second = slow_at_second(greet)
    with closing(traffic):
        assert len(at_second) > 8  # some were under way when the first eight had told
        assert traffic.replicas.all[1].aside
        assert traffic.replicas.told()["slow"]["set_aside"] == 1


def test_answers_to_what_was_sent_before_do_not_bring_another_target_back() -> None:
    async def greet(at: int) -> None:
        raise TargetError("it is another one by now")

    traffic, at_second = slow_at_second(greet)
    with closing(traffic):
        assert len(at_second) > 8
        assert not traffic.replicas.all[1].known


def test_one_that_comes_and_goes_is_asked_by_one_at_a_time() -> None:
    greeted: list[int] = []

    async def greet(at: int) -> None:
        greeted.append(at)
        raise Down("still nobody")

    async def call(number: int, at: int) -> int:
        raise Down("nobody")

    async def back(number: int, at: int) -> int:
        return number

    traffic = Traffic(ApiConfig(attempts=1, longest_pause_seconds=0.2), 1, "m", ["one", "other"])
    traffic.replicas.greet = greet
    with closing(traffic):
        traffic.answered = True
        started = time.monotonic()
        for _ in range(5):
            with pytest.raises(TargetError, match="cannot be reached"):
                traffic.run(call, 1)  # both are set aside
            assert traffic.run(back, 1) == [0]  # one of them is back by a call
        time.sleep(0.5)
    seconds = time.monotonic() - started
    assert len(greeted) <= 2 * (seconds / 0.2 + 1)  # each every 0.2 s, however often it went


# --- whether they are the same ---


def test_one_that_is_down_at_the_start_comes_in_later(serve: Open) -> None:
    late = serve()
    port = late.port
    late.close()
    good = serve(faults=taking(0.01))
    with closing(target_at(late, good)) as target:
        assert target.generate(say(), 4).texts == TEXTS
        back = serve(port=port, faults=taking(0.01))
        until(lambda: not target.traffic.replicas.all[0].aside)
        target.generate(say(), 4)
    assert calls(back) > 0


def test_all_down_at_the_start(serve: Open) -> None:
    servers = [serve() for _ in range(2)]
    for server in servers:
        server.close()
    with pytest.raises(TargetError, match=r"does not answer.*see whether the server is up at"):
        target_at(*servers)


LIKELY = {"next_token": lambda messages: {"yes": -0.1}, "capabilities": OPENAI}


def test_one_that_understands_something_else_is_refused(serve: Open) -> None:
    plain, rich = serve(), serve(**LIKELY)
    with pytest.raises(TargetError) as refused:
        target_at(plain, rich)
    told = str(refused.value)
    assert f"at {rich.base_url} is not the same as at {plain.base_url}" in told
    assert "20 log-probabilities" in told
    assert "no log-probabilities" in told


def test_one_with_another_model_is_refused(serve: Open) -> None:
    good, other = serve(), serve(model="other-model")
    with pytest.raises(TargetError, match=rf"{other.base_url} was not found.*has other-model"):
        target_at(good, other)


@pytest.mark.parametrize("options", [LIKELY, {"model": "other-model"}], ids=["more", "another"])
def test_one_that_comes_back_as_something_else_is_used_no_more(
    serve: Open, options: dict[str, Any]
) -> None:
    one, other = serve(), serve()
    notes: list[str] = []
    with closing(target_at(one, other)) as target:
        target.tell = notes.append
        target.generate(say(), 4)
        port = other.port
        other.close()
        target.generate(say(), 4)
        back = serve(port=port, **options)
        until(lambda: not target.traffic.replicas.all[1].known)
        assert target.generate(say(), 4).texts == TEXTS
        assert calls(back) == 0
        assert f"the replica {other.base_url} is used no more: " in notes[-1]
        one.close()
        with pytest.raises(TargetError, match="cannot be reached"):
            target.generate(say(), 4)


def test_what_one_has_answered_is_known_whoever_is_there_later(serve: Open, tmp_path: Path) -> None:
    one, other = serve(faults=taking(0.01)), serve(faults=taking(0.01))
    with closing(target_at(one, other, cache=tmp_path / "answers")) as target:
        target.generate(say(), 4)
    assert min(calls(one), calls(other)) > 0
    # Nobody is there: no replica has to be asked what it can do, either.
    one.close(), other.close()
    with closing(target_at(one, other, cache=tmp_path / "answers")) as target:
        assert target.generate(say(), 4).texts == TEXTS
        assert (target.requests["sent"], target.requests["from_disk"]) == (0, CALLS + 2)
    with closing(target_at(one, cache=tmp_path / "answers")) as target:
        assert target.generate(say(), 4).texts == TEXTS


# --- asked ahead ---


def test_what_is_asked_ahead_is_sent_once_and_what_is_on_disk_never(
    serve: Open, tmp_path: Path
) -> None:
    server = serve()
    first, second, third = say(3)
    with closing(target_at(server, cache=tmp_path / "answers")) as target:
        target.ask_ahead([first], None, 4)
        assert calls(server) == 0  # before any answer nobody knows whether it works
        target.generate([first], 4)
        target.ask_ahead([first], None, 4)
        target.ask_ahead([second, third], None, 4)
        target.ask_ahead([second], None, 4)
        until(lambda: calls(server) == 3)
        assert target.generate([third, first, second], 4).texts == ("2", "0", "1")
        assert calls(server) == 3
        assert target.requests["retries"] == 0


def test_what_fails_ahead_is_asked_again_in_order(serve: Open) -> None:
    server = serve(faults=for_text("Say 1", CONTENT_FILTER))
    first, second = say(2)
    with closing(target_at(server)) as target:
        target.generate([first], 4)
        target.ask_ahead([second], None, 4)
        until(lambda: calls(server) == 2)
        found = target.generate([second], 4)
        assert "content_filter" in found.failed[0]
        assert calls(server) == 3
        assert target.requests["retries"] == 1
