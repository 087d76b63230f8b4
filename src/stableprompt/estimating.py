"""What a run will cost, said before it costs anything.

A target behind an API and a function are never asked: a target on paper stands in. A target in
this process is measured: one step is written, scored and learned from, and thrown away.
"""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch

from stableprompt.build import require_possible
from stableprompt.config import TuneConfig
from stableprompt.models.agent import AgentLLM
from stableprompt.models.chat import encode_answer
from stableprompt.models.targets.function import TargetFunction
from stableprompt.models.targets.interface import TargetLLM, Usage
from stableprompt.models.targets.local import LocalTarget
from stableprompt.models.targets.masked import MaskedTarget
from stableprompt.models.targets.paper import PaperTarget
from stableprompt.models.targets.providers import is_api, target_price
from stableprompt.models.training import prepare_training
from stableprompt.parts import make_scorer, markup_of, without_long_texts
from stableprompt.scoring.judge import DEFAULT_RUBRIC, Judge
from stableprompt.speakers import answers_elsewhere, load_agent, load_models, other_judge
from stableprompt.tasks.example import TaskKind
from stableprompt.tasks.metrics.registry import JUDGE
from stableprompt.tasks.task import Task
from stableprompt.tuning.checks import without_decisions
from stableprompt.tuning.forecast import PaperRun, Phase, most_calls
from stableprompt.tuning.guards import Guards
from stableprompt.tuning.probe import FirstStep, Probe
from stableprompt.tuning.records import Observer
from stableprompt.tuning.rules import Rules

FEWEST_UPDATES: Final = 10
"""With fewer, training did not pay in our own comparison (docs/comparison.md: 6)."""
_ANSWERS: Final = 500  # of train, whose length is looked at
_KIB: Final = 1024


