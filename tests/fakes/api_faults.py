"""What goes wrong between a client and an API, on purpose and repeatably.

A `Fault` is one way to fail; a rule (`Faults`) decides from what was `Seen` of a request which
fault it meets, if any. The rules here depend on the request alone and never on time, so that
concurrent requests meet the same faults in whatever order they come.
"""

import email.utils
import hashlib
import json
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

CHAT_PATH = "/v1/chat/completions"

Body = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """A request as the server received it, and what became of it."""

    number: int  # the running number, from 0: its place in `ApiServer.requests`
    path: str
    body: Body  # {} for GET
    body_hash: str  # of path and body; equal in every process
    attempt: int  # how often this very body came to this path before
    authorization: str | None  # the header
    status: int | None = None  # None: nothing was answered (yet)
    fault: str | None = None  # the name of the fault that it met


@dataclass(frozen=True)
class Reply:
    """An HTTP response."""

    status: int
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


@dataclass(frozen=True)
class Fault:
    """One way to fail.

    `reply` receives a function that makes the proper reply, and calls it only where it needs it.
    `delivery` is how the bytes travel: at once; never ("hang"); half of what was announced and
    then a reset connection; or one byte every `seconds` ("drip").
    """

    name: str
    reply: Callable[[Callable[[], Reply]], Reply]
    delivery: Literal["whole", "hang", "reset", "drip"] = "whole"
    seconds: float = 0.0


Faults = Callable[[Seen], Fault | None]


def json_reply(status: int, value: object) -> Reply:
    """A value as JSON."""
    return Reply(status, json.dumps(value).encode())


def error_reply(
    status: int,
    message: str,
    *,
    kind: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
) -> Reply:
    """An error in OpenAI's shape."""
    error = {"message": message, "type": kind, "param": param, "code": code}
    return json_reply(status, {"error": error})


def hash_body(path: str, body: Body) -> str:
    """The same text for the same request, whatever the order of its fields."""
    return hashlib.sha256(json.dumps([path, body], sort_keys=True).encode()).hexdigest()


# --- the kinds of faults ---


def rate_limit(seconds: float | None = 0.01, *, as_date: bool = False) -> Fault:
    """429 with Retry-After; None leaves the header out, `as_date` gives the first whole second
    after the wait as an HTTP date. (The openai client takes 0 as no advice and waits 0.5 s.)
    """

    def reply(_: Callable[[], Reply]) -> Reply:
        refusal = error_reply(
            429, "Rate limit reached.", kind="requests", code="rate_limit_exceeded"
        )
        if seconds is None:
            return refusal
        # Dates have whole seconds: rounded down, a short wait would be over at once.
        date = email.utils.formatdate(math.ceil(time.time() + seconds), usegmt=True)
        after = date if as_date else str(seconds)
        return Reply(refusal.status, refusal.content, {"Retry-After": after})

    return Fault("rate limit", reply)


def drip(seconds: float) -> Fault:
    """The proper reply, one byte every so many seconds; a time-out between bytes never fires."""
    return Fault("drip", _proper, "drip", seconds)


def _proper(proper: Callable[[], Reply]) -> Reply:
    return proper()


def _always_reply(name: str, reply: Reply) -> Fault:
    return Fault(name, lambda _: reply)


def _spoil(name: str, spoil: Callable[[bytes], bytes]) -> Fault:
    def reply(proper: Callable[[], Reply]) -> Reply:
        good = proper()
        # A refusal is what the client must see: it says what is wrong with the request.
        return good if good.status != 200 else Reply(200, spoil(good.content))

    return Fault(name, reply)


def _without_content(content: bytes) -> bytes:
    value = json.loads(content)
    for choice in value.get("choices", ()):
        choice["message"]["content"] = None
    return json.dumps(value).encode()


SERVER_ERROR = _always_reply(
    "server error", error_reply(500, "The server had an error.", kind="server_error")
)
BAD_GATEWAY = _always_reply(
    "bad gateway",
    Reply(502, b"<html><body><h1>502 Bad Gateway</h1></body></html>", content_type="text/html"),
)
UNAVAILABLE = _always_reply(
    "unavailable", error_reply(503, "The engine is overloaded.", kind="service_unavailable")
)
RESET = Fault("reset", _proper, "reset")
HALF_JSON = _spoil("half JSON", lambda content: content[: len(content) // 2])
EMPTY = _spoil("empty body", lambda _: b"")
# Every client that tries again must survive these.
TEMPORARY = (rate_limit(), SERVER_ERROR, BAD_GATEWAY, UNAVAILABLE, RESET, HALF_JSON, EMPTY)

HANG = Fault("hang", _proper, "hang")  # until the client hangs up or the server closes
ERROR_IN_200 = _always_reply(
    "error in 200", error_reply(200, "Provider returned error", kind="upstream_error", code="502")
)
NO_CONTENT = _spoil("null content", _without_content)

# Trying again does not help with these.
QUOTA = _always_reply(
    "quota",
    error_reply(
        429,
        "You exceeded your current quota, please check your plan and billing details.",
        kind="insufficient_quota",
        code="insufficient_quota",
    ),
)
CONTEXT_TOO_LONG = _always_reply(
    "context too long",
    error_reply(
        400,
        "This model's maximum context length is 4096 tokens. However, your messages resulted in "
        "5000 tokens. Please reduce the length of the messages.",
        param="messages",
        code="context_length_exceeded",
    ),
)
CONTENT_FILTER = _always_reply(
    "content filter",
    error_reply(
        400,
        "The response was filtered due to the prompt triggering the content management policy.",
        param="prompt",
        code="content_filter",
    ),
)


# --- the rules: who meets them ---


def always(fault: Fault) -> Faults:
    """Every request."""
    return lambda _: fault


def at_attempt(fault: Fault, attempt: int) -> Faults:
    """Every body at this attempt (0 is the first); the others are answered properly."""
    return lambda seen: fault if seen.attempt == attempt else None


def for_text(text: str, fault: Fault) -> Faults:
    """Requests with this text in a message (or in the prompt to be tokenized)."""

    def rule(seen: Seen) -> Fault | None:
        contents = [str(message.get("content")) for message in seen.body.get("messages", ())]
        contents.append(str(seen.body.get("prompt", "")))
        return fault if any(text in content for content in contents) else None

    return rule


def for_path(path: str, rule: Faults) -> Faults:
    """The rule, for this path only: without it a rule sees /v1/models and /tokenize, too."""
    return lambda seen: rule(seen) if seen.path == path else None


def first_of(*rules: Faults) -> Faults:
    """The fault of the first rule that has one."""
    return lambda seen: next((fault for rule in rules if (fault := rule(seen))), None)


def random_faults(
    share: float,
    seed: int,
    *,
    kinds: tuple[Fault, ...] = TEMPORARY,
    give_up_after: int | None = None,
) -> Faults:
    """A share (0 to 1) of all attempts fails, drawn by seed, body and attempt alone.

    From attempt `give_up_after` on a body is answered properly, so that a client which tries
    that often again always succeeds in the end.
    """

    def rule(seen: Seen) -> Fault | None:
        if give_up_after is not None and seen.attempt >= give_up_after:
            return None
        # Seeding with text is hashed with SHA-512: equal in every process, unlike hash().
        rng = random.Random(f"{seed} {seen.body_hash} {seen.attempt}")
        return rng.choice(kinds) if rng.random() < share else None

    return rule
