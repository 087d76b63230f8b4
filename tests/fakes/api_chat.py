"""What a server of chat completions says: OpenAI's protocol and vLLM's additions, without HTTP.

What vLLM does was seen in vLLM 0.32.0, in its source and in what it answered.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.fakes.api_faults import CHAT_PATH, Body, Reply, error_reply, json_reply

Messages = list[dict[str, str]]
Unsupported = Literal["refuse", "ignore", "transformers"]

# What a server can do beyond plain answers; the three servers that clients will meet.
VLLM = frozenset(
    {
        "top_logprobs",
        "logprob_token_ids",
        "continue_final_message",
        "tokenize",
        "models",
        "seed",
    }
)
OPENAI = frozenset({"top_logprobs", "models", "seed"})
TRANSFORMERS = frozenset({"models", "seed"})  # with unsupported="transformers"

# Fields of a body that one of these capabilities must allow.
NEEDS = {
    "logprobs": {"top_logprobs", "logprob_token_ids"},
    "top_logprobs": {"top_logprobs"},
    "logprob_token_ids": {"logprob_token_ids"},
    "return_tokens_as_token_ids": {"logprob_token_ids"},
    "continue_final_message": {"continue_final_message"},
    "add_generation_prompt": {"continue_final_message"},
    "seed": {"seed"},
}
# OpenAI's fields that every server takes; others need a server that takes any, as vLLM does.
COMMON = {
    "frequency_penalty",
    "logit_bias",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "metadata",
    "model",
    "n",
    "presence_penalty",
    "reasoning_effort",
    "response_format",
    "service_tier",
    "stop",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "tool_choice",
    "tools",
    "top_p",
    "user",
}
MAX_TOP_LOGPROBS = 20  # OpenAI's limit, and vLLM's where nobody set --max-logprobs
MAX_TOKEN_IDS = 128  # vLLM's
UNLIKELY = -9999.0  # what both give for a token of which they can say nothing else


class Refusal(Exception):
    """The request is wrong."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.content.decode())
        self.reply = reply


def refuse_if(
    wrong: object, message: str, *, param: str, status: int = 400, code: str = ""
) -> None:
    """Raise what OpenAI would answer to a wrong parameter."""
    if wrong:
        raise Refusal(error_reply(status, message, param=param, code=code or None))


def possible(next_token: object, tokenize: object, token_of: object) -> frozenset[str]:
    """All that a server can do with these functions; None is one that it was not given."""
    able = {"continue_final_message", "models", "seed"}
    able |= {"top_logprobs"} if next_token else set()
    able |= {"tokenize"} if tokenize else set()
    able |= {"logprob_token_ids"} if next_token and tokenize and token_of else set()
    return frozenset(able)


