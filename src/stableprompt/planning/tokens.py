"""Tokens without a tokenizer: what a run reads is counted by its characters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stableprompt.config import TuneConfig
from stableprompt.models.targets.interface import Usage
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import template_of
from stableprompt.tuning.asking import Asking
from stableprompt.tuning.collect import draw_examples
from stableprompt.tuning.forecast import Pair

CHARACTERS: Final = 4.0
"""Of a token: an assumption, about right for English."""
MARKUP: Final = 7
"""Tokens that a chat template puts around a message."""


def tokens_of(text: str) -> int:
    """About how many tokens a text has."""
    return math.ceil(len(text) / CHARACTERS)


@dataclass(frozen=True, slots=True)
class PaperCount:
    """Counts what a target would read.

    Attributes:
        task: What is asked about.
        config: How it is asked.
        shared: Whether what calls have in common counts once.
        answer: Tokens that are written for a call.
    """

    task: Task
    config: TuneConfig
    shared: bool
    answer: float

    def __call__(self, pairs: Sequence[Pair]) -> Usage:
        """Tokens of some pairs that are asked together."""
        written = round(self.answer * len(pairs))
        if not self.shared:
            return Usage(sum(self._whole(pair) for pair in pairs), written)
        prompt_first = self.config.target.order == "prompt_first"
        firsts: dict[str, int] = {}
        read = 0
        for prompt, example in pairs:
            first = prompt if prompt_first else example.text
            firsts[first] = tokens_of(first) + MARKUP
            read += self._whole((prompt, example)) - firsts[first]
        return Usage(read + sum(firsts.values()), written)

    def context(self, pairs: Sequence[Pair]) -> float:
        """Tokens of one call, on average."""
        return sum(self._whole(pair) for pair in pairs) / len(pairs)

    def _whole(self, pair: Pair) -> int:
        messages = template_of(self.config.target).messages(*pair)
        return sum(tokens_of(message["content"]) + MARKUP for message in messages)


def query_tokens(task: Task, config: TuneConfig) -> int:
    """Q: of the meta-prompt of the first step."""
    shown = draw_examples(task, config, 0).demonstrations
    messages = Asking.of(task, config).showing(task, shown).messages()
    return sum(tokens_of(message["content"]) + MARKUP for message in messages)


def reference_tokens(task: Task) -> float:
    """Of a right answer, on average."""
    answers = [task.shown_answer(example) for example in task.train]
    return sum(map(tokens_of, answers)) / len(answers)


def written_prompts(config: TuneConfig) -> tuple[str, ...]:
    """Stand-ins of a step's prompts: all different, as long as they may be."""
    length = int(config.agent.max_prompt_tokens * CHARACTERS)
    return tuple(f"{n:0{length}d}" for n in range(config.ppo.prompts_per_step))
