"""From task, settings and machines to memory, time, tokens and dollars, on paper.

No model is loaded and no target asked. How many calls a run makes is the forecast's business
(``tuning/forecast.py``), what they take that of the cost model (``scaling``): docs/scaling.md.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from stableprompt.build import require_possible
from stableprompt.config import TuneConfig
from stableprompt.models.targets.interface import Usage
from stableprompt.models.targets.providers import FUNCTION_PREFIX, is_api, target_price
from stableprompt.planning.sides import Sides
from stableprompt.planning.tokens import PaperCount, reference_tokens, written_prompts
from stableprompt.scaling.machines import MachineOrder
from stableprompt.scaling.memory import Memory
from stableprompt.scaling.roles import Asked, Target
from stableprompt.tasks.example import TaskKind
from stableprompt.tasks.metrics.registry import JUDGE
from stableprompt.tasks.task import Task
from stableprompt.tuning.collect import draw_examples
from stableprompt.tuning.forecast import PaperRun, Pattern, Phase, most_calls

WRITING: Final = "writing prompts"
JUDGING: Final = "their log-probabilities"
LEARNING: Final = "learning"
DECISIONS: Final = "anchor decisions"
TARGET: Final = "the target"


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run on named machines is expected to take."""

    at_most: int
    """Target calls."""
    calls: Mapping[str, int]
    """Expected, by phase."""
    tokens: Mapping[str, Usage]
    """The same; what the target reads for them, shared beginnings as the target counts them."""
    steps: int
    seconds: Mapping[str, Mapping[str, float]]
    """By part of the run and by what limits it; one part after the other."""
    memory: tuple[Memory, ...]
    """Of one device of each kind."""
    agent_parameters: int
    target_parameters: int | None
    """None: nobody knows."""
    rows_at_once: int | None
    """That learn together, of a minibatch on one device; None: nothing is learned."""
    token_dollars: float | None
    """For the target's tokens; None: nobody knows the price."""
    machine_dollars: float
    """For all devices, all the time."""
    notes: tuple[str, ...]

    @property
    def total_seconds(self) -> float:
        """Of the whole run; loading the models is not in it."""
        return sum(sum(part.values()) for part in self.seconds.values())

    @property
    def bottleneck(self) -> tuple[str, str]:
        """The part that takes longest, and what limits it."""
        part = max(self.seconds, key=lambda name: sum(self.seconds[name].values()))
        return part, max(self.seconds[part], key=lambda name: self.seconds[part][name])

    @property
    def fits(self) -> bool:
        """Whether every device has the memory."""
        return all(memory.fits for memory in self.memory) and self.rows_at_once != 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        devices = [asdict(m) | {"needed": m.needed, "fits": m.fits} for m in self.memory]
        more = {"total_seconds": self.total_seconds, "bottleneck": list(self.bottleneck)}
        return {**asdict(self), **more, "memory": devices, "fits": self.fits}


