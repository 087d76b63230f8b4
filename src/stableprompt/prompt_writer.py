"""The trained writer as a thing of its own: it writes a prompt for each input.

A folder holds the LoRA adapter (safetensors), ``writer.json`` with everything else that it needs
(meta-prompt, demonstrations, guards, the target's template, the one prompt for all), and a card
for people. Nothing in it is code.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import torch
from pydantic import TypeAdapter, ValidationError

from stableprompt.config import Dtype, GuardConfig, TuneConfig
from stableprompt.errors import ConfigError, ModelError
from stableprompt.models.adapters import AdaptedModel, read_lora_config
from stableprompt.models.agent import AgentLLM
from stableprompt.models.hardware import pick_hardware
from stableprompt.models.loading import load_model
from stableprompt.models.tails import split_off
from stableprompt.runs.folder import WRITER, RunFolder
from stableprompt.tasks.example import Example
from stableprompt.tasks.formats import InputFormat
from stableprompt.tasks.inputs import example_of
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import Message, TargetTemplate, template_of
from stableprompt.tuning.asking import Asking
from stableprompt.tuning.collect import draw_for_use
from stableprompt.tuning.guards import Guards
from stableprompt.tuning.randomness import derive_uniforms
from stableprompt.tuning.records import TuneResult
from stableprompt.tuning.rules import Rules

CARD: Final = "writer.json"
README: Final = "README.md"
_AT_ONCE: Final = 32
Input = str | Mapping[str, Any]


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
            template=template_of(config.target),
            layout=task.layout,
            fallback=task.seed_prompt,
            task=task.name,
        )

    def with_result(self, result: TuneResult) -> Self:
        """With what the run found."""
        found = result.per_input.to_dict() if result.per_input else None
        figures = json.loads(json.dumps(found))  # as it will be read: no tuples, no enumerations
        return replace(self, fallback=result.prompt, figures=figures)

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
        known = {name: value for name, value in content.items() if name != "version"}
        try:
            if content.get("version") != 1:
                raise ModelError(f"{CARD} has version {content.get('version')!r}, known is 1")
            return TypeAdapter(cls).validate_python(known)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            where = ".".join(map(str, problem["loc"]))
            raise ModelError(f"{CARD} is damaged: {where}: {problem['msg']}") from error


class PromptWriter:
    """Writes a prompt for each input; made by a run with ``per_input``, or loaded.

    What was written once is remembered: the same input costs nothing the second time.

    Args:
        agent: The checkpoint with the trained adapter as its policy.
        card: Everything else.
    """

    def __init__(self, agent: AgentLLM, card: WriterCard) -> None:
        self.card = card
        self._agent = agent
        self._guards = card.guards_for(agent)
        self._known: dict[str, str] = {}
        self.refused: Counter[str] = Counter()
        """Prompts that were refused since this writer was made, by reason."""

    def write(self, inputs: Sequence[Input]) -> list[str]:
        """The most probable prompt for each input, exactly as the target should get it.

        Args:
            inputs: Texts; or the fields of each by name, ``choices`` being a list.

        Raises:
            ConfigError: an input lacks fields.
        """
        examples = self._examples(inputs)
        new = list({e.text: e for e in examples if e.text not in self._known}.values())
        for start in range(0, len(new), _AT_ONCE):
            part = new[start : start + _AT_ONCE]
            rows = torch.zeros(len(part), self.card.max_prompt_tokens, dtype=torch.float64)
            for example, prompt in zip(part, self._write(part, rows, greedy=True), strict=True):
                self._known[example.text] = prompt
        return [self._known[example.text] for example in examples]

    def sample(self, inputs: Sequence[Input], k: int, *, seed: int = 0) -> list[list[str]]:
        """k prompts for each input, drawn at the temperature of training: for voting.

        Args:
            inputs: As in ``write``.
            k: How many; the target's answers to them are then counted, see ``majority``.
            seed: Decides what is drawn, for each input the same whatever the others.
        """
        if k < 1:
            raise ConfigError(f"at least one prompt must be drawn for an input, found k = {k}")
        length, drawn = self.card.max_prompt_tokens, []
        for example in self._examples(inputs):
            rows = derive_uniforms(seed, "write", example.text, rows=k, length=length)
            drawn.append(self._write([example] * k, rows, greedy=False))
        return drawn

    def messages(self, given: Input) -> list[Message]:
        """The chat messages for the target: the prompt for this input, and the input."""
        [prompt] = self.write([given])
        example = example_of(given, self.card.layout, prompt=prompt)
        return self.card.template.messages(prompt, example)

    def asked(self, given: Input) -> list[Message]:
        """What the agent reads before it writes the prompt for this input."""
        return self.card.asking.messages(example_of(given, self.card.layout).text)

    def _examples(self, inputs: Sequence[Input]) -> list[Example]:
        if isinstance(inputs, str | Mapping):
            raise ConfigError("write takes a list of inputs; put a single one into [ ]")
        return [example_of(given, self.card.layout) for given in inputs]

    def _write(self, examples: Sequence[Example], rows: torch.Tensor, *, greedy: bool) -> list[str]:
        agent, asking = self._agent, self.card.asking
        queries = [agent.query_ids(asking.messages(e.text)).tolist() for e in examples]
        shared, tails = split_off(queries)
        ids = torch.tensor(shared, device=agent.loaded.device)
        responses = agent.sample(ids, rows, tails=tails, greedy=greedy)
        found = self._guards.inspect(responses, examples)
        self.refused.update(one.fault for one in found if one.fault is not None)
        return [one.prompt if one.fault is None else self.card.fallback for one in found]

    # --- keeping ---

    def save_pretrained(self, folder: str | Path) -> None:
        """Write adapter, ``writer.json`` and a card for people into a folder."""
        path = Path(folder)
        self._agent.adapted.save_adapter(path)
        out = RunFolder(path)
        out.write_json(CARD, self.card.to_dict())
        out.write_text(README, readme_of(self.card))

    def push_to_hub(self, repo_id: str, *, private: bool = True) -> str:
        """Upload to the Hugging Face hub; private unless you say otherwise.

        The demonstrations, which are examples of yours, go with it.

        Returns:
            The address of the upload.
        """
        from tempfile import TemporaryDirectory

        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder))

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        model: str | None = None,
        device: str = "auto",
        dtype: Dtype = "auto",
    ) -> Self:
        """Load a writer.

        Args:
            name: Its folder, the folder of the run that made it, or a hub id.
            model: The agent's checkpoint, where it lies elsewhere than it did.
            device: As in the settings.
            dtype: As in the settings.

        Raises:
            ModelError: there is no writer, it is damaged, or its checkpoint cannot be loaded.
        """
        folder = _found(str(name))
        try:
            card = WriterCard.from_dict(json.loads((folder / CARD).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{folder} holds no writer ({error}); give a folder that has {CARD} in it, or a "
                "run that was made with --per-input"
            ) from error
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        pick_hardware(**options)
        loaded = load_model(model or card.model, **options)
        adapted = AdaptedModel(loaded.model, read_lora_config(folder), seed=0)
        adapted.load_adapter(folder)
        return cls(AgentLLM(loaded, adapted, temperature=card.temperature), card)


def _found(name: str) -> Path:
    """The folder of a writer, fetched from the hub where it is none of this machine."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path / WRITER if (path / WRITER).is_dir() else path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", README]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"there is no folder {name} and no such writer on the hub "
            f"({type(error).__name__}); check the name"
        ) from error


def majority(answers: Sequence[str]) -> str:
    """The most frequent answer; of equally frequent ones the first.

    >>> majority(["red", "green", "green", "red", "blue"])
    'red'
    """
    if not answers:
        raise ConfigError("there is nothing to vote on; give at least one answer")
    return Counter(answers).most_common(1)[0][0]


def readme_of(card: WriterCard) -> str:
    """The card for people."""
    lines = [
        f"# Prompt writer for {card.task or 'a task'}",
        "",
        f"Writes a prompt for each input. LoRA adapter of `{card.model}`, made by stableprompt.",
        "",
        "```python",
        "from stableprompt import PromptWriter",
        "",
        'writer = PromptWriter.from_pretrained("this folder")',
        'prompts = writer.write(["an input", "another one"])',
        "```",
        "",
        f"The one prompt for all, which stands in for what is refused: {card.fallback!r}",
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
        lines += ["", figures["reason"][0].upper() + figures["reason"][1:] + ".", ""]
    return "\n".join(lines)
