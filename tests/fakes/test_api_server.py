"""The fake API server keeps to the protocol and fails as it is told to."""

import email.utils
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, IncompleteRead
from typing import Any

import pytest

from tests.fakes.api_chat import OPENAI, TRANSFORMERS, VLLM, Messages
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
    Fault,
    Seen,
    always,
    at_attempt,
    drip,
    first_of,
    for_path,
    for_text,
    hash_body,
    random_faults,
    rate_limit,
)
from tests.fakes.api_server import ApiServer

WORDS = ["yes", "no", " yes", " no", "é"]
LIKELY = {" yes": -0.5, " no": -1.5, "yes": -2.5}


class Client:
    """One kept-alive connection."""

    def __init__(self, server: ApiServer, key: str | None = None) -> None:
        port = int(server.base_url.rsplit(":", 1)[1].removesuffix("/v1"))
        self.connection = HTTPConnection("127.0.0.1", port, timeout=10)
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def send(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        content = None if body is None else json.dumps(body)
        self.connection.request(method, path, content, self.headers)
        response = self.connection.getresponse()
        self.response_headers = response.headers
        return response.status, response.read()

    def chat(self, text: str = "hello", **fields: Any) -> tuple[int, Any]:
        status, content = self.raw_chat(text, **fields)
        return status, json.loads(content)

    def raw_chat(self, text: str = "hello", **fields: Any) -> tuple[int, bytes]:
        body = {"model": "fake-model", "messages": [{"role": "user", "content": text}], **fields}
        return self.send("POST", CHAT_PATH, body)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()


def say_yes(messages: Messages) -> str:
    return " yes"


def tokenize(text: str) -> list[int]:
    """Whole words of `WORDS`; anything else is its characters, which have no ids of their own."""
    return [WORDS.index(text)] if text in WORDS else [len(WORDS)] * len(text)


def token_of(number: int) -> str:
    return [*WORDS, "?"][number]


def make_server(**options: Any) -> ApiServer:
    """Like vLLM, with five words."""
    options = {"tokenize": tokenize, "token_of": token_of, **options}
    return ApiServer(say_yes, lambda messages: LIKELY, **options)


@pytest.fixture
def vllm() -> Iterator[tuple[ApiServer, Client]]:
    with make_server() as server, Client(server) as client:
        yield server, client


def first_position(reply: Any) -> Any:
    return reply["choices"][0]["logprobs"]["content"][0]


# --- the protocol ---


def test_the_answer_depends_on_the_messages_and_the_tokens_are_counted() -> None:
    def echo(messages: Messages) -> str:
        return messages[-1]["content"].upper()

    with ApiServer(echo) as server, Client(server) as client:
        status, reply = client.chat("one two three")
    assert status == 200
    assert reply["choices"][0]["message"] == {
        "role": "assistant",
        "content": "ONE TWO THREE",
        "refusal": None,
    }
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_answer_is_cut_at_the_limit(name: str) -> None:
    with ApiServer(lambda _: "one two\nthree") as server, Client(server) as client:
        limit: dict[str, Any] = {name: 2}
        _, reply = client.chat(**limit)
        (choice,) = reply["choices"]
        assert choice["message"]["content"] == "one two"
        assert choice["finish_reason"] == "length"
        assert reply["usage"]["completion_tokens"] == 2
        limit = {name: 4}
        (choice,) = client.chat(**limit)[1]["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("one two\nthree", "stop")


def test_top_logprobs_are_the_likeliest_tokens_in_order() -> None:
    with make_server(capabilities=OPENAI) as server, Client(server) as client:
        _, reply = client.chat(logprobs=True, top_logprobs=2)
    position = first_position(reply)
    assert position["token"] == " yes"
    assert position["logprob"] == -0.5
    assert position["top_logprobs"] == [
        {"token": " yes", "logprob": -0.5, "bytes": [32, 121, 101, 115]},
        {"token": " no", "logprob": -1.5, "bytes": [32, 110, 111]},
    ]


def test_an_unlikely_answer_is_among_the_top_logprobs_of_vllm_but_not_of_openai() -> None:
    for capabilities, shown in ((VLLM, [" no"]), (OPENAI, [" yes"])):
        with (
            ApiServer(
                lambda _: " no",
                lambda _: LIKELY,
                tokenize=tokenize,
                token_of=token_of,
                capabilities=capabilities,
            ) as server,
            Client(server) as client,
        ):
            position = first_position(client.chat(logprobs=True, top_logprobs=1)[1])
        assert (position["token"], position["logprob"]) == (" no", -1.5)
        assert [entry["token"] for entry in position["top_logprobs"]] == shown


def test_more_than_20_top_logprobs_or_without_logprobs_are_refused(
    vllm: tuple[ApiServer, Client],
) -> None:
    _, client = vllm
    assert client.chat(logprobs=True, top_logprobs=20)[0] == 200
    wrong: list[dict[str, Any]] = [{"logprobs": True, "top_logprobs": 21}, {"top_logprobs": 1}]
    for fields in wrong:
        status, reply = client.chat(**fields)
        assert status == 400
        assert reply["error"]["param"] == "top_logprobs"


def test_logprob_token_ids_give_the_sampled_token_and_then_those_asked_for(
    vllm: tuple[ApiServer, Client],
) -> None:
    _, client = vllm
    # 2 is " yes", the sampled one: named twice, given once. "é" has no log-probability.
    _, reply = client.chat(logprobs=True, logprob_token_ids=[3, 4, 2], top_logprobs=1)
    assert first_position(reply)["top_logprobs"] == [
        {"token": " yes", "logprob": -0.5, "bytes": [32, 121, 101, 115]},
        {"token": " no", "logprob": -1.5, "bytes": [32, 110, 111]},
        {"token": "é", "logprob": -9999.0, "bytes": [195, 169]},
    ]


def test_tokens_are_given_as_ids_on_request(vllm: tuple[ApiServer, Client]) -> None:
    _, client = vllm
    asked: dict[str, Any] = {"logprobs": True, "return_tokens_as_token_ids": True}
    position = first_position(client.chat(**asked, logprob_token_ids=[3])[1])
    assert position["token"] == "token_id:2"
    assert bytes(position["bytes"]) == b" yes"
    assert [entry["token"] for entry in position["top_logprobs"]] == ["token_id:2", "token_id:3"]
    assert bytes(position["top_logprobs"][1]["bytes"]) == b"token_id:3"
    top = first_position(client.chat(**asked, top_logprobs=3)[1])["top_logprobs"]
    assert [entry["token"] for entry in top] == ["token_id:2", "token_id:3", "token_id:0"]


@pytest.mark.parametrize("ids", [[], [6], [-1], [0] * 129])
def test_impossible_token_ids_are_refused(vllm: tuple[ApiServer, Client], ids: list[int]) -> None:
    status, reply = vllm[1].chat(logprobs=True, logprob_token_ids=ids)
    assert status == 400
    assert reply["error"]["param"] == "logprob_token_ids"


def test_next_token_sees_the_opening_that_is_to_be_continued() -> None:
    seen: list[Messages] = []

    def note(messages: Messages) -> dict[str, float]:
        seen.append(messages)
        return LIKELY

    opening = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "It is"}]
    with ApiServer(say_yes, note) as server, Client(server) as client:
        asked: dict[str, Any] = {
            "messages": opening,
            "logprobs": True,
            "continue_final_message": True,
        }
        # As in vLLM, where add_generation_prompt is true unless it is told otherwise.
        assert client.chat(**asked)[0] == 400
        assert client.chat(**asked, add_generation_prompt=False)[0] == 200
    assert seen == [opening]


