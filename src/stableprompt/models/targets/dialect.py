"""What a server understands: found out once, with a few small requests, before anything counts."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from stableprompt.models.chat import Message
from stableprompt.models.targets.client import Client, Reply
from stableprompt.models.targets.failures import Refused

_QUESTION: Final[Sequence[Message]] = (
    {"role": "user", "content": "Is water wet? Answer with one of: yes, no."},
)
_MOST_TOP: Final = 20  # what OpenAI allows
_A_FEW: Final = 4  # tokens in the place of one: an end of turn may be counted

_T = TypeVar("_T")


class Patience(Protocol):
    """Sends a request until it is answered or given up."""

    def __call__(self, call: Callable[[], Awaitable[_T]]) -> Awaitable[_T]:
        """The answer of the call."""
        ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """How to ask one server for one model."""

    max_tokens: str = "max_completion_tokens"
    """The name of that parameter; older servers know max_tokens."""
    temperature: bool = True
    """Whether it may be 0; some models refuse every value but theirs."""
    top: int = _MOST_TOP
    """How many next tokens it shows; 0: it gives no log-probabilities."""
    token_ids: bool = False
    """Whether it says how probable given tokens are (vLLM's logprob_token_ids)."""

    def body(self, model: str, messages: Sequence[Message], max_tokens: int) -> dict[str, Any]:
        """A request for a written answer, greedy where the server lets us."""
        body: dict[str, Any] = {
            "model": model,
            "messages": [dict(message) for message in messages],
            self.max_tokens: max_tokens,
        }
        if self.temperature:
            body["temperature"] = 0.0
        return body

    def with_top(self, body: dict[str, Any]) -> dict[str, Any]:
        """The request, with the most probable next tokens."""
        return {**body, "logprobs": True, "top_logprobs": self.top}

    def with_ids(self, body: dict[str, Any], ids: Sequence[int]) -> dict[str, Any]:
        """The request, with the log-probabilities of these tokens."""
        return {
            **body,
            "logprobs": True,
            "logprob_token_ids": list(ids),
            "return_tokens_as_token_ids": True,
        }

    def told(self) -> str:
        """In a few words, for an error."""
        temperature = "" if self.temperature else ", no temperature"
        shown = f"{self.top} log-probabilities" if self.top else "no log-probabilities"
        ids = " and those of given tokens" if self.token_ids else ""
        return f"{self.max_tokens}{temperature}, {shown}{ids}"

    def to_dict(self) -> dict[str, Any]:
        """For the answers kept on disk."""
        return asdict(self)


async def find_dialect(client: Client, patiently: Patience, *, labels: bool) -> Dialect:
    """Ask a small question until the server understands it, and see what it says.

    Args:
        client: The server.
        patiently: Sends a request of it.
        labels: Whether log-probabilities are wanted at all.

    Raises:
        Refused: it understands none of it.
        TargetError: it refuses the key or the model.
    """
    dialect = Dialect(top=_MOST_TOP if labels else 0)
    while True:
        body = dialect.body(client.endpoint.model, _QUESTION, 1)
        try:
            asked = dialect.with_top(body) if dialect.top else body
            reply = await patiently(partial(client.chat, asked))
            if reply.written <= _A_FEW or dialect.max_tokens == "max_tokens":
                break
            dialect = replace(dialect, max_tokens="max_tokens")  # it ignored the other name
        except Refused as refusal:
            simpler = _simpler(dialect, str(refusal).casefold())
            if simpler is None:
                raise
            dialect = simpler
    if not dialect.top:
        return dialect
    if not reply.top:
        return replace(dialect, top=0)
    return replace(dialect, token_ids=await _knows_ids(client, patiently, body, dialect))


def _simpler(dialect: Dialect, refusal: str) -> Dialect | None:
    """The dialect without what the server complains about; else without the next thing."""
    steps = {
        "logprobs": replace(dialect, top=5 if dialect.top > 5 else 0) if dialect.top else None,
        "temperature": replace(dialect, temperature=False) if dialect.temperature else None,
        "max_completion_tokens": replace(dialect, max_tokens="max_tokens")
        if dialect.max_tokens != "max_tokens"
        else None,
    }
    named = [step for word, step in steps.items() if step is not None and word in refusal]
    # A complaint that names nothing we know: leave out one thing after the other.
    others = [steps["max_completion_tokens"], steps["logprobs"], steps["temperature"]]
    return next((step for step in [*named, *others] if step is not None), None)


async def _knows_ids(
    client: Client, patiently: Patience, body: dict[str, Any], dialect: Dialect
) -> bool:
    """Whether the server tokenizes, and answers for tokens that are given by their ids."""
    try:
        words = [await patiently(partial(client.tokenize, word)) for word in ("yes", "no")]
        ids = [word[0] for word in words if word]
        reply = await patiently(partial(client.chat, dialect.with_ids(body, ids)))
    except Refused:
        return False
    return bool(ids) and set(ids) <= set(logprobs_by_id(reply))


def logprobs_by_id(reply: Reply) -> dict[int, float]:
    """What vLLM says of tokens by their ids ("token_id:17")."""
    return {
        int(token.removeprefix("token_id:")): logprob
        for token, logprob in reply.top
        if token.removeprefix("token_id:").isdecimal() and token.startswith("token_id:")
    }
