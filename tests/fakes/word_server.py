"""What ``ScriptedTarget`` is in this process, behind a server: the more liked words, the better.

with serve_words() as server:
    config = tiny_config(target=target_at(server))
"""

import hashlib
import json
import math
from typing import Any

from tests.fakes.api_chat import OPENAI, VLLM, Messages
from tests.fakes.api_faults import CHAT_PATH, Fault, Faults, Seen
from tests.fakes.api_server import ApiServer
from tests.fakes.word_agent import LABELS, LIKED

KEY = "sk-canary-0123456789abcdef"
KEY_VARIABLE = "STABLEPROMPT_TEST_KEY"


def chance(messages: Messages) -> float:
    """Of the right label: 0.2 at worst, 0.9 where every word of the prompt is liked."""
    spoken = messages[0]["content"].split()
    return 0.2 + 0.7 * sum(word in LIKED for word in spoken) / max(1, len(spoken))


def answer(messages: Messages) -> str:
    """A label; which one is drawn from the messages alone. "yes" to what is about none."""
    text = messages[-1]["content"].split()
    right = next((label for label in LABELS if label in text), None)
    if right is None:
        return "yes"
    [wrong] = set(LABELS) - {right}
    drawn = int.from_bytes(hashlib.sha256(json.dumps(messages).encode()).digest()[:4], "big")
    return right if drawn / 2**32 < chance(messages) else wrong


def next_token(messages: Messages) -> dict[str, float]:
    """Log-probabilities of the labels; where there is none, of the first letters of yes and no."""
    text = messages[-1]["content"].split()
    if not set(LABELS) & set(text):
        return {"y": math.log(0.75), "n": math.log(0.25)}
    share = chance(messages)
    return {label: math.log(share if label in text else 1 - share) for label in LABELS}


def tokenize(text: str) -> list[int]:
    """Labels are one token, other characters one each."""
    ids: list[int] = []
    while text:
        label = next((label for label in LABELS if text.startswith(label)), text[0])
        ids.append(LABELS.index(label) if label in LABELS else 1000 + ord(label))
        text = text[len(label) :]
    return ids


def token_of(number: int) -> str:
    return LABELS[number] if number < 1000 else chr(number - 1000)


DIALECTS: dict[str, dict[str, Any]] = {
    "written answers": {},
    "top tokens": {"next_token": next_token, "capabilities": OPENAI},
    "token ids": {
        "next_token": next_token,
        "tokenize": tokenize,
        "token_of": token_of,
        "capabilities": VLLM,
    },
}
"""Options of a server, by what it tells of labels."""


def serve_words(dialect: str = "written answers", **options: Any) -> ApiServer:
    """A server; ``options`` are those of ``ApiServer``."""
    return ApiServer(**{"answer": answer, "api_key": KEY, **DIALECTS[dialect], **options})


def target_at(server: ApiServer, **api: Any) -> dict[str, Any]:
    """Settings of a target there; a failed call is tried again at once, and often."""
    patient = {"attempts": 12, "longest_pause_seconds": 0.01, "timeout_seconds": 10}
    own = {"base_url": server.base_url, "key_variable": KEY_VARIABLE}
    return {"model": "fake-model", "api": {**own, **patient, **api}}


def chats(server: ApiServer) -> list[Seen]:
    """The conversations that it was sent about texts of a task.

    One that was called off while it was sent has no messages.
    """
    sent = [s for s in server.requests if s.path == CHAT_PATH]
    return [s for s in sent if len(s.body.get("messages", ())) > 1]


def for_input(text: str, fault: Fault) -> Faults:
    """Conversations about this input, whatever the prompt."""

    def rule(seen: Seen) -> Fault | None:
        messages = seen.body.get("messages") or [{}]
        return fault if messages[-1].get("content") == text else None

    return rule