def test_tokenize_and_models(vllm: tuple[ApiServer, Client]) -> None:
    _, client = vllm
    body = {"model": "fake-model", "prompt": " no", "add_special_tokens": False}
    status, content = client.send("POST", "/tokenize", body)
    assert status == 200
    assert json.loads(content) == {
        "tokens": [3],
        "count": 1,
        "max_model_len": 4096,
        "token_strs": None,
    }
    assert client.send("POST", "/v1/tokenize", body)[0] == 404
    status, content = client.send("GET", "/v1/models")
    assert [card["id"] for card in json.loads(content)["data"]] == ["fake-model"]


def test_the_wrong_model_is_not_found(vllm: tuple[ApiServer, Client]) -> None:
    status, reply = vllm[1].chat(model="other")
    assert status == 404
    assert reply["error"]["code"] == "model_not_found"
    assert "other" in reply["error"]["message"]


def test_a_wrong_key_is_refused_and_partly_repeated() -> None:
    with make_server(api_key="sk-right") as server:
        for key in (None, "sk-wrong-0123456789", "sk-right"):
            with Client(server, key) as client:
                client.chat()
                if key and key != "sk-right":
                    message = client.chat()[1]["error"]["message"]
                    assert message == "Incorrect API key provided: sk-wrong*******6789."
        assert [seen.status for seen in server.requests] == [401, 401, 401, 200]
        assert server.requests[-1].authorization == "Bearer sk-right"


