"""Which prompts are refused before they cost a target call, and how readable each one is."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from stableprompt.config import GuardConfig
from stableprompt.models.agent import AgentLLM, Responses
from stableprompt.tasks.example import TaskKind
from stableprompt.tasks.placeholders import WHOLE_INPUT
from stableprompt.tasks.prompt_checks import CopyIndex, LeakIndex, PromptFault, find_fault
from stableprompt.tasks.readability import (
    Readability,
    SurpriseScale,
    is_instruction,
    plain_instructions,
)
from stableprompt.tasks.task import Task

READABLE_SURPRISE: Final = 1.5
"""Where a limit is needed and the settings switch the guard off: what counts as readable."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is known of a prompt before the target sees it."""

    prompt: str
    fault: PromptFault | None
    readability: Readability


class Guards:
    """Finds the fault of a prompt, if it has one, and says how readable it is.

    Args:
        config: Which checks are on.
        agent: Its base model says how odd a text is.
        task: Its training examples must not be copied, its answers not be stated, the
            placeholders of its seed prompt be kept; no prompt is babble that is less odd than its
            seed prompt, and where that one does not look like an instruction, none must.
        special_tokens: Markup of agent and target.
    """

    def __init__(
        self, config: GuardConfig, agent: AgentLLM, task: Task, special_tokens: Sequence[str]
    ) -> None:
        self._config = config
        self._agent = agent
        self._seed_prompt = task.seed_prompt
        self._fields = (WHOLE_INPUT, *task.fields)
        self._copies = CopyIndex(
            texts_not_to_copy(task) if config.reject_copies else (), allowed=task.seed_prompt
        )
        self._leaks = leaks_of(task) if config.reject_leaks else None
        self._special_tokens = tuple(special_tokens)
        self._known: dict[str, Readability] = {}  # a trained policy repeats itself
        costs = agent.surprisals(plain_instructions())
        self._scale = SurpriseScale.fit([c.nats for c in costs], [c.num_tokens for c in costs])
        [self._seed] = self.read([task.seed_prompt])

    def read(self, texts: Iterable[str]) -> list[Readability]:
        """How readable each text is; each text is measured once."""
        wanted = list(texts)
        new = [text for text in dict.fromkeys(wanted) if text not in self._known]
        for text, cost in zip(new, self._agent.surprisals(new) if new else [], strict=True):
            self._known[text] = Readability(
                surprise=self._scale.surprise(cost.nats, cost.num_tokens),
                num_words=len(text.split()),
                instruction=is_instruction(text),
            )
        return [self._known[text] for text in wanted]

    def is_readable(self, prompt: str) -> bool:
        """Whether a person would ship it, by the default limits where the settings have none."""
        [found] = self.read([prompt])
        limit = self._config.max_surprise
        limit = READABLE_SURPRISE if limit is None else limit
        return not self._odd(found, limit) and not self._asks_nothing(found)

    def inspect(self, responses: Responses) -> list[Inspection]:
        """The fault of each response, or None, and its readability, in order."""
        return [
            Inspection(text, self._fault(text, cut, found), found)
            for text, cut, found in zip(
                responses.texts, responses.truncated, self.read(responses.texts), strict=True
            )
        ]

    def _fault(self, text: str, cut: bool, found: Readability) -> PromptFault | None:
        config = self._config
        fault = find_fault(
            text,
            truncated=cut and config.reject_truncated,
            example_texts=self._copies,
            special_tokens=self._special_tokens,
            keep=self._seed_prompt,
            fields=self._fields,
            leaks=self._leaks,
        )
        if fault is None and config.require_instruction and self._asks_nothing(found):
            return PromptFault.NO_INSTRUCTION
        if fault is None and config.max_surprise is not None:
            return PromptFault.BABBLE if self._odd(found, config.max_surprise) else None
        return fault

    def _odd(self, found: Readability, limit: float) -> bool:
        return not found.surprise <= max(limit, self._seed.surprise)  # not <=: NaN is odd, too

    def _asks_nothing(self, found: Readability) -> bool:
        return self._seed.instruction and not found.instruction


def texts_not_to_copy(task: Task) -> list[str]:
    """Fields of the training examples, and references, that only one example has.

    What several share gives no example away: it names the subject, or what may be answered.
    """
    counts = Counter(value for e in task.train for value in set(e.fields.values()))
    if task.kind is TaskKind.GENERATION:
        counts.update(answer for e in task.train for answer in set(e.answers))
    return [text for text, count in counts.items() if count == 1]


def leaks_of(task: Task) -> LeakIndex:
    """The answers that a prompt must not state."""
    if task.kind is TaskKind.GENERATION:
        return LeakIndex((a for e in task.train for a in e.answers), closed=False)
    words = (word for example in task.train for word in task.answer_words(example))
    return LeakIndex(dict.fromkeys(words), closed=True)
