"""A target whose questions are shared by several processes: each asks some, all get all answers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from stableprompt.models.chat import Message
from stableprompt.models.ranks import Ranks
from stableprompt.models.targets.interface import Answers, LabelScores, TargetLLM
from stableprompt.models.targets.paper import read_by_one
from stableprompt.models.targets.portions import Part, joined_answers, joined_scores

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

        def ask(own: range) -> LabelScores:
            return self.own.label_scores([conversations[n] for n in own], [words[n] for n in own])

        return joined_scores(*self._asked(conversations, words, ask))

    def generate(self, conversations: Conversations, max_tokens: int) -> Answers:
        """Answer each conversation; each process asks about some."""

        def ask(own: range) -> Answers:
            return self.own.generate([conversations[n] for n in own], max_tokens)

        return joined_answers(*self._asked(conversations, None, ask))

    def _asked(
        self,
        conversations: Conversations,
        words: Sequence[Sequence[str]] | None,
        ask: Callable[[range], Found],
    ) -> tuple[list[Part[Found]], int | None]:
        """By process: which conversations it had, and what came of them; and from the first process
        the tokens that all of them take to read, where what they share counts once."""
        mine = self._ranks.share(len(conversations))

        def work() -> tuple[range, Found | None, int | None, dict[str, Any]]:
            found = ask(mine) if mine else None
            read = read_by_one(self.own, conversations, words) if self._ranks.first else None
            return mine, found, read, dict(self.own.requests)

        told = self._ranks.each(work)
        self._requests = _added([requests for *_, requests in told])
        parts: list[Part[Found]] = [(own, found) for own, found, *_ in told if found is not None]
        return parts, told[0][2]


def _added(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sums, by name; of replicas those of each one."""
    [first, *_] = found
    return {
        name: _added([one[name] for one in found])
        if isinstance(value, Mapping)
        else sum(one[name] for one in found)
        for name, value in first.items()
    }