def test_a_body_that_is_not_json_is_refused_and_noted(vllm: tuple[ApiServer, Client]) -> None:
    server, client = vllm
    assert client.send("POST", CHAT_PATH, ["no", "object"])[0] == 400
    assert server.requests[0].status == 400


# --- what a server may lack ---

LOGPROBS = {"logprobs": True, "top_logprobs": 2}
IDS = {"logprobs": True, "logprob_token_ids": [2]}


@pytest.mark.parametrize(
    ("capabilities", "unsupported", "fields", "status"),
    [
        (OPENAI, "refuse", LOGPROBS, 200),
        (OPENAI, "refuse", IDS, 400),
        (OPENAI, "refuse", {"continue_final_message": True}, 400),
        (OPENAI, "refuse", {"chat_template_kwargs": {}}, 400),
        (OPENAI, "refuse", {"seed": 1, "temperature": 0}, 200),
        (OPENAI - {"seed"}, "refuse", {"seed": 1}, 400),
        (OPENAI - {"seed"}, "ignore", {"seed": 1}, 200),
        (VLLM, "refuse", {"chat_template_kwargs": {}, "unheard_of": 1}, 200),
        (TRANSFORMERS, "refuse", LOGPROBS, 400),
        (TRANSFORMERS, "ignore", IDS, 200),
        (TRANSFORMERS, "transformers", LOGPROBS, 200),
        (TRANSFORMERS, "transformers", IDS, 422),
    ],
)
def test_fields_beyond_the_capabilities(
    capabilities: frozenset[str], unsupported: Any, fields: dict[str, Any], status: int
) -> None:
    with (
        make_server(capabilities=capabilities, unsupported=unsupported) as server,
        Client(server) as client,
    ):
        got, reply = client.chat(**fields)
    assert got == status
    if status == 400:
        assert reply["error"]["param"] in fields
    elif status == 200:
        with_logprobs = fields == LOGPROBS and "top_logprobs" in capabilities
        assert (reply["choices"][0]["logprobs"] is not None) == with_logprobs


def test_logprobs_that_are_ignored_may_be_asked_for_in_any_number() -> None:
    with ApiServer(say_yes, unsupported="ignore") as server, Client(server) as client:
        assert client.chat(logprobs=True, top_logprobs=99)[0] == 200


def test_a_capability_without_its_function_is_refused() -> None:
    with pytest.raises(ValueError, match="top_logprobs"):
        ApiServer(say_yes, capabilities=OPENAI)


def test_lacking_paths_are_not_found() -> None:
    with make_server(capabilities=frozenset()) as server, Client(server) as client:
        assert client.send("GET", "/v1/models")[0] == 404
        assert client.send("POST", "/tokenize", {"model": "fake-model", "prompt": "x"})[0] == 404


# --- what the server notes ---


def test_attempts_are_counted_for_each_body(vllm: tuple[ApiServer, Client]) -> None:
    server, client = vllm
    for text in ("a", "b", "a", "a"):
        client.chat(text)
    assert [seen.attempt for seen in server.requests] == [0, 0, 1, 2]
    assert [seen.number for seen in server.requests] == [0, 1, 2, 3]
    assert server.requests[1].body["messages"][0]["content"] == "b"


def test_the_hash_of_a_body_passes_over_the_order_of_its_fields() -> None:
    assert hash_body("/a", {"x": 1, "y": 2}) == hash_body("/a", {"y": 2, "x": 1})
    assert hash_body("/a", {"x": 1}) != hash_body("/b", {"x": 1})


def test_one_client_reuses_its_connection_and_is_never_two_in_flight(
    vllm: tuple[ApiServer, Client],
) -> None:
    server, client = vllm
    began = time.perf_counter()
    for number in range(50):
        assert client.chat(str(number))[0] == 200
    assert time.perf_counter() - began < 2  # 40 ms each with Nagle's algorithm
    assert server.connections == 1
    assert server.max_in_flight == 1


