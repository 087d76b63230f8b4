"""The prompt of a finished run, read from its folder, and what a reader of it must know."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stableprompt.errors import RunError
from stableprompt.runs.folder import RESULT, TASK, RunFolder
from stableprompt.tasks.formats import InputFormat
from stableprompt.tasks.inputs import example_of
from stableprompt.tasks.templates import Message, TargetTemplate


@dataclass(frozen=True, slots=True)
class ShippedPrompt:
    """A prompt with all that decides what the target is sent.

    Attributes:
        prompt: Exactly as scored, demonstrations included.
        instruction: The prompt without them.
        messages: As in ``result.json``, with placeholders where the input stands.
        template: How prompt and input become messages.
        layout: How fields become the input.
        label_words: Label -> what the target answers for it; classification only.
        result: The whole ``result.json``.
        tests: Rows of the test split, as in ``task.json``.
    """

    prompt: str
    instruction: str
    messages: tuple[Message, ...]
    template: TargetTemplate
    layout: InputFormat
    label_words: Mapping[str, str]
    result: Mapping[str, Any]
    tests: tuple[Mapping[str, Any], ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether the target read one raw text, without any chat template."""
        return self.template.format == "plain"

    def messages_for(self, given: str | Mapping[str, Any]) -> list[Message]:
        """The chat messages for one input, as they were sent when the prompt was scored.

        Args:
            given: The input; or its fields by name, ``choices`` being a list.

        Raises:
            ConfigError: fields are missing.
        """
        example = example_of(given, self.layout, prompt=self.prompt)
        return self.template.messages(self.prompt, example)

    def about(self) -> list[str]:
        """What it is, in lines for a comment; of a folder that was changed they hold anything."""
        setting, test, before = (self.result[key] for key in ("setting", "test", "seed_test"))
        version = setting["versions"]["stableprompt"]
        lines = [
            f"The prompt of the task {setting['task']!r}, by stableprompt {version}.",
            f"Scored with the target {setting['target']!r}; other targets give other figures.",
            f"{test['metric']} on test: {_figure(test)}; seed prompt: {_figure(before)}",
        ]
        if self.label_words:
            words = ", ".join(map(repr, self.label_words.values()))
            lines.append(f"The target may answer: {words}")
        return lines


def read_shipped(run_dir: Path) -> ShippedPrompt:
    """Read the folder of a finished run.

    Raises:
        RunError: it is no run folder, the run is not finished, or a file is damaged.
    """
    folder = RunFolder.open(run_dir)
    if not (run_dir / RESULT).is_file():
        raise RunError(
            f"the run in {run_dir} is not finished, so there is no prompt to export; continue it "
            f"with: stableprompt tune --resume {run_dir}"
        )
    result, task = folder.read_json(RESULT), folder.read_json(TASK)
    try:
        shipped = ShippedPrompt(
            prompt=result["prompt"],
            instruction=result["instruction"],
            messages=tuple(result["messages"]),
            template=TargetTemplate(**result["template"]),
            layout=InputFormat(**result["layout"]),
            label_words=task["label_words"] or {},
            result=result,
            tests=tuple(task["test"]),
        )
        shipped.about()
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{run_dir / RESULT} is damaged, or of another version ({type(error).__name__}: "
            f"{error}); make the run again"
        ) from error
    return shipped


def _figure(estimate: Mapping[str, Any]) -> str:
    score, low, high = (float(estimate[key]) for key in ("score", "low", "high"))
    return f"{score:.3f} [{low:.3f}, {high:.3f}], n = {estimate['n']}"
