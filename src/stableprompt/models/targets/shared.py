"""A target whose questions are shared by several processes: each asks some, all get all answers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch.nn.functional import pad

from stableprompt.models.chat import Message
from stableprompt.models.likelihood import ONE_TREE, continues_exactly
from stableprompt.models.ranks import Ranks
from stableprompt.models.targets.interface import Answers, LabelScores, TargetLLM, Usage
from stableprompt.models.targets.local import LocalTarget
from stableprompt.models.targets.paper import PaperTarget

Found = TypeVar("Found", LabelScores, Answers)
Conversations = Sequence[Sequence[Message]]


class SharedTarget:
    """The same target as in the other processes.

    Its answers and what it costs are those of one process alone: what conversations share is
    counted once, though each process may read it.

    Args:
        target: That of this process.
        ranks: The processes.

    Attributes:
        own: That of this process.
    """

    def __init__(self, target: TargetLLM, ranks: Ranks) -> None:
        self.name = target.name
        self.own = target
        self._ranks = ranks
        self._requests: Mapping[str, Any] = target.requests

    @property
    def gives_probabilities(self) -> bool:
        """As that of this process."""
        return self.own.gives_probabilities

    @property
    def at_once(self) -> int | None:
        """As many as all of them take."""
        own = self.own.at_once
        return None if own is None else own * self._ranks.count

    @property
    def requests(self) -> Mapping[str, Any]:
        """Of all processes, up to the last answers."""
        return self._requests

    @property
    def how(self) -> str:
        """As that of this process."""
        return self.own.how

    def num_tokens(self, text: str) -> int:
        """As that of this process."""
        return self.own.num_tokens(text)

    def close(self) -> None:
        """Close that of this process."""
        self.own.close()

    def markup(self) -> list[str]:
        """As that of this process."""
        return self.own.markup()

    def fits(self, conversation: Sequence[Message], room: int) -> bool:
        """As that of this process."""
        return self.own.fits(conversation, room)

    def label_scores(
        self, conversations: Conversations, words: Sequence[Sequence[str]]
    ) -> LabelScores:
        """Score words as the answer to each conversation; each process asks about some."""
        parts = self._asked(
            len(conversations),
            lambda own: self.own.label_scores(
                [conversations[n] for n in own], [words[n] for n in own]
            ),
            lambda paper: sum(
                paper.label_scores(
                    conversations[at : at + ONE_TREE], words[at : at + ONE_TREE]
                ).usage.read
                for at in range(0, len(conversations), ONE_TREE)
            ),
        )
        width = max(part.label_probs.shape[1] for _, part, _ in parts)
        tables = [
            pad(part.label_probs, (0, width - part.label_probs.shape[1])) for _, part, _ in parts
        ]
        return LabelScores(torch.cat(tables), _total(parts), _failed(parts))

    def generate(self, conversations: Conversations, max_tokens: int) -> Answers:
        """Answer each conversation; each process asks about some."""
        parts = self._asked(
            len(conversations),
            lambda own: self.own.generate([conversations[n] for n in own], max_tokens),
            lambda paper: paper.generate(conversations, 0).usage.read,
        )
        texts = tuple(text for _, part, _ in parts for text in part.texts)
        return Answers(texts, _total(parts), _failed(parts))

    def _asked(
        self,
        count: int,
        ask: Callable[[range], Found],
        on_paper: Callable[[PaperTarget], int],
    ) -> list[tuple[range, Found, int | None]]:
        """By process: which conversations it had, what came of them, and from the first process
        the tokens that all of them take to read, where what they share counts once."""
        mine = self._ranks.share(count)

        def work() -> tuple[range, Found | None, int | None, dict[str, Any]]:
            found = ask(mine) if mine else None
            read, target = None, self.own
            # Where nothing is shared the parts add up.
            if (
                self._ranks.first
                and isinstance(target, LocalTarget)
                and continues_exactly(target.loaded)
            ):
                read = on_paper(PaperTarget(target.loaded, shared=True, plain=target.plain))
            return mine, found, read, dict(target.requests)

        parts = self._ranks.each(work)
        self._requests = _added([requests for *_, requests in parts])
        return [(own, found, read) for own, found, read, _ in parts if found is not None]


def _added(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sums, by name; of replicas those of each one."""
    [first, *_] = found
    return {
        name: _added([one[name] for one in found])
        if isinstance(value, Mapping)
        else sum(one[name] for one in found)
        for name, value in first.items()
    }


def _total(parts: Sequence[tuple[range, Found, int | None]]) -> Usage:
    usage = sum((part.usage for _, part, _ in parts), start=Usage())
    told = [read for _, _, read in parts if read is not None]
    return Usage(told[0], usage.written) if told else usage


def _failed(parts: Sequence[tuple[range, Found, int | None]]) -> dict[int, str]:
    return {
        own.start + number: why for own, part, _ in parts for number, why in part.failed.items()
    }
