"""The trained writer as a thing of its own: it writes a prompt for each input.

A folder holds the LoRA adapter (safetensors), ``writer.json`` with everything else that it needs
(meta-prompt, demonstrations, guards, the target's template, the one prompt for all), and a card
for people. Nothing in it is code.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

import torch
from safetensors import SafetensorError

from stableprompt.config import Dtype
from stableprompt.errors import ConfigError, ModelError
from stableprompt.models.adapters import AdaptedModel, read_lora_config
from stableprompt.models.agent import AgentLLM
from stableprompt.models.loading import load_model, public_name
from stableprompt.runs.folder import WRITER, RunFolder
from stableprompt.runs.writing import writing
from stableprompt.tasks.example import Example
from stableprompt.tasks.inputs import example_of
from stableprompt.tasks.templates import Message
from stableprompt.tuning.randomness import derive_uniforms
from stableprompt.tuning.writer_card import CARD as CARD
from stableprompt.tuning.writer_card import WriterCard as WriterCard
from stableprompt.tuning.writer_card import readme_of

README: Final = "README.md"
_AT_ONCE: Final = 32
Input = str | Mapping[str, Any]


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
        ids, tails = self.card.asking.encoded(self._agent, examples)
        responses = self._agent.sample(ids, rows, tails=tails, greedy=greedy)
        found = self._guards.inspect(responses, examples)
        self.refused.update(one.fault for one in found if one.fault is not None)
        return [one.prompt if one.fault is None else self.card.fallback for one in found]

    # --- keeping ---

    def save_pretrained(self, folder: str | Path) -> None:
        """Write adapter, ``writer.json`` and a card for people into a folder."""
        save_writer(self._agent, self.card, Path(folder))

    def push_to_hub(self, repo_id: str, *, private: bool = True) -> str:
        """Upload to the Hugging Face hub; private unless you say otherwise.

        The demonstrations, which are examples of yours, go with it.

        Returns:
            The address of the upload.

        Raises:
            ConfigError: the repository is public, and you did not say so.
            ModelError: the hub refused.
        """
        from tempfile import TemporaryDirectory

        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        api = HfApi()
        shared = replace(self.card, model=public_name(self.card.model))
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            if private and not api.repo_info(repo_id).private:
                raise ConfigError(
                    f"{repo_id} is public, and the writer holds examples of yours; give "
                    "private=False, or another name"
                )
            with TemporaryDirectory() as folder:
                save_writer(self._agent, shared, Path(folder))
                return str(api.upload_folder(repo_id=repo_id, folder_path=folder))
        except (HfHubHTTPError, HFValidationError) as error:
            raise ModelError(
                f"the hub refused {repo_id} ({error}); check name and token"
            ) from error

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        model: str | None = None,
        device: str = "auto",
        dtype: Dtype | None = None,
    ) -> Self:
        """Load a writer.

        Args:
            name: Its folder, the folder of the run that made it, or a hub id.
            model: The agent's checkpoint, where it lies elsewhere than it did.
            device: As in the settings.
            dtype: As in the settings; None holds it as when the writer was judged.

        Raises:
            ModelError: there is no writer, it is damaged, or its checkpoint cannot be loaded.
        """
        folder = _found(str(name))
        try:
            card = WriterCard.from_dict(json.loads((folder / CARD).read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise ModelError(
                f"{folder} holds no writer (no {CARD}); give its folder, or a run that kept one "
                "(--per-input; auto keeps it only if it pays)"
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(f"the writer in {folder} cannot be read ({error})") from error
        lora = read_lora_config(folder)
        held: dict[str, Any] = {"dtype": dtype or card.dtype, "quantize": card.quantize}
        loaded = load_model(model or card.model, device=device, **held)
        adapted = AdaptedModel(loaded.model, lora, seed=0)
        adapted.load_adapter(folder)
        return cls(AgentLLM(loaded, adapted, temperature=card.temperature), card)


def save_writer(agent: AgentLLM, card: WriterCard, folder: Path) -> None:
    """Write the policy's adapter, ``writer.json`` and a card for people into a folder."""
    with writing(folder, SafetensorError):
        agent.adapted.save_adapter(folder, model=public_name(card.model))
    out = RunFolder(folder)
    out.write_json(CARD, card.to_dict())
    out.write_text(README, readme_of(card))


def _found(name: str) -> Path:
    """The folder of a writer, fetched from the hub where it is none of this machine."""
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):
        return path / WRITER if os.path.isdir(path / WRITER) else path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", README]))
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"there is no folder {name}, and the hub cannot be reached; check the path"
        ) from error
    except (HFValidationError, HfHubHTTPError, OSError) as error:
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
