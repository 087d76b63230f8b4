"""Which prompts are refused before they cost a target call, and how readable each one is."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from stableprompt.config import GuardConfig
from stableprompt.errors import ModelError
from stableprompt.models.agent import AgentLLM
from stableprompt.models.responses import Responses
from stableprompt.tasks.answer_leaks import gives_away
from stableprompt.tasks.example import Example
from stableprompt.tasks.placeholders import WHOLE_INPUT
from stableprompt.tasks.prompt_checks import CopyIndex, LeakIndex, PromptFault, find_fault
from stableprompt.tasks.readability import (
    Readability,
    SurpriseScale,
    is_instruction,
    plain_instructions,
)
from stableprompt.tuning.rules import Rules

READABLE_SURPRISE: Final = 1.5
"""Where a limit is needed and the settings switch the guard off: what counts as readable."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is known of a prompt before the target sees it."""

    prompt: str
    fault: PromptFault | None
    readability: Readability
    written_for: str | None = None
    """The input that it was written for; None where it is for all."""


class Guards:
    """Finds the fault of a prompt, if it has one, and says how readable it is.

    Args:
        config: Which checks are on.
        agent: Its base model says how odd a text is.
        rules: What must not be copied or stated; the placeholders of the seed prompt must be kept.
            No prompt is babble that is less odd than the seed prompt, and where that one does not
            look like an instruction, none must.
        special_tokens: Markup of agent and target.

    Raises:
        ModelError: the agent's base model gives no finite probabilities.
    """

    def __init__(
        self, config: GuardConfig, agent: AgentLLM, rules: Rules, special_tokens: Sequence[str]
    ) -> None:
        self._config = config
        self._agent = agent
        self._rules = rules
        self._fields = (WHOLE_INPUT, *rules.fields)
        self._copies = CopyIndex(
            rules.not_to_copy if config.reject_copies else (), allowed=rules.seed_prompt
        )
        leaks = LeakIndex(rules.answers, closed=rules.closed)
        self._leaks = leaks if config.reject_leaks else None
        self._special_tokens = tuple(special_tokens)
        self._known: dict[str, Readability] = {}  # a trained policy repeats itself
        costs = agent.surprisals(plain_instructions())
        if not all(math.isfinite(c.nats) for c in costs):
            raise ModelError(
                f"the agent's model {agent.loaded.name!r} gives probabilities of plain sentences "
                "that are not finite; use --set dtype=float32, or another agent"
            )
        self._scale = SurpriseScale.fit([c.nats for c in costs], [c.num_tokens for c in costs])
        [self._seed] = self.read([rules.seed_prompt])

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

    def inspect(self, responses: Responses, inputs: Sequence[Example] = ()) -> list[Inspection]:
        """The fault of each response, or None, and its readability, in order.

        Args:
            responses: What was written.
            inputs: The input that each was written for, which it must neither copy nor answer; ()
                where they are for all inputs.
        """
        return self.inspect_texts(responses.texts, responses.truncated, inputs)

    def inspect_texts(
        self, texts: Sequence[str], truncated: Sequence[bool], inputs: Sequence[Example] = ()
    ) -> list[Inspection]:
        """The same of texts, each alone: what stands beside it changes nothing.

        Args:
            texts: What was written.
            truncated: Whether the length cap cut it.
            inputs: As in ``inspect``.
        """
        found = self.read(texts)
        faults = map(self._fault, texts, truncated, found)
        if not inputs:
            return list(map(Inspection, texts, faults, found))
        return [
            Inspection(text, fault or self._fault_for(text, example), own, example.text)
            for text, fault, own, example in zip(texts, faults, found, inputs, strict=True)
        ]

    def _fault_for(self, text: str, example: Example) -> PromptFault | None:
        """What is wrong with a prompt as one for this input."""
        config = self._config
        if config.reject_leaks and gives_away(text, example, self._rules.words(example)):
            return PromptFault.LEAK
        own = CopyIndex([example.text], allowed=self._rules.seed_prompt)
        return PromptFault.COPY if config.reject_copies and own.is_copied_in(text) else None

    def _fault(self, text: str, cut: bool, found: Readability) -> PromptFault | None:
        config = self._config
        fault = find_fault(
            text,
            truncated=cut and config.reject_truncated,
            example_texts=self._copies,
            special_tokens=self._special_tokens,
            keep=self._rules.seed_prompt,
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
