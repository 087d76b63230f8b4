"""One request to an OpenAI-compatible server, and what its errors mean.

Nothing that comes out of here holds the key: neither a message nor the chain of exceptions.
"""

import email.utils
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import openai

from stableprompt.errors import TargetError
from stableprompt.models.targets.failures import Down, MayPass, Refused
from stableprompt.models.targets.providers import NO_KEY, Endpoint

_NOT_REPORTED = -9999.0
_MOST_TOKENS = 1e9  # of one answer
_SPENT = ("insufficient_quota", "billing_hard_limit_reached", "credit balance")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server said to one conversation."""

    text: str
    top: tuple[tuple[str, float], ...]
    """The tokens it says most of, at the beginning of the answer, with log-probabilities."""
    read: int
    written: int

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Reply":
        """Take back what ``asdict`` gave."""
        return cls(**{**kept, "top": tuple((token, value) for token, value in kept["top"])})


class Client:
    """Sends requests; retries are not its business.

    Args:
        endpoint: Where to.
        key: For the Authorization header, and nothing else.
        timeout_seconds: Of a connection and of a pause between two bytes.
    """

    def __init__(self, endpoint: Endpoint, key: str, timeout_seconds: float) -> None:
        self.endpoint = endpoint
        self._key = key
        self._answered = False
        self._http = openai.AsyncOpenAI(
            api_key=key,
            base_url=endpoint.base_url,
            max_retries=0,
            timeout=timeout_seconds,
            # Of these the library takes defaults from the environment; they are not ours to send.
            organization="",
            project="",
        )

    async def chat(self, body: Mapping[str, Any]) -> Reply:
        """The answer to one conversation.

        Raises:
            MayPass: it may work the next time.
            Refused: it will not be answered.
            TargetError: nothing will.
        """
        found = await self._post("/chat/completions", body)
        reply = _read(found)
        self._answered = True
        return reply

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Token ids by vLLM's own route, without special tokens.

        Raises:
            Refused: the server has no such route.
        """
        root = self.endpoint.base_url.removesuffix("/v1")
        body = {"model": self.endpoint.model, "prompt": text, "add_special_tokens": False}
        found = await self._post(f"{root}/tokenize", body)
        if not isinstance(found, dict) or not isinstance(found.get("tokens"), list):
            raise Refused("it does not tokenize")
        return tuple(found["tokens"])

    async def models(self) -> list[str]:
        """The models that the server has, () where it does not say."""
        try:
            page = await self._http.get("/models", cast_to=object)
            return [str(model["id"]) for model in page["data"]]  # type: ignore[index]
        except (openai.OpenAIError, ValueError, KeyError, TypeError):
            return []

    async def close(self) -> None:
        """Hang up."""
        await self._http.close()

    async def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        try:
            return await self._http.post(path, cast_to=object, body=dict(body))
        except openai.APIStatusError as error:
            failure = await self._meaning(error, path)
        except openai.APIConnectionError as error:
            cause = type(error.__cause__ or error).__name__
            kind = Down if cause == "ConnectError" else MayPass  # httpx's, which is openai's own
            failure = kind(f"no connection to {self.endpoint.base_url} ({cause})")
        except (openai.APIError, ValueError, RecursionError):
            failure = MayPass("its answer is no JSON")
        raise failure from None  # the request in the chain knows the key

    async def _meaning(self, error: openai.APIStatusError, path: str) -> Exception:
        """What a status other than 2xx means for this call and for all others."""
        status, said = error.status_code, self._said(error)
        where = f"the target {self.endpoint.model!r} at {self.endpoint.base_url}"
        if any(mark in said.casefold() for mark in _SPENT) or status == 402:
            return TargetError(f"{where} wants to be paid first ({status}); resume the run then")
        if status == 429 or status in (408, 409, 425) or status >= 500:
            return MayPass(f"{status} {said}".strip(), _retry_after(error.response.headers))
        if status == 401 or (status == 403 and not self._answered):
            variable = self.endpoint.key_variable or "OPENAI_API_KEY"
            if self._key == NO_KEY:
                return TargetError(
                    f"{where} wants a key ({status}), and the environment has no {variable}; set it"
                )
            return TargetError(f"{where} refuses the key in {variable} ({status}); check it")
        if status == 404 and "completions" in path:
            has = ", ".join((await self.models())[:8])
            if not has and not self.endpoint.base_url.endswith("/v1"):
                return TargetError(
                    f"{where} was not found (404): most base URLs end in /v1; check it"
                )
            listed = has or "no list of models"
            return TargetError(
                f"{where} was not found (404): the server has {listed}; check the name"
            )
        return Refused(f"{status} {said}".strip())

    def _said(self, error: openai.APIStatusError) -> str:
        """The server's own words, on one line, without the key."""
        body = error.body[0] if isinstance(error.body, list) and error.body else error.body
        if isinstance(body, dict):
            inner = body.get("error")
            body = inner if isinstance(inner, dict) else body
            said = (body.get(name) for name in ("code", "message", "detail"))
            text = " ".join(str(part) for part in said if part)
        else:  # a text, or a page in HTML
            text = str(body) if isinstance(body, str) and "<" not in body else ""
        if self._key != NO_KEY:
            text = text.replace(self._key, "[key]")
        return " ".join(text.split())[:200]


def _read(found: Any) -> Reply:
    """The parts of a response that count.

    Raises:
        MayPass: it is no answer at all.
        Refused: it was filtered.
    """
    try:
        choice = found["choices"][0]
        message = choice["message"]
        content = message.get("content")
        content = message.get("refusal") if content is None else content
    except (KeyError, IndexError, TypeError, AttributeError):
        raise MayPass("its answer has no text in it") from None
    reason = choice.get("finish_reason")
    if reason == "content_filter":  # what was written before is no answer
        raise Refused("the answer was filtered")
    if content is None and reason != "length":  # cut before the first word, as thinking models are
        raise MayPass("its answer has no text in it")
    usage = found.get("usage")
    return Reply(
        _text(content).strip(),
        tuple(_top(choice)),
        _count(usage, "prompt_tokens"),
        _count(usage, "completion_tokens"),
    )


def _text(content: Any) -> str:
    """The text of a message; of one in parts those that are text, and not thinking."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    # Half a character, where an answer was cut in the middle of one, cannot be written down.
    return str("" if content is None else content).encode("utf-8", "replace").decode()


def _count(usage: Any, name: str) -> int:
    """Tokens as the server counts them; 0 where it does not."""
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return int(value) if isinstance(value, int | float) and 0 <= value < _MOST_TOKENS else 0


def _top(choice: Mapping[str, Any]) -> Sequence[tuple[str, float]]:
    """Log-probabilities at the first place of the answer; none where the server gives none.

    A server may list the token that it wrote twice, and writes -9999 for "not reported".
    """
    try:
        first = choice["logprobs"]["content"][0]
        listed = first["top_logprobs"] or [first]
        found = {_text(one["token"]): float(one["logprob"]) for one in listed}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return []
    # A hair above 0 is rounding; more is none.
    return [(token, value) for token, value in found.items() if _NOT_REPORTED < value < 1]


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait: a number, or a date."""
    if (given := headers.get("retry-after-ms")) is not None:
        return _number(given, 1000.0)
    given = headers.get("retry-after")
    if given is None:
        return None
    seconds = _number(given, 1.0)
    if seconds is None and (date := email.utils.parsedate_tz(given)) is not None:
        seconds = max(0.0, email.utils.mktime_tz(date) - time.time())
    return seconds


def _number(text: str, unit: float) -> float | None:
    try:
        value = float(text) / unit
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None
