"""What a run says about itself: a record a step while it runs, and the result."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from stableprompt.tasks.statistics import Estimate, PairedComparison
from stableprompt.tasks.templates import Message, TargetTemplate


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step in numbers; a line of ``steps.jsonl``."""

    step: int
    mean_reward: float
    """Of all prompts of the step, refused ones included."""
    best_reward: float
    seed_reward: float | None
    """The seed prompt's, on the same examples."""
    mean_accuracy: float | None
    """Of the prompts that were not refused, 0-1; None where all were."""
    faults: dict[str, int]
    """Refused prompts of the step by reason."""
    update: dict[str, float] | None
    """``UpdateStats``, or None where the policy does not learn."""
    anchor: dict[str, Any] | None
    """Decision, policy score and anchor score, or None where none was due."""
    best_prompt: str | None
    """Leader by gain over the seed prompt so far."""
    target_calls: int
    """Since the start of the run."""
    seconds: float


@dataclass(frozen=True, slots=True)
class TuneResult:
    """The prompt, and what is known of it."""

    prompt: str
    seed_prompt: str
    method: str
    seed: int
    test: Estimate
    """Of the prompt, on the test split, read once after it was chosen."""
    seed_test: Estimate
    """Of the seed prompt, on the same examples."""
    paired: PairedComparison
    """Prompt minus seed prompt, example by example."""
    validation: Estimate
    """What the prompt was chosen by; optimistic for that reason."""
    seed_validation: Estimate
    majority_share: float
    """Accuracy on test of always answering the most frequent label, 0-1."""
    target_calls: int
    cost: dict[str, Any]
    """The ledger: calls and tokens by purpose."""
    candidates: dict[str, Any]
    """How many different prompts were seen and compared, and the refused ones by reason."""
    anchor_decisions: dict[str, int]
    """How often each decision was taken."""
    setting: dict[str, Any]
    """Task, models and versions."""
    template: TargetTemplate
    """How prompt and text become the target's messages."""
    run_dir: Path = field(compare=False)

    @property
    def improved(self) -> bool:
        """Whether another prompt than the seed prompt was chosen and did better on test."""
        return self.prompt != self.seed_prompt and self.paired.difference > 0

    @property
    def messages(self) -> list[Message]:
        """The chat messages exactly as scored, with ``{text}`` where the input stands."""
        return self.template.messages(self.prompt, "{text}")

    def messages_for(self, text: str) -> list[Message]:
        """The chat messages for one input."""
        return self.template.messages(self.prompt, text)

    def to_dict(self) -> dict[str, Any]:
        """For ``result.json``: no times and no paths, so that equal runs give equal bytes."""
        content = asdict(self)
        del content["run_dir"]
        return {**content, "improved": self.improved, "messages": self.messages}


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