@dataclass(frozen=True)
class Chat:
    """What the server says to a request that reached it."""

    answer: Callable[[Messages], str]
    next_token: Callable[[Messages], dict[str, float]] | None
    tokenize: Callable[[str], list[int]] | None
    token_of: Callable[[int], str] | None
    model: str
    capabilities: frozenset[str]
    unsupported: Unsupported
    max_model_len: int

    def __post_init__(self) -> None:
        lacking = VLLM - possible(self.next_token, self.tokenize, self.token_of)
        if wrong := (self.capabilities & lacking) | (self.capabilities - VLLM):
            raise ValueError(f"unknown capabilities, or ones without their functions: {wrong}")

    def reply(self, path: str, body: Body) -> Reply:
        """The proper reply; `Refusal` where the request is wrong."""
        if path == CHAT_PATH:
            return json_reply(200, self._complete(body))
        if path == "/v1/models" and "models" in self.capabilities:
            card = {"id": self.model, "object": "model", "created": 0, "owned_by": "fake"}
            return json_reply(200, {"object": "list", "data": [card]})
        if path == "/tokenize" and self.tokenize and "tokenize" in self.capabilities:
            self._check_model(body)
            ids = self.tokenize(body["prompt"])
            size = {"count": len(ids), "max_model_len": self.max_model_len}
            return json_reply(200, {**size, "tokens": ids, "token_strs": None})
        return json_reply(404, {"detail": "Not Found"})

    def _complete(self, body: Body) -> Body:
        self._check_model(body)
        body = self._supported(body)
        check_chat(body)
        messages = body["messages"]
        text = self.answer(messages)
        tokens = self._split(text)
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        # A model that may say no more cannot say that it is done: an exact fit is "length", too.
        spent = limit is not None and limit <= len(tokens)
        if limit is not None and limit < len(tokens):
            tokens = tokens[:limit]
            text = "".join(tokens)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": self._logprobs(body, tokens) if body.get("logprobs") else None,
            "finish_reason": "length" if spent else "stop",
        }
        prompt = sum(len(self._split(message["content"])) for message in messages)
        usage = {"prompt_tokens": prompt, "completion_tokens": len(tokens)}
        return {
            "id": "chatcmpl-fake",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.model,
            "choices": [choice],
            "usage": {**usage, "total_tokens": prompt + len(tokens)},
        }

    def _check_model(self, body: Body) -> None:
        name = body.get("model")
        refuse_if(name is None, "you must provide a model parameter", param="model")
        message = f"The model `{name}` does not exist or you do not have access to it."
        refuse_if(name != self.model, message, param="model", status=404, code="model_not_found")

    def _supported(self, body: Body) -> Body:
        """The body without what this server cannot do, or a refusal."""
        takes_any = "logprob_token_ids" in self.capabilities
        unknown = {name for name in body if name not in NEEDS and name not in COMMON}
        unable = {name for name in body if name in NEEDS and not NEEDS[name] & self.capabilities}
        unable |= set() if takes_any else unknown
        if self.unsupported == "transformers":
            # transformers 5.23 passes over OpenAI's fields that it lacks and refuses all others.
            if others := unable - {"logprobs", "top_logprobs"}:
                detail = f"Unexpected fields in the request: {others}"
                raise Refusal(json_reply(422, {"detail": detail}))
        elif self.unsupported == "refuse" and unable:
            name = min(unable)
            message = f"Unsupported parameter: '{name}' is not supported with this model."
            refuse_if(True, message, param=name, code="unsupported_parameter")
        return {name: value for name, value in body.items() if name not in unable}

    def _split(self, text: str) -> list[str]:
        """The tokens of a text: the tokenizer's, otherwise words with the space before them."""
        if self.tokenize and self.token_of:
            return [self.token_of(number) for number in self.tokenize(text)]
        return re.findall(r"\s*\S+|\s+$", text)

    def _logprobs(self, body: Body, tokens: list[str]) -> Body:
        assert self.next_token
        likely = [self.next_token(body["messages"]), *({token: 0.0} for token in tokens[1:])]
        pairs = zip(tokens, likely[: len(tokens)], strict=True)
        return {"content": [self._position(body, *pair) for pair in pairs], "refusal": None}

    def _position(self, body: Body, sampled: str, likely: dict[str, float]) -> Body:
        """One generated token: what was said, and what could have been said instead."""
        as_ids = body.get("return_tokens_as_token_ids")

        def entry(text: str, number: int | None = None) -> Body:
            token = text
            if as_ids:
                token = f"token_id:{self._id_of(text) if number is None else number}"
            logprob = max(likely.get(text, UNLIKELY), UNLIKELY)
            return {"token": token, "logprob": logprob, "bytes": list(token.encode())}

        if wanted := body.get("logprob_token_ids"):
            # vLLM: the sampled token first, then exactly the ids asked for, each id once.
            ids = dict.fromkeys([self._id_of(sampled), *wanted])
            top = [entry(self._text_of(number), number) for number in ids]
        else:
            texts = sorted(likely, key=lambda text: -likely[text])
            if "logprob_token_ids" in self.capabilities:
                # vLLM puts the sampled token first and then cuts, likelier ones or not.
                texts = list(dict.fromkeys([sampled, *texts]))
            top = [entry(text) for text in texts[: body.get("top_logprobs") or 0]]
        # vLLM: here, and only here, the bytes stay those of the text where `token` is an id.
        return {**entry(sampled), "bytes": list(sampled.encode()), "top_logprobs": top}

    def _id_of(self, token: str) -> int:
        assert self.tokenize
        (number,) = self.tokenize(token)  # next_token must name tokens of the tokenizer
        return number

    def _text_of(self, number: int) -> str:
        assert self.token_of
        try:
            if number < 0:
                raise IndexError(number)  # a list would take it for its last tokens
            return self.token_of(number)
        except (KeyError, IndexError, ValueError, OverflowError) as error:
            message = f"token_id(s) [{number}] in logprob_token_ids contain out-of-vocab token ids."
            raise Refusal(error_reply(400, message, param="logprob_token_ids")) from error


def check_chat(body: Body) -> None:
    """Refuse what OpenAI and vLLM refuse, and what this server cannot do."""
    messages = body.get("messages")
    refuse_if(not isinstance(messages, list) or not messages, "No messages.", param="messages")
    for message in messages or ():
        good = isinstance(message.get("role"), str) and isinstance(message.get("content"), str)
        refuse_if(not good, "A message needs a role and a text as content.", param="messages")
    refuse_if(body.get("stream"), "The fake does not stream.", param="stream")
    refuse_if(body.get("n") not in (None, 1), "The fake gives one choice.", param="n")
    for name in ("max_tokens", "max_completion_tokens"):
        limit = body.get(name)
        refuse_if(limit is not None and limit < 1, f"{name} must be at least 1.", param=name)
    top = body.get("top_logprobs") or 0
    too_many = f"Invalid 'top_logprobs': must be at most {MAX_TOP_LOGPROBS}."
    refuse_if(not 0 <= top <= MAX_TOP_LOGPROBS, too_many, param="top_logprobs")
    ids = body.get("logprob_token_ids")
    for name, given in (("top_logprobs", top), ("logprob_token_ids", ids)):
        alone = f"when using `{name}`, `logprobs` must be set to true."
        refuse_if(given and not body.get("logprobs"), alone, param=name)
    # vLLM 0.32.0 still takes an empty list for none; later ones refuse it.
    fits = ids is None or 0 < len(ids) <= MAX_TOKEN_IDS
    refuse_if(not fits, f"Give 1 to {MAX_TOKEN_IDS} ids.", param="logprob_token_ids")
    if body.get("continue_final_message"):
        # vLLM's default for add_generation_prompt is true, and chat templates refuse both.
        both = "continue_final_message and add_generation_prompt are not compatible."
        refuse_if(body.get("add_generation_prompt", True), both, param="continue_final_message")