@dataclass(frozen=True, slots=True)
class PhaseEstimate:
    """Target calls of one phase, and their tokens."""

    at_most: int
    calls: int
    """Expected."""
    read: int
    """Tokens, expected."""
    written: int


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """What a run with some settings is expected to cost."""

    phases: dict[str, PhaseEstimate]
    """By name: training, anchor decisions, selection, test; with a learning curve that, too."""
    at_most: int
    """Target calls; may be less than the sum over the phases."""
    steps: int
    """That steps, budget and limits pay for."""
    updates: int
    """Of the policy; 0 where it does not learn."""
    dollars: float | None
    """For the target's tokens; None where nobody knows the price."""
    seconds: float
    """On this machine, loading included."""
    target_elsewhere: bool
    """Behind an API, or a function: it was not asked, and its time comes on top."""
    target_seconds: float | None
    """How much of the time the target takes; of one elsewhere the least that the given pace allows.
    None: nobody knows before it is asked."""
    device: str
    weights: int
    """Bytes of agent and target in memory."""
    peak: int
    """Bytes in use at most up to now: on a GPU by tensors, else by the whole process."""
    probe: Probe
    notes: tuple[str, ...]
    """What was assumed."""
    warnings: tuple[str, ...]

    @property
    def calls(self) -> int:
        """Expected, of all phases."""
        return sum(phase.calls for phase in self.phases.values())

    @property
    def read(self) -> int:
        """Tokens expected to be read by the target."""
        return sum(phase.read for phase in self.phases.values())

    @property
    def written(self) -> int:
        """Tokens expected to be written by the target."""
        return sum(phase.written for phase in self.phases.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        told = {"calls": self.calls, "read": self.read, "written": self.written}
        return {**asdict(self), **told}


def estimate_run(
    task: Task, config: TuneConfig, observer: Observer, *, function: TargetFunction | None = None
) -> RunEstimate:
    """Say what a run would cost.

    Args:
        task: What would be tuned for.
        config: Every setting.
        observer: Told what takes a while.
        function: The target, where it is a function; it is not called.

    Raises:
        ConfigError: the run would be refused.
        DataError: the training split is too small for a step.
        ModelError: a model cannot be loaded.
    """
    require_possible(task, config)
    started = time.perf_counter()
    observer.on_phase("loading models")
    elsewhere = answers_elsewhere(config, function=function)
    if elsewhere:
        agent = load_agent(config)
        target: TargetLLM = _stand_in(task, config, agent)
    else:
        agent, target = load_models(config)
    with closing(target):
        task = without_long_texts(task, target, config, observer)
        scorer = make_scorer(task, config, target, _stand_in_judge(task, config, agent))
        guards = Guards(config.guards, agent, Rules.of(task), markup_of(agent, target))
        trainable = prepare_training(agent, config.ppo.learning_rate)
        loading = time.perf_counter() - started
        observer.on_phase("trying one step")
        probe, pattern = FirstStep(task, config, trainable, scorer, target, guards).take()
    price = target_price(config.target)
    paper = PaperRun(task, config, pattern, price).go()
    most, pace = most_calls(task, config), config.target.api.requests_per_minute
    replicas = max(1, len(config.target.api.base_urls))
    least = None if pace is None else paper.ledger.total_calls * 60 / (pace * replicas)
    shown = [p for p in Phase if p is not Phase.CURVE or config.selection.learning_curve]
    return RunEstimate(
        phases={str(p): _phase(most.phases[p], paper.calls[p], paper.usage[p]) for p in shown},
        at_most=most.total,
        steps=paper.num_steps,
        updates=paper.num_steps if config.ppo.learning else 0,
        dollars=None if price is None else paper.ledger.dollars(price),
        seconds=loading + paper.seconds,
        target_elsewhere=elsewhere,
        target_seconds=least if elsewhere else paper.target_seconds,
        device=agent.loaded.device.type,
        weights=_weights(agent, target),
        peak=_peak(agent.loaded.device),
        probe=probe,
        notes=tuple(_notes(task, config, elsewhere=elsewhere)),
        warnings=tuple(_warnings(config, paper)),
    )


def _phase(at_most: int, calls: int, usage: Usage) -> PhaseEstimate:
    return PhaseEstimate(at_most, calls, usage.read, usage.written)


def _stand_in(task: Task, config: TuneConfig, agent: AgentLLM) -> PaperTarget:
    """In the place of a target elsewhere, which is not asked."""
    told = is_api(config.target) and config.target.api.labels == "auto"
    right = [task.shown_answer(example) for example in task.train[:_ANSWERS]]
    spoken = sum(len(encode_answer(agent.tokenizer, answer)) for answer in right) / len(right)
    one_token = told and task.kind is not TaskKind.GENERATION
    return PaperTarget(agent.loaded, shared=False, written=1.0 if one_token else spoken, told=told)


def _stand_in_judge(task: Task, config: TuneConfig, agent: AgentLLM) -> Judge | None:
    """In the place of a judge elsewhere; None: the real one, if there is one at all."""
    model = other_judge(config)
    if task.metric.name != JUDGE or model is None or not answers_elsewhere(config, model):
        return None
    return Judge(PaperTarget(agent.loaded, shared=False), DEFAULT_RUBRIC)


def _weights(agent: AgentLLM, target: TargetLLM) -> int:
    models = {id(agent.model): agent.model}
    if isinstance(target, LocalTarget | MaskedTarget) and target.loaded is not agent.loaded:
        models[id(target.loaded.model)] = target.loaded.model
    return sum(p.numel() * p.element_size() for m in models.values() for p in m.parameters())


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * _KIB  # of the two only Linux says KiB


def _notes(task: Task, config: TuneConfig, *, elsewhere: bool) -> Iterator[str]:
    """What the figures rest on."""
    if elsewhere:
        yield "tokens are counted with the agent's tokenizer: the target was not asked"
        if task.kind is TaskKind.GENERATION:
            yield "answers are taken to be as long as the references"
        elif is_api(config.target) and config.target.api.labels == "auto":
            yield (
                "the server is taken to give probabilities, for one token a call; one that does "
                "not writes its answers, which costs more"
            )
        else:
            yield "answers are taken to be the label words alone"
    if (ray := config.target.ray) is not None:
        yield f"the target was measured in {ray.actors} Ray actors, whose memory is not counted"
    if task.metric.name == JUDGE:
        yield "a judge rates every answer: what it costs is not counted here"
    if config.limits.max_seconds is not None and elsewhere:
        yield "limits.max_seconds may end the run earlier: the target's time is not known"


def _warnings(config: TuneConfig, paper: PaperRun) -> Iterator[str]:
    """What will not work."""
    if config.ppo.learning and paper.num_steps < FEWEST_UPDATES:
        yield (
            f"{paper.num_steps} policy updates are too few to learn from (with 6, training did not "
            "pay in docs/comparison.md); raise steps, budget or limits, or use method best-of-n"
        )
    if undecided := without_decisions(config):
        yield undecided
    if paper.cut_short:
        given = config.limits.model_dump().items()
        named = ", ".join(f"{name} {limit:g}" for name, limit in given if limit is not None)
        needed = "a step, selection and test" if config.steps else "selection and test"
        yield (
            f"the limits ({named}) do not pay for {needed}: the run may end without a result; "
            "raise them"
        )
