"""One step of a run, made to see what a step takes, and thrown away."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from stableprompt.config import TuneConfig
from stableprompt.models.likelihood import continues_exactly
from stableprompt.models.targets.interface import TargetLLM, Usage
from stableprompt.models.targets.local import LocalTarget
from stableprompt.models.targets.paper import PaperTarget
from stableprompt.models.training import Trainable
from stableprompt.ppo.rollout import Rollout
from stableprompt.scoring.ledger import Purpose
from stableprompt.scoring.scorer import Scorer
from stableprompt.tasks.example import TaskKind
from stableprompt.tasks.task import Task
from stableprompt.tuning.candidates import Candidate, CandidatePool
from stableprompt.tuning.collect import Collector, draw_examples
from stableprompt.tuning.demonstrations import draw_demonstrations
from stableprompt.tuning.forecast import Pair, Pattern
from stableprompt.tuning.guards import Guards
from stableprompt.tuning.randomness import derive_seed
from stableprompt.tuning.update import learn


@dataclass(frozen=True, slots=True)
class Probe:
    """What one step was like; all 0 where the run has none."""

    written: int
    """Prompts."""
    refused: int
    different: int
    """Of those that were not refused, the seed prompt aside; for one input each, pairs with it."""
    writing_seconds: float
    update_seconds: float
    """0 where nothing is learned."""


class FirstStep:
    """Makes the first step of a run, and says what all steps are taken to be like.

    Args:
        task: What is tuned for.
        config: Every setting.
        trainable: The agent; what it learns here is to be thrown away.
        scorer: What the target makes of it; or a target on paper, which is not timed.
        target: The target behind it.
        guards: What is refused.
    """

    def __init__(
        self,
        task: Task,
        config: TuneConfig,
        trainable: Trainable,
        scorer: Scorer,
        target: TargetLLM,
        guards: Guards,
    ) -> None:
        self._task, self._config, self._trainable = task, config, trainable
        self._scorer, self._target = scorer, target
        self._collector = Collector(trainable.agent, scorer, guards, task, config)
        self._prompts: list[str] = []
        self._asked: list[Pair] = []

    def take(self) -> tuple[Probe, Pattern]:
        """Make it; a run without steps has a few calls of its selection made instead."""
        probe = self._step() if self._config.steps else self._look()
        return probe, self._pattern(probe)

    def _look(self) -> Probe:
        task = self._task
        prompt = next(draw_demonstrations(task.seed_prompt, task, self._config), task.seed_prompt)
        examples = task.validation[: self._config.examples_per_step]
        self._asked = [(prompt, example) for example in examples]
        self._scorer.score(prompt, examples, Purpose.VALIDATION)
        return Probe(0, 0, 0, 0.0, 0.0)

    def _step(self) -> Probe:
        task, config = self._task, self._config
        started = time.perf_counter()
        rollout, candidates = self._collector.collect(0, CandidatePool(task.seed_prompt))
        writing = time.perf_counter() - started - self._waited
        learning = 0.0
        if rollout is not None:
            # Later steps learn from the best prompts so far as well, but for prompts of one input.
            whole = rollout if config.per_input.wanted else _repeated(rollout, config.ppo.replay)
            started = time.perf_counter()
            learn(self._trainable, whole, config.ppo, seed=derive_seed(config.seed, "probe"))
            learning = time.perf_counter() - started
        self._asked, different = self._pairs(candidates)
        self._prompts = _typical_first({prompt for prompt, _ in self._asked} - {task.seed_prompt})
        return Probe(
            written=len(candidates),
            refused=sum(c.fault is not None for c in candidates),
            different=different,
            writing_seconds=writing,
            update_seconds=learning,
        )

    def _pairs(self, candidates: Sequence[Candidate]) -> tuple[list[Pair], int]:
        """What the step asked, and how many different prompts there were."""
        task, config = self._task, self._config
        examples = draw_examples(task, config, 0).reward_examples
        seeds = [(task.seed_prompt, example) for example in examples]
        inputs = {example.text: example for example in examples}
        accepted = dict.fromkeys((c.prompt, c.written_for) for c in candidates if c.fault is None)
        asked = [
            (prompt, example)
            for prompt, written_for in accepted
            for example in (examples if written_for is None else [inputs[written_for]])
        ]
        new = dict.fromkeys(pair for pair in asked if pair not in seeds)
        each = 1 if config.per_input.wanted else len(examples)
        return [*seeds, *new], len(new) // each

    @property
    def _waited(self) -> float:
        """Seconds, for the target."""
        return sum(self._scorer.seconds.values())

    def _pattern(self, probe: Probe) -> Pattern:
        config, ledger = self._config, self._scorer.ledger
        calls, tokens = ledger.total_calls, ledger.total_tokens
        written = sum(ledger.target_written.values()) / calls
        paper = self._paper(written)
        # Where the target has another tokenizer than the counter, its own count of what it was
        # asked sets the scale.
        on_paper = self._count(paper, self._asked).read / len(self._asked)
        scale = (tokens / calls - written) / on_paper
        seconds = 0.0 if paper is self._target else self._waited

        def count(pairs: Sequence[Pair]) -> Usage:
            usage = self._count(paper, pairs)
            return Usage(round(usage.read * scale), usage.written)

        def answer_seconds(usage: Usage, asked: int) -> float:
            # Reading takes its time by the token, writing by the call.
            return seconds * (asked / calls if written else usage.read / tokens)

        rows, sides = config.ppo.prompts_per_step, 2 * config.anchor.prompts_per_decision
        if config.per_input.wanted:
            sides = 2 * len(self._task.validation)
        return Pattern(
            prompts=tuple(self._prompts),
            num_written=probe.written,
            num_different=probe.different,
            step_seconds=probe.writing_seconds + probe.update_seconds,
            decision_seconds=probe.writing_seconds * sides / rows,
            count=count,
            answer_seconds=answer_seconds,
        )

    def _paper(self, written: float) -> PaperTarget:
        """Counts what the target would read."""
        if isinstance(self._target, PaperTarget):
            return self._target
        plain = self._config.target.format == "plain"
        if isinstance(self._target, LocalTarget):
            loaded = self._target.loaded
            shared = continues_exactly(loaded)
            return PaperTarget(loaded, shared=shared, written=written, plain=plain)
        loaded = self._trainable.agent.loaded
        return PaperTarget(loaded, shared=False, written=written, plain=plain)

    def _count(self, paper: PaperTarget, pairs: Sequence[Pair]) -> Usage:
        conversations = [self._scorer.template.messages(p, e) for p, e in pairs]
        if self._task.kind is TaskKind.GENERATION:
            return paper.generate(conversations, 0).usage
        words = [self._task.answer_words(example) for _, example in pairs]
        return paper.label_scores(conversations, words).usage


def _typical_first(prompts: Collection[str]) -> list[str]:
    """Those of ordinary length first: where some stand for all, these do."""
    mean = sum(map(len, prompts)) / max(1, len(prompts))
    return sorted(prompts, key=lambda prompt: (abs(len(prompt) - mean), prompt))


def _repeated(rollout: Rollout, more: int) -> Rollout:
    """With the first rows a second time, as if they were prompts of earlier steps."""
    count = len(rollout.rewards)
    rows = [*range(count), *(row % count for row in range(more))]
    return replace(
        rollout,
        response_ids=rollout.response_ids[rows],
        mask=rollout.mask[rows],
        old_logprobs=rollout.old_logprobs[rows],
        anchor_logprobs=rollout.anchor_logprobs[rows],
        entropies=rollout.entropies[rows],
        old_values=rollout.old_values[rows],
        rewards=rollout.rewards[rows],
    )