def test_requests_at_once_are_counted() -> None:
    together = threading.Barrier(8, timeout=10)

    def meet(messages: Messages) -> str:
        together.wait()
        return "met"

    def ask(number: int) -> int:
        with Client(server) as client:
            return client.chat(str(number))[0]

    with ApiServer(meet) as server, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [200] * 8
        assert server.max_in_flight == 8
        assert server.connections == 8


def test_a_failing_answer_reaches_the_test() -> None:
    def fail(messages: Messages) -> str:
        raise LookupError("no such answer")

    with (
        pytest.raises(LookupError, match="no such answer"),
        ApiServer(fail) as server,
        Client(server) as client,
    ):
        assert client.chat()[0] == 500


# --- faults ---


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (rate_limit(), 429, "rate_limit_exceeded"),
        (QUOTA, 429, "insufficient_quota"),
        (SERVER_ERROR, 500, None),
        (UNAVAILABLE, 503, None),
        (ERROR_IN_200, 200, "502"),
        (CONTEXT_TOO_LONG, 400, "context_length_exceeded"),
        (CONTENT_FILTER, 400, "content_filter"),
    ],
)
def test_faults_with_an_error_object(fault: Fault, status: int, code: str | None) -> None:
    with ApiServer(say_yes, faults=always(fault)) as server, Client(server) as client:
        got, reply = client.chat()
        assert (got, reply["error"]["code"]) == (status, code)
        assert "choices" not in reply
        assert (server.requests[0].status, server.requests[0].fault) == (status, fault.name)


def test_retry_after_in_seconds_and_as_a_date() -> None:
    fault = first_of(at_attempt(rate_limit(0.25), 0), always(rate_limit(1.5, as_date=True)))
    with ApiServer(say_yes, faults=fault) as server, Client(server) as client:
        client.chat()
        assert client.response_headers["Retry-After"] == "0.25"
        client.chat()
        date = email.utils.parsedate_to_datetime(client.response_headers["Retry-After"])
        assert 0.5 < date.timestamp() - time.time() <= 2.5  # 1.5 s, up to the next whole second
    with (
        ApiServer(say_yes, faults=always(rate_limit(None))) as server,
        Client(server) as client,
    ):
        client.chat()
        assert "Retry-After" not in client.response_headers


def test_bodies_that_are_no_proper_answer() -> None:
    rules = [for_text(fault.name, fault) for fault in (BAD_GATEWAY, HALF_JSON, EMPTY, NO_CONTENT)]
    with ApiServer(say_yes, faults=first_of(*rules)) as server, Client(server) as client:
        status, content = client.raw_chat(BAD_GATEWAY.name)
        assert (status, content[:6]) == (502, b"<html>")
        assert client.response_headers["Content-Type"] == "text/html"
        status, content = client.raw_chat(HALF_JSON.name)
        assert status == 200
        with pytest.raises(json.JSONDecodeError):
            json.loads(content)
        assert client.raw_chat(EMPTY.name) == (200, b"")
        status, reply = client.chat(NO_CONTENT.name)
        assert (status, reply["choices"][0]["message"]["content"]) == (200, None)
        # Each had its right length: the connection was good for the next.
        assert client.chat("fine")[0] == 200
        assert server.connections == 1


def test_a_reset_comes_in_the_middle_of_the_body() -> None:
    with ApiServer(say_yes, faults=at_attempt(RESET, 0)) as server, Client(server) as client:
        body = {"model": "fake-model", "messages": [{"role": "user", "content": "hello"}]}
        client.connection.request("POST", CHAT_PATH, json.dumps(body))
        response = client.connection.getresponse()
        half = int(response.headers["Content-Length"]) // 2
        assert len(response.read(half)) == half
        with pytest.raises(ConnectionResetError):
            response.read()
        client.connection.close()
        assert client.chat()[0] == 200


def test_a_drip_arrives_whole_but_slowly() -> None:
    with ApiServer(say_yes, faults=always(drip(0.001))) as server, Client(server) as client:
        began = time.perf_counter()
        status, content = client.raw_chat()
        assert json.loads(content)["choices"][0]["message"]["content"] == " yes"
        assert time.perf_counter() - began > 0.001 * len(content)
        assert server.requests[0].status == status == 200


