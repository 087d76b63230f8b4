"""A target in actors on a Ray cluster: copies of a checkpoint that share the questions.

Each actor loads the target once, as this process would, and answers portion after portion. Which
conversations make a portion follows from the conversations alone (``portions``), so answers are
the same whichever actor gives them, and however many there are.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from stableprompt.llm_config import RayConfig
from stableprompt.models.chat import Message
from stableprompt.models.identity import identity_of
from stableprompt.models.likelihood import continues_exactly
from stableprompt.models.targets.crew import Crew
from stableprompt.models.targets.interface import Answers, LabelScores
from stableprompt.models.targets.local import LocalTarget
from stableprompt.models.targets.masked import MaskedTarget
from stableprompt.models.targets.paper import read_by_one
from stableprompt.models.targets.portions import (
    Part,
    joined_answers,
    joined_scores,
    portions,
)
from stableprompt.models.targets.ray_cluster import RayCluster

Found = TypeVar("Found", LabelScores, Answers)
Conversations = Sequence[Sequence[Message]]
Loading = Callable[[], LocalTarget | MaskedTarget]

_HERE: Final = ", in this process"


@dataclass(frozen=True, slots=True)
class Told:
    """What an actor says of the target that it holds; all must say the same."""

    name: str
    how: str
    identity: str
    """Of the weights."""
    dtype: str
    device: str
    shares: bool
    """Whether it reads once what conversations share."""
    warnings: tuple[str, ...] = field(compare=False)


class TargetActor:
    """One copy of the target, in a process of a Ray cluster."""

    def begin(self, load: Loading) -> Told:
        """Load the target.

        Raises:
            ModelError: it cannot be loaded there.
        """
        self._own = load()
        loaded = self._own.loaded
        with warnings.catch_warnings(record=True) as heard:
            shares = isinstance(self._own, LocalTarget) and continues_exactly(loaded)
        return Told(
            name=loaded.name,
            how=self._own.how,
            identity=identity_of(loaded.name),
            dtype=str(self._own.dtype).removeprefix("torch."),
            device=loaded.device.type,
            shares=shares,
            warnings=tuple(str(one.message) for one in heard),
        )

    def label_scores(
        self, conversations: Conversations, words: Sequence[Sequence[str]]
    ) -> LabelScores:
        """Those of the target, for a portion."""
        return self._own.label_scores(conversations, words)

    def generate(self, conversations: Conversations, max_tokens: int) -> Answers:
        """Those of the target, for a portion."""
        return self._own.generate(conversations, max_tokens)

    def read_by_one(
        self, conversations: Conversations, words: Sequence[Sequence[str]] | None
    ) -> int | None:
        """Tokens that one actor alone would read."""
        return read_by_one(self._own, conversations, words)

    def num_tokens(self, text: str) -> int:
        """As the target counts."""
        return self._own.num_tokens(text)

    def fits(self, conversation: Sequence[Message], room: int) -> bool:
        """Whether the target's context holds it."""
        return self._own.fits(conversation, room)

    def markup(self) -> list[str]:
        """Of the target's tokenizer."""
        return self._own.markup()


class RayTarget:
    """The target that several actors hold, in the place of one in this process.

    Its answers come in the order of the questions, and what conversations share is counted once, as
    by one process alone, though each actor may read it.

    Args:
        load: Loads the target, in an actor.
        config: Where, how many, how large; ``gpus`` is set.

    Attributes:
        held: How the target is held, for the record.

    Raises:
        ConfigError: the cluster has no room for the actors, or a machine of it cannot do what the
            settings ask for.
        ModelError: the target cannot be loaded there.
        TargetError: there is no cluster, or the actors do not hold the same target.
    """

    def __init__(self, load: Loading, config: RayConfig) -> None:
        self._cluster = RayCluster(config, TargetActor, load)
        self._crew = Crew(self._cluster, config.actors, patience=config.start_seconds)
        try:
            told: Told = self._crew.gather()[0]
        except BaseException:
            self.close()
            raise
        for text in told.warnings:
            warnings.warn(text, stacklevel=2)
        self.name = told.name
        self._how = f"{told.how.removesuffix(_HERE)}, in actors of Ray"
        self.held = {
            "target_dtype": told.dtype,
            "target_device": told.device,
            "target_identity": told.identity,
        }

    @property
    def gives_probabilities(self) -> bool:
        """They do: all of their output can be read."""
        return True

    @property
    def at_once(self) -> int | None:
        """All: they are shared out here."""
        return None

    @property
    def requests(self) -> Mapping[str, Any]:
        """Portions that each actor was done with, and how often it was lost."""
        counts = zip(self._crew.done, self._crew.lost, strict=True)
        return {"actors": {str(n): {"done": d, "lost": lost} for n, (d, lost) in enumerate(counts)}}

    @property
    def how(self) -> str:
        """In actors; how many makes no difference to an answer."""
        return self._how

    @property
    def tell(self) -> Callable[[str], None]:
        """Told of actors that are lost."""
        return self._crew.tell

    @tell.setter
    def tell(self, tell: Callable[[str], None]) -> None:
        self._crew.tell = tell

    def label_scores(
        self, conversations: Conversations, words: Sequence[Sequence[str]]
    ) -> LabelScores:
        """Score words as the answer to each conversation; each actor scores some."""
        parts: list[Part[LabelScores]]
        parts, read = self._asked(
            conversations, words, "label_scores", lambda own: ([words[n] for n in own],)
        )
        return joined_scores(parts, read)

    def generate(self, conversations: Conversations, max_tokens: int) -> Answers:
        """Answer each conversation; each actor answers some."""
        parts: list[Part[Answers]]
        parts, read = self._asked(conversations, None, "generate", lambda own: (max_tokens,))
        return joined_answers(parts, read)

    def _asked(
        self,
        conversations: Conversations,
        words: Sequence[Sequence[str]] | None,
        method: str,
        more: Callable[[Sequence[int]], tuple[Any, ...]],
    ) -> tuple[list[Part[Any]], int | None]:
        """What came of each portion, and the tokens of all where what they share counts once."""
        own = portions(conversations)
        jobs = [(method, ([conversations[n] for n in portion], *more(portion))) for portion in own]
        if len(own) == 1:  # it counts itself
            return list(zip(own, self._crew.do(jobs), strict=True)), None
        # First, so that others read meanwhile.
        read, *found = self._crew.do([("read_by_one", (conversations, words)), *jobs])
        return list(zip(own, found, strict=True)), read

    def num_tokens(self, text: str) -> int:
        """As an actor counts."""
        found: int = self._ask("num_tokens", text)
        return found

    def fits(self, conversation: Sequence[Message], room: int) -> bool:
        """As an actor finds."""
        found: bool = self._ask("fits", conversation, room)
        return found

    def markup(self) -> list[str]:
        """As an actor's tokenizer has it."""
        found: list[str] = self._ask("markup")
        return found

    def close(self) -> None:
        """End the actors."""
        self._cluster.close()

    def _ask(self, method: str, *given: Any) -> Any:
        """Something that one actor knows as well as another."""
        return self._crew.do([(method, given)], counted=False)[0]
