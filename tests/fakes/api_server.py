"""An HTTP server on this machine that speaks OpenAI's chat completions and vLLM's additions.

with ApiServer(lambda messages: "yes") as server:
    client = openai.OpenAI(base_url=server.base_url, api_key="any")
"""

import json
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.fakes.api_chat import Chat, Messages, Refusal, Unsupported, possible
from tests.fakes.api_faults import Body, Fault, Faults, Reply, Seen, error_reply, hash_body


class ApiServer:
    """A server on a free port of 127.0.0.1, as a context manager.

    Args:
        answer: The text for chat messages.
        next_token: Log-probabilities of tokens that may come first in the answer, by their
            spelling (" yes", "yes"); later tokens are certain. Those it does not name get -9999.
        tokenize: Text to token ids, behind /tokenize; without it tokens are words.
        token_of: The spelling of a token id.
        model: The one model it serves.
        api_key: What a client must send to /v1; None lets everybody in.
        capabilities: What it can do: `VLLM` or a part of it. By default all that the given
            functions allow.
        unsupported: What becomes of fields that it cannot follow: 400, silence, or what
            `transformers serve` does (422 for extensions, silence about logprobs).
        faults: What goes wrong; see `api_faults`. Asked for every request that has the key.
        max_model_len: What /tokenize reports.
        port: Where it listens; 0 is any free one. One that was closed can be opened again.

    Where one of these functions raises, the client gets 500 and leaving the `with` raises it.
    """

    def __init__(
        self,
        answer: Callable[[Messages], str],
        next_token: Callable[[Messages], dict[str, float]] | None = None,
        *,
        tokenize: Callable[[str], list[int]] | None = None,
        token_of: Callable[[int], str] | None = None,
        model: str = "fake-model",
        api_key: str | None = None,
        capabilities: frozenset[str] | None = None,
        unsupported: Unsupported = "refuse",
        faults: Faults | None = None,
        max_model_len: int = 4096,
        port: int = 0,
    ) -> None:
        self._chat = Chat(
            answer,
            next_token,
            tokenize,
            token_of,
            model=model,
            capabilities=possible(next_token, tokenize, token_of)
            if capabilities is None
            else capabilities,
            unsupported=unsupported,
            max_model_len=max_model_len,
        )
        self._api_key, self._faults = api_key, faults
        self._lock = threading.Lock()
        self._requests: list[Seen] = []
        self._attempts: Counter[str] = Counter()
        self._in_flight: set[int] = set()
        self.max_in_flight = 0
        self.errors: list[BaseException] = []
        self.closing = threading.Event()
        self._listener = _Listener(self, port)

    @property
    def base_url(self) -> str:
        """What a client is given."""
        return f"http://127.0.0.1:{self._listener.server_port}/v1"

    @property
    def port(self) -> int:
        """The one that it listens on."""
        return self._listener.server_port

    @property
    def requests(self) -> list[Seen]:
        """Everything received so far, in the order in which it came."""
        with self._lock:
            return list(self._requests)

    @property
    def connections(self) -> int:
        """How many TCP connections were accepted."""
        return self._listener.accepted

    def __enter__(self) -> Self:
        self._listener.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        if error is None and self.errors:
            raise self.errors[0]

    def close(self) -> None:
        """Stop at once, hanging requests included; closing twice is fine."""
        self.closing.set()
        self._listener.stop()

    def arrive(self, path: str, body: Body, authorization: str | None) -> Seen:
        """Note a request; it is in flight until `leave`."""
        body_hash = hash_body(path, body)
        with self._lock:
            number, attempt = len(self._requests), self._attempts[body_hash]
            seen = Seen(number, path, body, body_hash, attempt, authorization)
            self._attempts[body_hash] += 1
            self._requests.append(seen)
            self._in_flight.add(number)
            self.max_in_flight = max(self.max_in_flight, len(self._in_flight))
        return seen

    def leave(self, seen: Seen, status: int | None, fault: Fault | None) -> None:
        """Note what became of a request; only the first word on it counts."""
        with self._lock:
            if seen.number in self._in_flight:
                self._in_flight.discard(seen.number)
                name = fault.name if fault else None
                self._requests[seen.number] = replace(seen, status=status, fault=name)

    def respond(self, seen: Seen) -> tuple[Reply | None, Fault | None]:
        """The reply and how it fails; None is no reply at all."""
        try:
            if refusal := self._unauthorized(seen):
                return refusal, None
            fault = self._faults(seen) if self._faults else None
            if fault is None:
                return self._proper(seen), None
            reply = None if fault.delivery == "hang" else fault.reply(lambda: self._proper(seen))
            return reply, fault
        except Exception as error:
            # The client would try a 500 again and again: the test must learn of it, too.
            self.errors.append(error)
            return error_reply(500, f"The fake failed: {error!r}", kind="server_error"), None

    def _proper(self, seen: Seen) -> Reply:
        try:
            return self._chat.reply(seen.path, seen.body)
        except Refusal as refusal:
            return refusal.reply

    def _unauthorized(self, seen: Seen) -> Reply | None:
        """OpenAI's refusal, which repeats part of the key: a client must not pass it on."""
        # As in vLLM, /tokenize is open to everybody.
        if self._api_key is None or not seen.path.startswith("/v1"):
            return None
        key = (seen.authorization or "").removeprefix("Bearer ")
        if seen.authorization == f"Bearer {self._api_key}":
            return None
        shown = key if len(key) <= 12 else key[:8] + "*" * (len(key) - 12) + key[-4:]
        message = f"Incorrect API key provided: {shown}." if key else "You provided no API key."
        return error_reply(401, message, code="invalid_api_key")


