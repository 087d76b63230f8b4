"""All that a writer of prompts for single inputs is but its weights."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Self

import torch
from pydantic import TypeAdapter, ValidationError

from stableprompt.config import Dtype, GuardConfig, Quantisation, TuneConfig
from stableprompt.errors import ModelError
from stableprompt.models.agent import AgentLLM
from stableprompt.models.hardware import options_of, pick_hardware
from stableprompt.models.loading import public_name
from stableprompt.runs.escapes import escaped, named
from stableprompt.tasks.formats import InputFormat
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import TargetTemplate, template_of
from stableprompt.tuning.asking import Asking
from stableprompt.tuning.collect import draw_for_use
from stableprompt.tuning.guards import Guards
from stableprompt.tuning.per_input import PerInputResult
from stableprompt.tuning.rules import Rules

CARD: Final = "writer.json"


@dataclass(frozen=True, slots=True)
class WriterCard:
    """All that a writer is but its weights; plain data, ``writer.json``."""

    model: str
    """The agent's checkpoint: embedded name, folder or hub id."""
    asking: Asking
    rules: Rules
    guards: GuardConfig
    markup: tuple[str, ...]
    """Special tokens of agent and target, which no prompt may hold."""
    max_prompt_tokens: int
    temperature: float
    dtype: Dtype
    """Of the agent's weights when the writer was judged."""
    quantize: Quantisation
    template: TargetTemplate
    """How prompt and input become the target's messages."""
    layout: InputFormat
    fallback: str
    """The one prompt for all: it stands in where what was written is refused."""
    task: str = ""
    figures: dict[str, Any] | None = None
    """What the writer brought on test, ``PerInputResult``."""

    @classmethod
    def of(cls, task: Task, config: TuneConfig, markup: Sequence[str]) -> Self:
        """The card of a run that has yet to find the prompt for all."""
        shown = draw_for_use(task, config)
        return cls(
            model=config.agent.model,
            asking=Asking.of(task, config).showing(task, shown),
            rules=Rules.in_use(task, shown),
            guards=config.guards,
            markup=tuple(markup),
            max_prompt_tokens=config.agent.max_prompt_tokens,
            temperature=config.agent.temperature,
            dtype=_named(pick_hardware(**options_of(config)).dtype),
            quantize=config.quantize,
            template=template_of(config.target),
            layout=task.layout,
            fallback=task.seed_prompt,
            task=task.name,
        )

    def with_result(self, fixed: str, found: PerInputResult) -> Self:
        """With the prompt for all that the run found, and what its writer brought."""
        # As it will be read: no tuples, no enumerations.
        return replace(self, fallback=fixed, figures=json.loads(json.dumps(found.to_dict())))

    def guards_for(self, agent: AgentLLM) -> Guards:
        """The guards as they are in use."""
        return Guards(self.guards, agent, self.rules, self.markup)

    def to_dict(self) -> dict[str, Any]:
        """For ``writer.json``."""
        guards = self.guards.model_dump(mode="json")
        return {**asdict(replace(self, guards=GuardConfig())), "guards": guards, "version": 1}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Take back what ``to_dict`` gave.

        Raises:
            ModelError: it is damaged, or of another version.
        """
        if not isinstance(content, Mapping) or content.get("version") != 1:
            found = content.get("version") if isinstance(content, Mapping) else content
            raise ModelError(f"{CARD} has version {found!r}, known is 1; update stableprompt")
        known = {name: value for name, value in content.items() if name != "version"}
        try:
            card = TypeAdapter(cls).validate_python(known)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            where = ".".join(map(str, problem["loc"]))
            raise ModelError(f"{CARD} is damaged: {where}: {problem['msg']}") from error
        if card.max_prompt_tokens < 1 or not card.temperature > 0:
            raise ModelError(
                f"{CARD} is damaged: max_prompt_tokens and temperature must be above 0"
            )
        return card


def _named(dtype: torch.dtype) -> Dtype:
    return TypeAdapter(Dtype).validate_python(str(dtype).removeprefix("torch."))


def readme_of(card: WriterCard) -> str:
    """The card for people."""
    lines = [
        f"# Prompt writer for {named(card.task or 'a task')}",
        "",
        f"LoRA adapter of {named(public_name(card.model))} that writes a prompt for each input.",
        "",
        "```python",
        "from stableprompt import PromptWriter",
        "",
        'writer = PromptWriter.from_pretrained("this folder")',
        'prompts = writer.write(["an input", "another one"])',
        "```",
        "",
        f"The one prompt for all, which stands in for what is refused: {escaped(card.fallback)}",
        "",
        f"{len(card.asking.pairs)} demonstrations, which are examples of the task, are in {CARD}.",
        "",
    ]
    figures = card.figures
    if figures:
        lines += ["| on test | score | 95 % | n |", "|---|---|---|---|"]
        for name, key in (
            ("a prompt for each input", "test"),
            ("the one prompt for all", "fixed_test"),
            ("the agent answers alone", "agent_alone"),
        ):
            e = figures[key]
            if e is not None:
                interval = f"{e['low']:.3f} to {e['high']:.3f}"
                lines.append(f"| {name} | {e['score']:.3f} | {interval} | {e['n']} |")
        lines += ["", escaped(figures["reason"][:1].upper() + figures["reason"][1:]) + ".", ""]
    return "\n".join(lines)
