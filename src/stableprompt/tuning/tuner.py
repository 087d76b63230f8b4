"""The loop of StablePrompt: collect, update, remember, decide, write down."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from stableprompt.config import TuneConfig
from stableprompt.errors import NumberError, RunStopped
from stableprompt.models.adapters import Role
from stableprompt.models.training import Trainable, load_training_tensors
from stableprompt.ppo.rollout import Rollout
from stableprompt.runs.folder import (
    BEST_PROMPT,
    CURVE,
    PAIRS,
    PROMPTS,
    RESULT,
    STEPS,
    TEST,
    TIMING,
    WRITES,
    RunFolder,
)
from stableprompt.scoring.ledger import Ledger
from stableprompt.scoring.limits import LimitReached
from stableprompt.scoring.scorer import Scorer
from stableprompt.tasks.task import Task
from stableprompt.tuning.anchor import AnchorDecision, Judgement, apply, is_due
from stableprompt.tuning.anchor_judge import AnchorJudge
from stableprompt.tuning.broken_numbers import (
    broken_rollout,
    note_on,
    require_sound_numbers,
    sound_tensors,
    watch_numbers,
)
from stableprompt.tuning.budget import KEPT, Budget, spent
from stableprompt.tuning.candidates import Candidate, CandidatePool, by_policy
from stableprompt.tuning.collect import Collector
from stableprompt.tuning.curve import learning_curve
from stableprompt.tuning.guards import Guards
from stableprompt.tuning.keeping import Keeper
from stableprompt.tuning.monitor import REFUSED, Action, Finding, Monitor
from stableprompt.tuning.per_input import PerInputResult, WriterTrial
from stableprompt.tuning.race import PAPER_FINALISTS
from stableprompt.tuning.randomness import derive_seed
from stableprompt.tuning.records import Observer, StepRecord, TuneResult, mean_of
from stableprompt.tuning.selection import outcomes, read_test, select
from stableprompt.tuning.update import UpdateStats, learn


class Tuner:
    """One run of the loop, resumable between steps.

    Args:
        task: What is tuned for.
        config: Every setting.
        trainable: The agent and its optimizer.
        scorer: The target behind it.
        guards: What is refused.
        folder: Where the run is written down.
        observer: Who is told.
    """

    def __init__(
        self,
        task: Task,
        config: TuneConfig,
        trainable: Trainable,
        scorer: Scorer,
        guards: Guards,
        folder: RunFolder,
        observer: Observer,
    ) -> None:
        self._task, self._config, self._trainable = task, config, trainable
        self._scorer, self._observer = scorer, observer
        agent, self._ranks = trainable.agent, trainable.ranks
        self._keeper = Keeper(
            folder, self._ranks, most=config.keep_checkpoints, tell=observer.on_note
        )
        self._collector = Collector(agent, scorer, guards, task, config)
        self._judge = AnchorJudge(
            agent, scorer, self._collector, task, config, agree=self._ranks.agree
        )
        self._guards = guards
        self._budget = Budget(config, len(task.validation), scorer.limits)
        self._monitor = Monitor(config.monitor)
        self._pool = CandidatePool(task.seed_prompt)
        self._decisions: Counter[str] = Counter()
        self._setting: dict[str, Any] = {}

    def run(self, setting: dict[str, Any], trial: WriterTrial | None = None) -> TuneResult:
        """Train, select, test.

        Args:
            setting: Task, models and versions, for the result.
            trial: Judges prompts for each input, where such are written.
        """
        config, agent = self._config, self._trainable.agent
        self._setting = json.loads(json.dumps(setting))
        first_step = self._restore()
        self._observer.on_start(first_step, config.steps)
        for step in range(first_step, config.steps):
            self._scorer.limits.steps = step
            if not self._budget.affords_step(self._scorer.ledger):
                self._observer.on_note(f"{step} of {config.steps} steps: {KEPT}")
                break
            if self._monitor.writes_nothing:
                self._observer.on_note(f"{step} of {config.steps} steps: {REFUSED}")
                break
            started = time.perf_counter()
            if config.anchor.kind == "previous":
                agent.copy(Role.POLICY, Role.ANCHOR)
            rollout, candidates, broken = self._collect(step)  # 1. write and score
            if not candidates and broken is None:  # a limit of the run left nothing to learn from
                break
            stats = self._update(step, rollout)  # 2. PPO with KL to the anchor
            finding = self._watch(candidates, stats)  # is the run healthy? if not, answer
            self._pool.count_faults(candidates)  # 3. what was seen is in the pool by now
            judgement, judged, odd = self._decide(step)  # 4. KEEP / UPDATE / ROLL_BACK, by copying
            broken = broken or (stats.broken if stats else None) or odd
            finding = self._answer(finding, broken)
            record = self._record(step, candidates, stats, finding, judgement, started)
            self._write_down(record, [*candidates, *judged])  # 5. safe to kill here
            self._observer.on_step(record)
            if finding.broken is not None:
                self._observer.on_note(note_on(finding, step))
                settings = self._monitor.settings(config.ppo)
                require_sound_numbers(self._monitor, finding, step, settings)
            self._stop_if_asked(step + 1)
        return self._finish(setting, trial)

    def _stop_if_asked(self, done: int) -> None:
        """Raise ``RunStopped`` between two steps, if the observer wants it."""
        if self._ranks.any(self._observer.stop_asked()):
            at = f"after step {done} of {self._config.steps}"
            raise RunStopped(f"the run in {self._keeper.path} was stopped {at}")

    def _collect(self, step: int) -> tuple[Rollout | None, list[Candidate], str | None]:
        """A rollout, its candidates, and the number that keeps it from being learned from."""
        try:
            rollout, candidates = self._collector.collect(step, self._pool)
        except NumberError as error:
            return None, [], str(error)
        broken = None if rollout is None else broken_rollout(rollout)
        return (rollout if broken is None else None), candidates, broken

    def _decide(self, step: int) -> tuple[Judgement | None, list[Candidate], str | None]:
        """Compare policy and anchor where that is due and can be paid for, and act on it.

        Last, the number that was not finite, where one kept them from writing.
        """
        if not (is_due(step, self._config) and self._budget.affords_decision(self._scorer.ledger)):
            return None, [], None
        try:
            judgement, judged = self._judge.judge(step, self._pool)
        except LimitReached:  # half a comparison decides nothing
            return None, [], None
        except NumberError as error:
            return None, [], str(error)
        apply(judgement.decision, self._trainable.agent, self._trainable.optimizer)
        self._decisions[judgement.decision] += 1
        return judgement, judged, None

    def consider(self, prompts: Sequence[str]) -> None:
        """Let prompts that were found elsewhere compete in the selection."""
        self._pool.validate(prompts, self._scorer, self._task.validation)

    def _update(self, step: int, rollout: Rollout | None) -> UpdateStats | None:
        if rollout is None:
            return None
        config = self._monitor.settings(self._config.ppo)
        if self._config.anchor.kind == "none":
            config = config.model_copy(update={"kl_coef": 0.0})
        seed = derive_seed(self._config.seed, step, "minibatches")
        return learn(self._trainable, rollout, config, seed=seed)

    def _watch(self, candidates: Sequence[Candidate], stats: UpdateStats | None) -> Finding:
        own = by_policy(candidates)
        if not own:  # none could be written
            return Finding(None, (), ())
        gains = [self._pool.gain(c.prompt) for c in own if c.fault is None]
        level = sum(gains) / len(gains) if gains else None
        barren = all(c.fault is not None for c in candidates)
        finding = self._monitor.watch(own, stats, level, barren=barren)
        self._roll_back(finding.actions)
        return finding

    def _answer(self, finding: Finding, broken: str | None) -> Finding:
        answered = watch_numbers(self._monitor, finding, broken)
        self._roll_back(answered.actions[len(finding.actions) :])
        return answered

    def _roll_back(self, actions: Sequence[Action]) -> None:
        if Action.ROLL_BACK in actions and self._config.anchor.kind != "none":
            apply(AnchorDecision.ROLL_BACK, self._trainable.agent, self._trainable.optimizer)

    def _record(
        self,
        step: int,
        candidates: Sequence[Candidate],
        stats: UpdateStats | None,
        finding: Finding,
        judgement: Judgement | None,
        started: float,
    ) -> StepRecord:
        own = by_policy(candidates)
        scores = [c.score for c in own if c.score is not None]
        return StepRecord(
            step=step,
            mean_reward=mean_of([c.reward for c in own]),
            best_reward=max((c.reward for c in candidates), default=None),
            seed_reward=mean_of([c.seed_reward or 0.0 for c in candidates]),
            mean_score=mean_of(scores),
            faults=dict(Counter(c.fault for c in candidates if c.fault is not None)),
            update=asdict(stats) if stats else None,
            monitor=asdict(finding),
            anchor=asdict(judgement) if judgement else None,
            best_prompt=next(iter(self._pool.leaderboard(1)), None),
            target_calls=self._scorer.ledger.total_calls,
            dollars=self._scorer.cost()["dollars"],
            seconds=round(time.perf_counter() - started, 3),
        )

    def _write_down(self, record: StepRecord, candidates: Sequence[Candidate]) -> None:
        lines = {
            STEPS: [asdict(record)],
            PROMPTS: [asdict(candidate) for candidate in candidates],
            PAIRS: self._scorer.take_new(),
        }
        tensors = sound_tensors(self._trainable)
        self._keeper.save(record.step + 1, tensors, self._state, lines)

    def _state(self) -> dict[str, Any]:
        return {
            "pool": self._pool.to_dict(),
            "ledger": self._scorer.ledger.to_dict(),
            "decisions": dict(self._decisions),
            "monitor": self._monitor.to_dict(),
            "setting": self._setting,
            "seconds": self._scorer.limits.seconds,
            "target_seconds": self._scorer.seconds,
        }

    def _restore(self) -> int:
        """Go back to the last checkpoint that is whole; the step to begin with."""
        found = self._keeper.restore(self._setting)
        if found is None:
            return 0
        checkpoint, pairs = found
        state = checkpoint.state
        load_training_tensors(self._trainable, checkpoint.tensors)
        self._pool = CandidatePool.from_dict(state["pool"])
        self._scorer.ledger = Ledger.from_dict(state["ledger"])
        self._decisions = Counter(state["decisions"])
        self._monitor.restore(state["monitor"])
        self._scorer.seconds = dict(state["target_seconds"])
        waited = sum(self._scorer.seconds.values())
        self._scorer.limits.start_from(state["seconds"], waited=waited)
        self._scorer.restore(pairs)
        return checkpoint.next_step

    def _finish(self, setting: dict[str, Any], trial: WriterTrial | None) -> TuneResult:
        """Select on validation, then read the test split, then write the result."""
        task, config, pool = self._task, self._config, self._pool
        five = pool.leaderboard(PAPER_FINALISTS) if config.selection.paper_protocol else []
        self._observer.on_phase("choosing the prompt on validation")
        selection = select(pool, task, self._scorer, config, self._guards.is_readable)
        self._observer.on_phase("reading the test split, once")
        figures = read_test(task, self._scorer, selection, five, config)
        per_input = self._try(trial, selection.prompt) if trial is not None else None
        if config.selection.learning_curve:  # before the ledger is closed
            end = [spent(self._scorer.ledger), selection.validation.score]
            steps = self._keeper.once(lambda folder: folder.read_lines(STEPS))
            points = learning_curve(task, self._scorer, steps, end)
            self._keeper.once(lambda folder: folder.write_json(CURVE, {"points": points}))
        [readability] = self._guards.read([selection.instruction])
        result = TuneResult(
            prompt=selection.prompt,
            instruction=selection.instruction,
            seed_prompt=task.seed_prompt,
            method=config.method,
            seed=config.seed,
            test=figures.test,
            seed_test=figures.seed_test,
            paired=figures.paired,
            readability=readability,
            readable=self._guards.is_readable(selection.instruction),
            readable_prompt=selection.readable,
            readable_test=figures.readable_test,
            max_of_five=figures.max_of_five,
            validation=selection.validation,
            seed_validation=selection.seed_validation,
            trivial_score=task.trivial_score("test"),
            target_calls=self._scorer.ledger.total_calls,
            cost=self._scorer.cost(),
            candidates={
                "unique": pool.num_unique,
                "compared_on_validation": selection.num_compared,
                "refused": dict(sorted(pool.faults.items())),
            },
            anchor_decisions=dict(sorted(self._decisions.items())),
            alarms=dict(sorted(self._monitor.alarms.items())),
            collapsed=self._monitor.collapsed,
            setting=setting,
            template=self._scorer.template,
            layout=task.layout,
            run_dir=self._keeper.path,
            per_input=per_input,
        )
        told = trial.seconds if trial is not None else {}
        weather = {**told, **self._scorer.weather(), "processes": self._ranks.count}

        def leave(folder: RunFolder) -> None:
            folder.write_json(TEST, outcomes(figures.scores))
            folder.write_json(TIMING, weather)  # apart: equal runs give equal results
            folder.write_text(BEST_PROMPT, result.prompt + "\n")
            folder.write_json(RESULT, result.to_dict())

        self._keeper.once(leave)
        return result

    def _try(self, trial: WriterTrial, fixed: str) -> PerInputResult | None:
        """Whether a prompt for each input pays; the better of two writers is the policy then."""
        self._observer.on_phase("writing a prompt for each input of validation and test")
        try:
            result, written = trial.judge(fixed)
        except LimitReached:
            if self._config.per_input.mode == "always":
                raise
            self._keeper.once(lambda folder: folder.clear(WRITES))
            self._observer.on_note(
                "a limit of the run was reached before prompts for each input were tried to the "
                "end: the one prompt for all stands"
            )
            return None
        self._trainable.agent.copy(result.writer, Role.POLICY)

        def leave(folder: RunFolder) -> None:
            if result.used:  # before the result is written: from then on the run is finished
                trial.keep(fixed, result)
            folder.clear(WRITES)
            folder.append(WRITES, written)

        self._keeper.once(leave)
        return result