def test_a_hanging_request_ends_with_its_client() -> None:
    def wait_for_the_end(server: ApiServer) -> bool:
        for _ in range(200):
            if server.requests and server.requests[0].fault:
                return True
            time.sleep(0.01)
        return False

    with ApiServer(say_yes, faults=always(HANG)) as server:
        client = Client(server)
        client.connection.timeout = 0.1
        with pytest.raises(TimeoutError):
            client.chat()
        client.connection.close()
        assert wait_for_the_end(server)
        assert server.requests[0].status is None


@pytest.mark.parametrize("fault", [HANG, drip(60.0)])
def test_closing_does_not_wait_for_hanging_requests(fault: Fault) -> None:
    server = ApiServer(say_yes, faults=always(fault))
    threads = threading.active_count()
    clients = []
    with server:
        for number in range(5):
            clients.append(Client(server))
            body = {"model": "fake-model", "messages": [{"role": "user", "content": str(number)}]}
            clients[-1].connection.request("POST", CHAT_PATH, json.dumps(body))
        while len(server.requests) < 5:
            time.sleep(0.005)
        began = time.perf_counter()
    assert time.perf_counter() - began < 10  # HANG and the drip take a minute
    for client in clients:
        with pytest.raises((ConnectionError, IncompleteRead)):
            client.connection.getresponse().read()
        client.connection.close()
    port = int(server.base_url.rsplit(":", 1)[1].removesuffix("/v1"))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    deadline = time.perf_counter() + 20
    while threading.active_count() > threads and time.perf_counter() < deadline:
        time.sleep(0.005)
    assert threading.active_count() <= threads


def test_a_refusal_is_not_spoiled() -> None:
    with ApiServer(say_yes, faults=always(NO_CONTENT)) as server, Client(server) as client:
        status, reply = client.chat(model="other")
    assert (status, reply["error"]["code"]) == (404, "model_not_found")


def test_a_rule_can_be_for_one_path() -> None:
    rule = for_path(CHAT_PATH, always(SERVER_ERROR))
    with ApiServer(say_yes, faults=rule) as server, Client(server) as client:
        assert client.send("GET", "/v1/models")[0] == 200
        assert client.chat()[0] == 500


# --- random faults ---


def see(text: str, attempt: int) -> Seen:
    body = {"messages": [{"role": "user", "content": text}]}
    return Seen(0, CHAT_PATH, body, hash_body(CHAT_PATH, body), attempt, None)


def test_random_faults_are_drawn_by_seed_body_and_attempt_alone() -> None:
    met = [random_faults(0.5, seed=1)(see(str(text), 0)) for text in range(100)]
    late = [random_faults(0.5, seed=1)(see(str(text), 0)) for text in reversed(range(100))]
    assert [fault and fault.name for fault in met] == [
        fault and fault.name for fault in reversed(late)
    ]
    for other in (
        [random_faults(0.5, seed=2)(see(str(text), 0)) for text in range(100)],
        [random_faults(0.5, seed=1)(see(str(text), 1)) for text in range(100)],
    ):
        assert [fault is None for fault in met] != [fault is None for fault in other]


def test_random_faults_come_in_the_given_share_and_of_all_kinds() -> None:
    rule = random_faults(0.3, seed=0)
    met = [fault for text in range(2000) if (fault := rule(see(str(text), 0)))]
    # 600 expected, standard deviation sqrt(2000 * 0.3 * 0.7) = 20.5: within four of them.
    assert abs(len(met) - 600) < 82
    assert {fault.name for fault in met} == {fault.name for fault in TEMPORARY}


def test_random_faults_give_up() -> None:
    rule = random_faults(1.0, seed=0, kinds=(SERVER_ERROR,), give_up_after=3)
    assert [rule(see("a", attempt)) for attempt in range(5)] == [SERVER_ERROR] * 3 + [None] * 2


def test_concurrent_clients_meet_the_same_faults_in_every_run() -> None:
    kinds = (SERVER_ERROR, rate_limit(), HALF_JSON)

    def run(order: list[int]) -> set[tuple[str, int, str | None]]:
        rule = random_faults(0.5, seed=3, kinds=kinds)

        def ask(number: int) -> None:
            with Client(server) as client:
                for _ in range(3):
                    client.raw_chat(str(number))

        with ApiServer(say_yes, faults=rule) as server:
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(ask, order))
            return {(seen.body_hash, seen.attempt, seen.fault) for seen in server.requests}

    assert run(list(range(20))) == run(list(reversed(range(20))))
