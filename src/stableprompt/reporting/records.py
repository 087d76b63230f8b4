"""What a report reads of the files in a run folder; whatever else they hold is ignored.

A record that does not look like this is left out and named on the page: a damaged line never
costs the reader the rest. ``docs/metrics.md`` defines every figure.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """Read from a file; figures that are no numbers are refused."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Estimate(Record):
    """A score with its 95 % interval."""

    score: float
    low: float
    high: float
    n: int
    metric: str = "score"


class Comparison(Record):
    """Two prompts on the same examples: the second minus the first."""

    difference: float
    low: float
    high: float
    p_value: float
    n: int
    test: str = ""


class Update(Record):
    """The PPO update of a step."""

    anchor_kl: float | None = None
    step_kl: float | None = None
    update_kl: float | None = None
    entropy: float | None = None
    clip_fraction: float | None = None
    gradient_norm: float | None = None
    learning_rate: float | None = None
    kl_coef: float | None = None


class Monitor(Record):
    """What the step was found to be like, and what was done."""

    readings: dict[str, float | None] = {}
    alarms: list[str] = []
    actions: list[str] = []


class Anchor(Record):
    """An anchor decision."""

    decision: str
    policy_score: float | None = None
    anchor_score: float | None = None
    error: float | None = None
    n: int = 0


class Step(Record):
    """A line of ``steps.jsonl``."""

    step: int
    target_calls: int
    mean_reward: float | None = None
    best_reward: float | None = None
    seed_reward: float | None = None
    mean_score: float | None = None
    faults: dict[str, int] = {}
    update: Update | None = None
    monitor: Monitor = Monitor()
    anchor: Anchor | None = None
    best_prompt: str | None = None
    seconds: float | None = None


class Written(Record):
    """A line of ``prompts.jsonl``."""

    step: int
    prompt: str
    writer: str = "policy"
    scored_on: str = "training"
    fault: str | None = None
    reward: float | None = None
    score: float | None = None
    softmax_difference: float | None = None
    seed_reward: float | None = None
    surprise: float | None = None
    num_words: int | None = None


class Write(Record):
    """A line of ``writes.jsonl``: a prompt for one input of test."""

    input: str
    prompt: str
    fault: str | None = None
    value: float | None = None


class Example(Record):
    """An example of ``task.json``."""

    text: str
    label: str
    others: list[str] = []


class Task(Record):
    """``task.json``."""

    name: str
    kind: str
    metric: str
    seed_prompt: str = ""
    label_words: dict[str, str] | None = None
    notes: list[str] = []
    train: list[Example] = []
    validation: list[Example] = []
    test: list[Example] = []
    too_long: dict[str, list[int]] = {}
    """Numbers of the examples of each split that did not fit the target."""

    @property
    def asked(self) -> list[Example]:
        """The test examples that the target was asked about."""
        missing = set(self.too_long.get("test", ()))
        return [example for number, example in enumerate(self.test) if number not in missing]


class Answers(Record):
    """What one prompt achieved on test, example by example."""

    prompt: str
    values: list[float]
    predictions: list[str]
    left_out: list[int] = []


class OnTest(Record):
    """``test.json``."""

    prompts: list[Answers]


class Curve(Record):
    """``curve.json``: target calls and validation score of what led."""

    points: list[tuple[float, float]]


class Slice(Record):
    """Some of the test inputs, with a prompt for each and with the one for all."""

    name: str
    n: int
    fixed: float
    per_input: float
    comparison: Comparison


class Tokens(Record):
    """Tokens of one input."""

    agent_read: float = 0.0
    agent_written: float = 0.0
    target: float = 0.0


class PerInput(Record):
    """What a prompt for each input brings."""

    reason: str
    used: bool
    test: Estimate
    fixed_test: Estimate
    agent_alone: Estimate | None = None
    over_fixed: Comparison
    refused: dict[str, int] = {}
    different: int = 0
    naming_the_answer: int = 0
    cost: Tokens = Tokens()
    fixed_cost: Tokens = Tokens()
    slices: list[Slice] = []


class Message(Record):
    """A chat message as it was scored."""

    role: str
    content: str


class Readability(Record):
    """How odd the language of the chosen instruction is."""

    surprise: float
    num_words: int


class Cost(Record):
    """The ledger of a run."""

    target_calls: dict[str, int] = {}
    target_tokens: dict[str, int] = {}
    judge_calls: int = 0
    agent_tokens_written: int = 0
    dollars: float | None = None
    failed: dict[str, int] = {}
    unmatched: dict[str, int] = {}


class Candidates(Record):
    """How many prompts were seen."""

    unique: int = 0
    compared_on_validation: int = 0
    refused: dict[str, int] = {}


class Result(Record):
    """``result.json``."""

    prompt: str
    seed_prompt: str
    test: Estimate
    seed_test: Estimate
    paired: Comparison
    improved: bool
    instruction: str = ""
    method: str = ""
    seed: int | None = None
    flagged: bool = False
    validation: Estimate | None = None
    seed_validation: Estimate | None = None
    trivial_score: float | None = None
    readability: Readability | None = None
    readable: bool = True
    readable_prompt: str = ""
    readable_test: Estimate | None = None
    max_of_five: Estimate | None = None
    target_calls: int | None = None
    cost: Cost = Cost()
    candidates: Candidates = Candidates()
    anchor_decisions: dict[str, int] = {}
    alarms: dict[str, int] = {}
    collapsed: bool = False
    setting: dict[str, Any] = Field(default_factory=dict)
    messages: list[Message] = []
    per_input: PerInput | None = None


class Timing(Record):
    """``timing.json``: what differs between equal runs."""

    seconds: float | None = None
    requests: dict[str, Any] = {}
