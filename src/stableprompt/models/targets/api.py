"""A target behind an API: an OpenAI-compatible server, near or far."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Final

import torch
from torch.nn.utils.rnn import pad_sequence

from stableprompt.errors import TargetError
from stableprompt.llm_config import TargetConfig
from stableprompt.models.chat import Message
from stableprompt.models.targets.ahead import UnderWay
from stableprompt.models.targets.answer_cache import AnswerCache
from stableprompt.models.targets.client import Reply
from stableprompt.models.targets.dialect import logprobs_by_id
from stableprompt.models.targets.failures import Failed
from stableprompt.models.targets.interface import Answers, LabelScores, Usage
from stableprompt.models.targets.remote_labels import (
    Ids,
    can_be_told_apart,
    sequence_probs,
    tree_of,
    word_probs,
)
from stableprompt.models.targets.servers import Servers
from stableprompt.tasks.spoken_labels import spoken_label, without_thinking

PORTION: Final = (
    4  # times the calls under way at once: conversations between two looks at the limits
)
LABEL_ROOM: Final = 32  # tokens of an answer that names a label
MARKUP: Final = (
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>"),
    *("<|end_header_id|>", "<|system|>", "<|user|>", "<|assistant|>", "<s>", "</s>"),
    *("[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>", "<|begin_of_text|>"),
)
"""Chat markup of widespread models: what a server's own is nobody knows from outside."""


