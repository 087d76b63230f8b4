"""How the agent is asked for a prompt: the same words in training and in use."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch

from stableprompt.config import TuneConfig
from stableprompt.models.agent import AgentLLM
from stableprompt.models.tails import split_off
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

    def encoded(
        self, agent: AgentLLM, inputs: Sequence[Example]
    ) -> tuple[torch.Tensor, tuple[tuple[int, ...], ...]]:
        """What the agent reads for each input, as tokens: what all begin with, (Q,), and the rest.

        Args:
            agent: Who reads it.
            inputs: At least one; each different one is encoded once.
        """
        known = {
            example: agent.query_ids(self.messages(example.text)).tolist()
            for example in dict.fromkeys(inputs)
        }
        ids, tails = split_off([known[example] for example in inputs])
        return torch.tensor(ids, device=agent.loaded.device), tuple(tails)


@dataclass(frozen=True, slots=True)
class Query:
    """What the agent is asked for in a step: one prompt for all inputs, or one for each."""

    ids: torch.Tensor
    """Token ids of the meta-prompt, or of what those of all inputs begin with, (Q,)."""
    inputs: tuple[Example, ...] = ()
    """The input that each row is for; () where a prompt is for all of them."""
    tails: tuple[tuple[int, ...], ...] = ()
    """The rest of each row's own meta-prompt; () where a prompt is for all inputs."""

    def only(self, rows: Sequence[int]) -> "Query":
        """The query of some of its rows; the rows of one prompt for all inputs are all alike."""
        inputs = tuple(self.inputs[row] for row in rows) if self.inputs else ()
        tails = tuple(self.tails[row] for row in rows) if self.tails else ()
        return replace(self, inputs=inputs, tails=tails)

    @property
    def num_tokens(self) -> int:
        """Tokens that the agent reads, the common beginning once."""
        return len(self.ids) + sum(map(len, set(self.tails)))
