"""What the package builds for the workload, made as new for every round."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.naive import needed
from benchmarks.naive_training import Replay
from benchmarks.workload import Workload, answer_ids, plain_ids
from stableprompt.build import load_models
from stableprompt.models.adapters import Role
from stableprompt.models.agent import AgentLLM
from stableprompt.models.chat import special_tokens
from stableprompt.models.targets.interface import TargetLLM
from stableprompt.models.training import Trainable, prepare_training
from stableprompt.parts import make_scorer
from stableprompt.ppo.rollout import Rollout
from stableprompt.scoring.ledger import Purpose
from stableprompt.scoring.scorer import PromptScore, Scorer
from stableprompt.tasks.example import Example
from stableprompt.tuning.candidates import Candidate, CandidatePool
from stableprompt.tuning.collect import Collector, draw_examples
from stableprompt.tuning.guards import Guards
from stableprompt.tuning.rules import Rules
from stableprompt.tuning.update import UpdateStats, ppo_update

STEP = 0
MOVED = 1e-4  # of every weight that learns


def score_afresh(
    workload: Workload,
    target: TargetLLM,
    tokenizer: Any,
    prompts: Sequence[str],
    examples: Sequence[Example],
) -> Callable[[], list[PromptScore]]:
    """Ready to score prompts with a scorer that has seen none of them.

    What comes back checks that everything was read: a score that was only remembered is no score.
    """
    scorer = make_scorer(workload.task, workload.config, target)
    blocks = workload.conversations(prompts, examples)
    contexts = plain_ids(tokenizer, [c for block in blocks for c in block])
    least, _ = needed(contexts, answer_ids(tokenizer, workload.words))

    def run() -> list[PromptScore]:
        scores = scorer.score_all(prompts, examples, Purpose.TRAINING)
        require_read(scorer, least)
        return scores

    return run


def require_read(scorer: Scorer, least: int) -> None:
    """Refuse a measurement in which the target read less than it must."""
    if scorer.ledger.total_tokens < least:
        raise RuntimeError(
            f"{scorer.ledger.total_tokens} tokens were read where {least} are necessary: "
            "something was remembered from an earlier round"
        )


@dataclass
class Session:
    """Agent, target and guards of one workload, and the weights that every round starts from."""

    workload: Workload
    agent: AgentLLM
    target: TargetLLM
    guards: Guards
    start: dict[str, Tensor]
    trainable: Trainable = field(init=False)
    scorer: Scorer = field(init=False)
    collector: Collector = field(init=False)

    def __post_init__(self) -> None:
        self.renew()

    @classmethod
    def load(cls, workload: Workload) -> "Session":
        """Load the models."""
        agent, target = load_models(workload.config)
        return cls.of(workload, agent, target)

    @classmethod
    def of(cls, workload: Workload, agent: AgentLLM, target: TargetLLM) -> "Session":
        """With models that are loaded already."""
        markup = [*special_tokens(agent.tokenizer), *target.markup()]
        guards = Guards(workload.config.guards, agent, Rules.of(workload.task), markup)
        _move_policy(agent)
        start = {name: tensor.clone() for name, tensor in agent.tensors().items()}
        return cls(workload, agent, target, guards, start)

    def renew(self) -> None:
        """Back to the weights of the start, with a new optimizer and an empty memory."""
        workload = self.workload
        self.agent.load_tensors(self.start)
        self.trainable = prepare_training(self.agent, workload.config.ppo.learning_rate)
        self.scorer = make_scorer(workload.task, workload.config, self.target)
        self.collector = Collector(
            self.agent, self.scorer, self.guards, workload.task, workload.config
        )

    @property
    def examples(self) -> tuple[Example, ...]:
        """What the prompts of the step are scored on."""
        return draw_examples(self.workload.task, self.workload.config, STEP).reward_examples

    def collect(self) -> tuple[Rollout, list[Candidate]]:
        """Write prompts, and score them."""
        return self.collector.collect(STEP, CandidatePool(self.workload.task.seed_prompt))

    def update(self, rollout: Rollout, *, ppo_epochs: int | None = None) -> UpdateStats:
        """Learn from them."""
        config = self.workload.config.ppo
        if ppo_epochs is not None:
            config = config.model_copy(update={"ppo_epochs": ppo_epochs})
        return ppo_update(self.trainable, rollout, config, seed=0)

    def step(self) -> tuple[Rollout, list[Candidate]]:
        """A whole step, as the loop does it."""
        rollout, candidates = self.collect()
        self.update(rollout)
        return rollout, candidates

    def save_adapters(self, folder: Path) -> Path:
        """Both adapters of the start, for the control, in folders named after their role."""
        self.renew()
        self.agent.adapted.save_adapter(folder / Role.POLICY)
        self.agent.copy(Role.ANCHOR, Role.POLICY)
        self.agent.adapted.save_adapter(folder / Role.ANCHOR)
        self.renew()
        return folder

    def seconds_by_phase(self) -> dict[str, float]:
        """Where the time of one step goes."""
        self.renew()
        watch = Stopwatch(self.agent.loaded.device)
        started = time.perf_counter()
        with (
            watch.on(self.agent, "sample", "writing"),
            watch.on(self.agent, "evaluate", "evaluation"),
            watch.on(self.guards, "faults", "guards"),
            watch.on(self.scorer, "score_all", "scoring"),
            watch.on(self.scorer, "score", "scoring"),
        ):
            rollout, _ = self.collect()
        watch.time("update", lambda: self.update(rollout))
        phases = {name: round(seconds, 3) for name, seconds in watch.seconds.items()}
        whole = time.perf_counter() - started
        return {**phases, "rest": round(whole - sum(phases.values()), 3), "step": round(whole, 3)}


class Stopwatch:
    """Seconds by phase; what one phase calls of another counts as its own."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._running = False

    @contextmanager
    def on(self, owner: Any, method: str, phase: str) -> Iterator[None]:
        """Time a method of one object; one that it does not have is left out."""
        plain = getattr(owner, method, None)
        if plain is None:
            yield
            return
        setattr(owner, method, lambda *a, **k: self.time(phase, lambda: plain(*a, **k)))
        try:
            yield
        finally:
            delattr(owner, method)

    def time(self, phase: str, run: Callable[[], Any]) -> Any:
        """Run something as a phase."""
        if self._running:
            return run()
        self._running = True
        started = self.now()
        try:
            return run()
        finally:
            self._running = False
            self.seconds[phase] = self.seconds.get(phase, 0.0) + self.now() - started

    def now(self) -> float:
        """What the clock says when a GPU has done all that it was told to."""
        if self._device is not None and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


@torch.no_grad()
def _move_policy(agent: AgentLLM) -> None:
    """A little away from the anchor, as after any step but the first, which may save work.

    The value head with it: one that is still zero would make every comparison of values pass.
    """
    generator = torch.Generator().manual_seed(0)
    for parameter in agent.learned_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.add_(MOVED * noise.to(parameter.device, parameter.dtype))


def replay_of(rollout: Rollout, candidates: Sequence[Candidate]) -> Replay:
    """What a step wrote, for the control to write again."""
    refused = tuple(candidate.fault is not None for candidate in candidates)
    return Replay(rollout.query_ids, rollout.response_ids, rollout.mask, refused)