class ApiTarget:
    """Asks a server; each question once, whatever the run.

    Args:
        config: Model and how it is asked.
        cache: Answers of earlier runs.
        model: Another model in the target's place, such as a judge.

    Raises:
        ConfigError: no provider of that name, or no key in the environment.
        TargetError: the server cannot be reached, or refuses the key or the model.
    """

    def __init__(
        self, config: TargetConfig, cache: AnswerCache, *, model: str | None = None
    ) -> None:
        self.name = model or config.model
        self._config, self._cache = config, cache
        self._ids: dict[str, Ids] = {}
        self.tell: Callable[[str], None] = lambda note: None
        """Told what becomes of replicas, between two portions of calls."""
        try:
            self._servers = Servers(self.name, config.api, cache)
        except BaseException:
            cache.close()
            raise
        self.traffic, self.dialect = self._servers.traffic, self._servers.dialect
        self._ahead = UnderWay(self.traffic)

    def close(self) -> None:
        """Hang up; it answers no more."""
        self._ahead.forget()
        self._servers.close()
        self._cache.close()

    @property
    def gives_probabilities(self) -> bool:
        """Whether the server shows log-probabilities of next tokens."""
        return self.dialect.top > 0

    @property
    def at_once(self) -> int | None:
        """A few for each call under way."""
        return PORTION * self.traffic.replicas.room

    @property
    def requests(self) -> Mapping[str, Any]:
        """Those sent, and what was known already; of several replicas each one's share."""
        replicas = self.traffic.replicas
        return {
            "sent": self.traffic.sent,
            "retries": self.traffic.retries + self._ahead.again,
            "from_disk": self._cache.hits,
            **({"replicas": replicas.told()} if len(replicas.all) > 1 else {}),
        }

    @property
    def how(self) -> str:
        """Which way the labels are read."""
        if self.dialect.token_ids:
            return "probabilities of the answers, from the server (logprob_token_ids)"
        if self.dialect.top:
            return f"probabilities of the answers, from the server (top {self.dialect.top} tokens)"
        return "the answers that the server writes, right or wrong"

    def num_tokens(self, text: str) -> int:
        """About how many tokens the text is, rather too many: nobody knows its tokenizer."""
        return len(text.encode()) // 3 + 1

    def markup(self) -> list[str]:
        """Chat markup of widespread models."""
        return list(MARKUP)

    def fits(self, conversation: Sequence[Message], room: int) -> bool:
        """Nobody knows before: a server refuses what is too long, and it is left out then."""
        return True

    def generate(self, conversations: Sequence[Sequence[Message]], max_tokens: int) -> Answers:
        """What the server writes, at temperature 0 where it lets us."""
        bodies = [self._body(conversation, max_tokens) for conversation in conversations]
        replies = self._ask(bodies)
        texts = tuple("" if isinstance(reply, Failed) else reply.text for reply in replies)
        return Answers(texts, _usage(replies), _failed(replies))

    def ask_ahead(
        self,
        conversations: Sequence[Sequence[Message]],
        words: Sequence[Sequence[str]] | None,
        max_tokens: int,
    ) -> None:
        """Send what will be asked soon, by the way that is tried first.

        Nothing is sent before the first answer: whether the server works at all is found out by
        asking it, and a failure here says nothing.
        """
        if not self._config.api.ask_ahead or not self.traffic.answered:
            return
        if words is None:
            bodies = [self._body(conversation, max_tokens) for conversation in conversations]
        elif self.dialect.token_ids:
            if not {word for own in words for word in own} <= self._ids.keys():
                return  # to have them told would take a while
            bodies = self._plan(conversations, words)[1]
        elif self.dialect.top:
            bodies = self._top_bodies(conversations)
        else:
            bodies = [self._body(conversation, self._label_room) for conversation in conversations]
        for body in bodies:
            question = self._question(body)
            if not self._cache.has(question):
                self._ahead.begin(question, partial(self._send, body))

    def forget_ahead(self) -> None:
        """Call off what was sent ahead and never asked."""
        self._ahead.forget()

    def label_scores(
        self, conversations: Sequence[Sequence[Message]], words: Sequence[Sequence[str]]
    ) -> LabelScores:
        """Probabilities by the best way that the server knows; a written answer where none serves.

        Words whose tokens the server tells are read as whole sequences of tokens, like those of a
        target in this process. Else the most probable first tokens must tell them apart.
        """
        rows: list[list[float] | None] = [None] * len(conversations)
        failed: dict[int, str] = {}
        usage = Usage()
        for way in self._ways():
            left = [n for n, row in enumerate(rows) if row is None and n not in failed]
            if left:
                found, cost, lost = way([conversations[n] for n in left], [words[n] for n in left])
                usage += cost
                failed |= {left[n]: why for n, why in lost.items()}
                for n, row in zip(left, found, strict=True):
                    rows[n] = row
        known = [
            torch.tensor(row or [0.0] * len(own)) for row, own in zip(rows, words, strict=True)
        ]
        return LabelScores(pad_sequence(known, batch_first=True), usage, failed)

    def _ways(self) -> list[Any]:
        ways: list[Any] = [self._by_ids] if self.dialect.token_ids else []
        ways += [self._by_top] if self.dialect.top else []
        return [*ways, self._by_text]

    def _by_ids(
        self, conversations: Sequence[Sequence[Message]], words: Sequence[Sequence[str]]
    ) -> tuple[list[list[float] | None], Usage, dict[int, str]]:
        """Whole words, token by token; only where the tokens tell the words apart."""
        ids = [[self._tokens(word) for word in own] for own in words]
        asked, bodies = self._plan(conversations, words)
        replies = self._ask(bodies)
        lost = {asked[n][0]: why for n, why in _failed(replies).items()}
        tables: dict[int, dict[Ids, dict[int, float]]] = {}
        for (n, start, wanted), reply in zip(asked, replies, strict=True):
            if isinstance(reply, Reply) and set(wanted) <= (found := logprobs_by_id(reply)).keys():
                tables.setdefault(n, {})[start] = found
        rows: list[list[float] | None] = []
        for n, own in enumerate(ids):
            complete = n in tables and len(tables[n]) == len(tree_of(own))
            rows.append(sequence_probs(own, tables[n]) if complete else None)
        return rows, _usage(replies), lost

    def _plan(
        self, conversations: Sequence[Sequence[Message]], words: Sequence[Sequence[str]]
    ) -> tuple[list[tuple[int, Ids, list[int]]], list[dict[str, Any]]]:
        """What is asked for each conversation: behind which beginning, about which tokens."""
        asked: list[tuple[int, Ids, list[int]]] = []
        bodies = []
        for n, conversation in enumerate(conversations):
            own = [self._tokens(word) for word in words[n]]
            tree = tree_of(own) if can_be_told_apart(own) else {}
            spelled = {start: self._spelling(start, own, words[n]) for start in tree}
            if None not in spelled.values():
                asked += [(n, start, wanted) for start, wanted in tree.items()]
                bodies += [
                    self.dialect.with_ids(self._begun(conversation, spelled[start]), wanted)
                    for start, wanted in tree.items()
                ]
        return asked, bodies

    def _by_top(
        self, conversations: Sequence[Sequence[Message]], words: Sequence[Sequence[str]]
    ) -> tuple[list[list[float] | None], Usage, dict[int, str]]:
        replies = self._ask(self._top_bodies(conversations))
        rows = [
            word_probs(reply.top, own) if isinstance(reply, Reply) and reply.top else None
            for reply, own in zip(replies, words, strict=True)
        ]
        return rows, _usage(replies), _failed(replies)

    def _top_bodies(self, conversations: Sequence[Sequence[Message]]) -> list[dict[str, Any]]:
        return [self.dialect.with_top(self._body(c, 1)) for c in conversations]

    def _by_text(
        self, conversations: Sequence[Sequence[Message]], words: Sequence[Sequence[str]]
    ) -> tuple[list[list[float] | None], Usage, dict[int, str]]:
        answers = self.generate(conversations, self._label_room)
        rows: list[list[float] | None] = []
        for text, own in zip(answers.texts, words, strict=True):
            said = spoken_label(without_thinking(text), own)
            rows.append([float(number == said) for number in range(len(own))])
        return rows, answers.usage, dict(answers.failed)

    @property
    def _label_room(self) -> int:
        return self._config.max_answer_tokens or LABEL_ROOM

    def _begun(self, conversation: Sequence[Message], start: str | None) -> dict[str, Any]:
        """A request for the next token of an answer that begins like this."""
        if not start:
            return self._body(conversation, 1)
        begun: Message = {"role": "assistant", "content": start}
        body = self._body([*conversation, begun], 1)
        return {**body, "continue_final_message": True, "add_generation_prompt": False}

    def _spelling(self, start: Ids, ids: Sequence[Ids], words: Sequence[str]) -> str | None:
        """The characters of a word's first tokens; None where they are no tokens of their own."""
        [word, *_] = [w for w, own in zip(words, ids, strict=True) if own[: len(start)] == start]
        lengths = range(len(word)) if start else range(1)
        return next(
            (word[:n] for n in lengths if not start or self._tokens(word[:n]) == start), None
        )

    def _body(self, conversation: Sequence[Message], max_tokens: int) -> dict[str, Any]:
        return self.dialect.body(self._servers.home.model, conversation, max_tokens)

    def _ask(self, bodies: Sequence[dict[str, Any]]) -> list[Reply | Failed]:
        """An answer to each request: sent ahead, from disk, or from the server and then to disk."""
        known: list[Reply | None] = []
        for question in map(self._question, bodies):
            reply = self._ahead.take(question)
            if reply is None and (kept := self._cache.find(question)) is not None:
                reply = Reply.from_json(kept)
            known.append(reply)
        missing = [body for body, reply in zip(bodies, known, strict=True) if reply is None]

        async def send(number: int, at: int) -> Reply:
            return await self._send(missing[number], at)

        new = iter(self.traffic.run(send, len(missing)) if missing else [])
        for note in self.traffic.replicas.take_notes():
            self.tell(note)
        return [next(new) if reply is None else reply for reply in known]

    async def _send(self, body: dict[str, Any], at: int) -> Reply:
        reply = _counted(await self._servers.clients[at].chat(body), body)
        self._cache.keep(self._question(body), asdict(reply))
        return reply

    def _question(self, body: dict[str, Any]) -> list[Any]:
        """By which an answer is known: the first server's address stands for all replicas."""
        return [self._servers.home.base_url, body, {"sample": 0}]

    def _tokens(self, word: str) -> Ids:
        """Token ids of a word at the beginning of an answer.

        Raises:
            TargetError: the server fails to say: read another way, figures would not compare.
        """
        if word not in self._ids:
            home = self._servers.home
            question = [home.base_url, home.model, {"tokenize": word}]
            ids = self._cache.find(question)
            if ids is None:
                [found] = self.traffic.run(
                    lambda _, at: self._servers.clients[at].tokenize(word), 1
                )
                if isinstance(found, Failed):
                    raise TargetError(
                        f"the target {self.name!r} did tokenize and no longer does: {found.why}; "
                        "resume the run when it works"
                    )
                ids = found
                self._cache.keep(question, list(ids))
            self._ids[word] = tuple(ids)
        return self._ids[word]


def _counted(reply: Reply, body: Mapping[str, Any]) -> Reply:
    """With tokens by length, four characters each, where the server counts none: limits in tokens
    and dollars would never be reached."""
    if reply.read:
        return reply
    read = sum(len(message["content"]) for message in body["messages"])
    return replace(reply, read=read // 4 + 1, written=reply.written or len(reply.text) // 4 + 1)


def _usage(replies: Sequence[Reply | Failed]) -> Usage:
    answered = [reply for reply in replies if isinstance(reply, Reply)]
    return Usage(sum(r.read for r in answered), sum(r.written for r in answered))


def _failed(replies: Sequence[Reply | Failed]) -> dict[int, str]:
    return {n: reply.why for n, reply in enumerate(replies) if isinstance(reply, Failed)}