def plan_run(task: Task, config: TuneConfig, order: MachineOrder) -> RunPlan:
    """Say what a run would take on these machines.

    Raises:
        ConfigError: the run would be refused, or a machine or a model's size is not known.
        DataError: the training split is too small for a step.
    """
    require_possible(task, config)
    served = order.target_on is not None
    answer = _answer_tokens(task, config, served=served)
    prompts = written_prompts(config)
    examples = draw_examples(task, config, 0).reward_examples
    typical = [(prompt, example) for prompt in prompts for example in examples]
    whole, shared = (PaperCount(task, config, one, answer) for one in (False, True))
    context = whole.context(typical)
    sides = Sides(task, config, order, context, answer)
    agent = sides.agent_on()
    in_process = not served and not sides.elsewhere
    # Everybody reads shared beginnings once; who sells tokens counts them all.
    once = 1.0 if in_process else shared(typical).read / whole(typical).read
    clock = _Clock(sides.target_on(), once, context, answer)
    step = {
        WRITING: agent.writing(config.ppo.prompts_per_step),
        JUDGING: agent.judging(),
        LEARNING: agent.learning(),
    }
    deciding = _times(agent.writing(config.anchor.prompts_per_decision), 2)
    pattern = Pattern(
        prompts=prompts,
        num_written=len(prompts),
        num_different=len(prompts),
        step_seconds=sum(sum(part.values()) for part in step.values()),
        decision_seconds=sum(deciding.values()),
        count=shared if in_process else whole,
        answer_seconds=clock,
    )
    price = (0.0, 0.0) if served else target_price(config.target)
    paper = PaperRun(task, config, pattern, price).go()
    seconds = {name: _times(part, paper.num_steps) for name, part in step.items()}
    seconds |= {DECISIONS: _times(deciding, paper.num_decisions), TARGET: dict(clock.spent)}
    shown = [p for p in Phase if p is not Phase.CURVE or config.selection.learning_curve]
    return RunPlan(
        at_most=most_calls(task, config).total,
        calls={str(p): paper.calls[p] for p in shown},
        tokens={str(p): paper.usage[p] for p in shown},
        steps=paper.num_steps,
        seconds={name: part for name, part in seconds.items() if sum(part.values())},
        memory=sides.memory(),
        agent_parameters=sides.agent.shape.parameters,
        target_parameters=sides.target_parameters,
        rows_at_once=sides.rows_at_once if config.ppo.learning and config.steps else None,
        token_dollars=None if price is None else paper.ledger.dollars(price),
        machine_dollars=paper.seconds / 3600 * sides.dollars_per_hour(),
        notes=tuple(_notes(task, config, order, sides)),
    )


class _Clock:
    """How long the target takes, and in all what limited it.

    Args:
        target: What answers.
        once: Of the tokens that are counted, the share that is really read.
        context: Tokens of one call.
        answer: Tokens that are written for one.
    """

    def __init__(self, target: Target, once: float, context: float, answer: float) -> None:
        self._target, self._once = target, once
        self._context, self._answer = context, answer
        self.spent: Counter[str] = Counter()

    def __call__(self, usage: Usage, calls: int) -> float:
        """Seconds of some calls; the forecast asks once for each time that calls are made."""
        asked = Asked(calls, usage.read * self._once, self._context, self._answer)
        found = self._target.answering(asked)
        self.spent.update(found)
        return sum(found.values())


def _times(part: Mapping[str, float], count: int) -> Mapping[str, float]:
    return {name: seconds * count for name, seconds in part.items()}


def _answer_tokens(task: Task, config: TuneConfig, *, served: bool) -> float:
    """That the target writes for a call."""
    if task.kind is TaskKind.GENERATION:
        return reference_tokens(task)
    if served or is_api(config.target):
        return 1.0 if config.target.api.labels == "auto" else reference_tokens(task)
    return reference_tokens(task) if config.target.model.startswith(FUNCTION_PREFIX) else 0.0


def _notes(task: Task, config: TuneConfig, order: MachineOrder, sides: Sides) -> Iterator[str]:
    """What the figures rest on, beside docs/scaling.md."""
    yield (
        "nothing was loaded or asked: tokens by characters, prompts as long as they may be, none "
        "refused; what devices reach of their peak is assumed, loading is left out: see "
        "docs/scaling.md"
    )
    if sides.devices > 1:
        how = "together" if order.split else "each"
        yield (
            f"{sides.devices} devices are taken to hold the agent {how} and to share the prompts "
            "of a step"
        )
    if config.target.ray is not None and order.target_on is None:
        yield (
            "the target is planned beside the agent: Ray actors would share its time; see "
            "--target-on"
        )
    if sides.elsewhere:
        yield "a call of the target is taken to need a second"
    if task.metric.name == JUDGE:
        yield "a judge rates every answer: what it costs is not counted here"
    if config.per_input.wanted:
        yield "what the agent reads of the single inputs is not counted"
    if order.dollars_per_hour is None:
        yield "dollars of machines by an assumed rent; give yours with --gpu-price"
