"""How the agent is asked for a prompt: the same words in training and in use."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from stableprompt.config import TuneConfig
from stableprompt.tasks.example import Example
from stableprompt.tasks.meta_prompts import MetaPrompt, MetaPromptStyle
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import Message


@dataclass(frozen=True, slots=True)
class Asking:
    """All that a meta-prompt is made of but the input; plain data, saved with a writer."""

    style: MetaPromptStyle
    prompt: str
    """The current instruction, which is to be improved on."""
    outputs: tuple[str, ...]
    """What may be answered, or nothing."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Input and right answer of each demonstration."""

    @classmethod
    def of(cls, task: Task, config: TuneConfig) -> Self:
        """Without demonstrations yet."""
        return cls(config.agent.meta_prompt, task.seed_prompt, tuple(task.allowed_outputs))

    def showing(self, task: Task, demonstrations: Sequence[Example]) -> "Asking":
        """With these demonstrations."""
        pairs = tuple((example.text, task.shown_answer(example)) for example in demonstrations)
        return replace(self, pairs=pairs)

    def messages(self, current: str | None = None) -> list[Message]:
        """What the agent reads, for one input or for all."""
        meta_prompt = MetaPrompt(self.style)
        return meta_prompt.messages(self.prompt, self.outputs, self.pairs, current=current)