class _Listener(ThreadingHTTPServer):
    """A thread a connection, and a hand on each of them, so that it can be cut off."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, api: ApiServer, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.api = api
        self.accepted = 0
        self._open: set[socket.socket] = set()
        self._changed = threading.Condition()
        # Polled often, so that stopping takes no time.
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
        self.server_close()
        with self._changed:
            for connection in self._open:
                with suppress(OSError):  # the client was faster
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._open, timeout=2)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        with self._changed:
            self.accepted += 1
            self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        # Not super(): that sends FIN first, where a fault may want a reset.
        self.close_request(request)

    def close_request(self, request: Any) -> None:
        with self._changed:
            self._open.discard(request)
            self._changed.notify_all()
        super().close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if error is not None and not isinstance(error, ConnectionError):
            self.api.errors.append(error)


class _Handler(BaseHTTPRequestHandler):
    """One connection; many requests, one after the other."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each kept-alive response waits 40 ms
    server: _Listener

    def do_GET(self) -> None:
        self._serve({})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            body = json.loads(content)
        except ValueError:
            body = None
        self._serve(body if isinstance(body, dict) else {"not_an_object": repr(content)})

    def _serve(self, body: Body) -> None:
        api = self.server.api
        seen = api.arrive(self.path, body, self.headers.get("Authorization"))
        reply, fault = None, None
        try:
            reply, fault = api.respond(seen)
            status = reply.status if reply else None
            self._deliver(reply, fault, lambda: api.leave(seen, status, fault))
        finally:
            api.leave(seen, None, fault)

    def _deliver(self, reply: Reply | None, fault: Fault | None, done: Callable[[], None]) -> None:
        """Send the reply as the fault wants it.

        `done` is called before the last bytes: the client may send its next request as soon as
        it has them, and these two are not in flight together.
        """
        delivery = fault.delivery if fault else "whole"
        if reply is None:
            self.close_connection = True
            with suppress(ConnectionError):
                self.connection.recv(1)  # waits until the client or close() ends the connection
            done()
        elif delivery == "reset":
            done()
            self._send(reply, reply.content[: len(reply.content) // 2])
            # To close with this option and time 0 is to reset.
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
        elif fault and delivery == "drip":
            self._send(reply, b"")
            for position in range(len(reply.content)):
                if self.server.api.closing.wait(fault.seconds):
                    self.close_connection = True
                    return
                if position == len(reply.content) - 1:
                    done()
                self.wfile.write(reply.content[position : position + 1])
        else:
            done()
            self._send(reply)

    def _send(self, reply: Reply, content: bytes | None = None) -> None:
        """The head, and the content or as much of it as is given."""
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.content)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.content if content is None else content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: tests read `ApiServer.requests`."""
