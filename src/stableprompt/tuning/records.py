"""What a run says about itself: a record a step while it runs, and the result."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from stableprompt.tasks.example import Example
from stableprompt.tasks.formats import InputFormat
from stableprompt.tasks.inputs import example_of
from stableprompt.tasks.placeholders import WHOLE_INPUT, placeholders
from stableprompt.tasks.readability import Readability
from stableprompt.tasks.statistics import Estimate, PairedComparison
from stableprompt.tasks.templates import Message, TargetTemplate
from stableprompt.tuning.per_input import PerInputResult


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step in numbers; a line of ``steps.jsonl``."""

    step: int
    mean_reward: float | None
    """Of all prompts of the step, refused ones included; None where none could be written."""
    best_reward: float | None
    seed_reward: float | None
    """The seed prompt's, on the same examples."""
    mean_score: float | None
    """Of the prompts that were not refused, by the task's metric, 0-1; None where all were."""
    faults: dict[str, int]
    """Refused prompts of the step by reason."""
    update: dict[str, float] | None
    """``UpdateStats``, or None where the policy does not learn."""
    monitor: dict[str, Any]
    """Readings, alarms and actions."""
    anchor: dict[str, Any] | None
    """Decision, scores of policy and anchor, or None where none was due."""
    best_prompt: str | None
    """Leader by rating so far."""
    target_calls: int
    """Since the start of the run."""
    dollars: float | None
    """What target and judge cost since the start of the run; None where nobody knows a price."""
    seconds: float


@dataclass(frozen=True, slots=True)
class TuneResult:
    """The prompt, and what is known of it."""

    prompt: str
    """Exactly as scored, with the demonstrations in it, if there are some."""
    instruction: str
    """The prompt without them."""
    seed_prompt: str
    method: str
    seed: int
    test: Estimate
    """Of the prompt, on the test split, read once after it was chosen."""
    seed_test: Estimate
    """Of the seed prompt, on the same examples."""
    paired: PairedComparison
    """Prompt minus seed prompt, example by example."""
    readability: Readability
    """Of the instruction."""
    readable: bool
    """Whether a person would ship it: plain enough language that asks for something."""
    readable_prompt: str
    """The best prompt that is; the same one, unless the guards were switched off."""
    readable_test: Estimate
    max_of_five: Estimate | None
    """The highest test score of the five prompts with the best ratings, as the paper reports:
    optimistic, for comparison with its figures. None unless ``selection.paper_protocol`` is on."""
    validation: Estimate
    """What the prompt was chosen by; optimistic for that reason."""
    seed_validation: Estimate
    trivial_score: float | None
    """Score on test of the best trivial answer, 0-1: the same for every example, or a generated one
    that repeats the input; for accuracy the share of the most frequent label. None for a judge and
    for a metric of the user's own."""
    target_calls: int
    cost: dict[str, Any]
    """The ledger: calls and tokens by purpose."""
    candidates: dict[str, Any]
    """How many different prompts were seen and compared, and the refused ones by reason."""
    anchor_decisions: dict[str, int]
    """How often each decision was taken."""
    alarms: dict[str, int]
    """How many steps each alarm was raised in."""
    collapsed: bool
    """Whether the policy had collapsed at the end."""
    setting: dict[str, Any]
    """Task, models and versions."""
    template: TargetTemplate
    """How prompt and input become the target's messages."""
    layout: InputFormat
    """How the fields of an example become the input."""
    run_dir: Path = field(compare=False)
    per_input: PerInputResult | None = None
    """What a prompt for each input brings; None where the run was for one prompt."""

    @property
    def improved(self) -> bool:
        """Whether another prompt than the seed prompt was chosen and did better on test."""
        return self.prompt != self.seed_prompt and self.paired.difference > 0

    @property
    def flagged(self) -> bool:
        """Whether the score on test is at or near the trivial score: not below its interval."""
        return self.trivial_score is not None and self.test.low <= self.trivial_score

    @property
    def messages(self) -> list[Message]:
        """The chat messages exactly as scored, with placeholders where the input stands."""
        names = placeholders(self.layout.layout)
        holders = {name: f"{{{name}}}" for name in (*names, WHOLE_INPUT)}
        example = Example(holders[WHOLE_INPUT], "", fields=holders)
        return self.template.messages(self.prompt, example)

    def messages_for(self, given: str | Mapping[str, Any]) -> list[Message]:
        """The chat messages for one input.

        Args:
            given: The input; or its fields by name, ``choices`` being a list.

        Raises:
            ConfigError: fields are missing, or an input of several was given as one text to a
                prompt that places them one by one.
        """
        example = example_of(given, self.layout, prompt=self.prompt)
        return self.template.messages(self.prompt, example)

    def to_dict(self) -> dict[str, Any]:
        """For ``result.json``: no times and no paths, so that equal runs give equal bytes."""
        content = asdict(self)
        del content["run_dir"]
        told = {"improved": self.improved, "flagged": self.flagged, "messages": self.messages}
        return {**content, **told}


class Observer(Protocol):
    """Who is told how a run goes; the loop never depends on it."""

    def on_start(self, first_step: int, steps: int) -> None:
        """The loop begins, at a later step where it was resumed."""

    def on_step(self, record: StepRecord) -> None:
        """A step is done and written down."""

    def on_phase(self, phase: str) -> None:
        """Something else begins that takes a while."""

    def on_note(self, note: str) -> None:
        """Something was done to the data that the user should know of."""

    def on_calls(self, calls: int, dollars: float | None) -> None:
        """So many target calls were made since the start of the run, and cost so much; several
        times in a step. None: nobody knows a price."""

    def stop_asked(self) -> bool:
        """Whether to stop here, resumable: asked after each step, when it is written down."""


class Silence:
    """An observer that says nothing."""

    def on_start(self, first_step: int, steps: int) -> None:
        """Ignore."""

    def on_step(self, record: StepRecord) -> None:
        """Ignore."""

    def on_phase(self, phase: str) -> None:
        """Ignore."""

    def on_note(self, note: str) -> None:
        """Ignore."""

    def on_calls(self, calls: int, dollars: float | None) -> None:
        """Ignore."""

    def stop_asked(self) -> bool:
        """Go on."""
        return False


def mean_of(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return sum(values) / len(values) if values else None
