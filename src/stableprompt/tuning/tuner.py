"""The loop of StablePrompt: collect, update, remember, decide, write down."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from stableprompt.config import TuneConfig
from stableprompt.errors import TargetError
from stableprompt.models.adapters import Role
from stableprompt.models.training import Trainable, load_training_tensors, training_tensors
from stableprompt.ppo.rollout import Rollout
from stableprompt.runs.checkpoints import Checkpoint, load_last_checkpoint, save_checkpoint
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
from stableprompt.scoring.ledger import Ledger, Purpose
from stableprompt.scoring.limits import LimitReached
from stableprompt.scoring.prompt_score import PromptScore
from stableprompt.scoring.scorer import Scorer
from stableprompt.tasks.task import Task
from stableprompt.tuning.anchor import AnchorDecision, Judgement, apply, is_due
from stableprompt.tuning.anchor_judge import AnchorJudge
from stableprompt.tuning.budget import Budget, spent
from stableprompt.tuning.candidates import Candidate, CandidatePool
from stableprompt.tuning.collect import Collector
from stableprompt.tuning.guards import Guards
from stableprompt.tuning.monitor import Action, Finding, Monitor
from stableprompt.tuning.per_input import PerInputResult, WriterTrial
from stableprompt.tuning.race import PAPER_FINALISTS
from stableprompt.tuning.randomness import derive_seed
from stableprompt.tuning.records import Observer, StepRecord, TuneResult
from stableprompt.tuning.selection import Selection, read_test, select
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
        self._scorer, self._folder, self._observer = scorer, folder, observer
        agent = trainable.agent
        self._collector = Collector(agent, scorer, guards, task, config)
        self._judge = AnchorJudge(agent, scorer, self._collector, task, config)
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
                break
            started = time.perf_counter()
            if config.anchor.kind == "previous":
                agent.copy(Role.POLICY, Role.ANCHOR)
            rollout, candidates = self._collector.collect(step, self._pool)  # 1. write and score
            if not candidates:
                self._require_limit()
                break
            stats = self._update(step, rollout)  # 2. PPO with KL to the anchor
            finding = self._watch(candidates, stats)  # is the run healthy? if not, answer
            self._pool.count_faults(candidates)  # 3. what was seen is in the pool by now
            judgement, judged = self._decide(step)  # 4. KEEP / UPDATE / ROLL_BACK, by copying
            record = self._record(step, candidates, stats, finding, judgement, started)
            self._write_down(record, [*candidates, *judged])  # 5. safe to kill here
            self._observer.on_step(record)
        return self._finish(setting, trial)

    def _require_limit(self) -> None:
        """Check that it was a limit of the run that left no prompt of a step answered.

        Raises:
            TargetError: there is none.
        """
        if not self._scorer.limits.any:
            raise TargetError(
                "the target answered none of the prompts of a step, on any example; what was "
                "answered before is kept: see to the target and resume the run"
            )

    def _decide(self, step: int) -> tuple[Judgement | None, list[Candidate]]:
        """Compare policy and anchor where that is due and can be paid for, and act on it."""
        if not (is_due(step, self._config) and self._budget.affords_decision(self._scorer.ledger)):
            return None, []
        try:
            judgement, judged = self._judge.judge(step, self._pool)
        except LimitReached:  # half a comparison decides nothing
            return None, []
        apply(judgement.decision, self._trainable.agent, self._trainable.optimizer)
        self._decisions[judgement.decision] += 1
        return judgement, judged

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
        gains = [self._pool.gain(c.prompt) for c in candidates if c.fault is None]
        level = sum(gains) / len(gains) if gains else None
        finding = self._monitor.watch(candidates, stats, level)
        if Action.ROLL_BACK in finding.actions and self._config.anchor.kind != "none":
            apply(AnchorDecision.ROLL_BACK, self._trainable.agent, self._trainable.optimizer)
        return finding

    def _record(
        self,
        step: int,
        candidates: Sequence[Candidate],
        stats: UpdateStats | None,
        finding: Finding,
        judgement: Judgement | None,
        started: float,
    ) -> StepRecord:
        scores = [c.score for c in candidates if c.score is not None]
        leaders = self._pool.leaderboard(1)
        return StepRecord(
            step=step,
            mean_reward=sum(c.reward for c in candidates) / len(candidates),
            best_reward=max(c.reward for c in candidates),
            seed_reward=sum(c.seed_reward or 0.0 for c in candidates) / len(candidates),
            mean_score=sum(scores) / len(scores) if scores else None,
            faults=dict(Counter(c.fault for c in candidates if c.fault is not None)),
            update=asdict(stats) if stats else None,
            monitor=asdict(finding),
            anchor=asdict(judgement) if judgement else None,
            best_prompt=leaders[0] if leaders else None,
            target_calls=self._scorer.ledger.total_calls,
            seconds=round(time.perf_counter() - started, 3),
        )

    def _write_down(self, record: StepRecord, candidates: Sequence[Candidate]) -> None:
        self._folder.append(STEPS, [asdict(record)])
        self._folder.append(PROMPTS, [asdict(candidate) for candidate in candidates])
        self._folder.append(PAIRS, self._scorer.memo.take_new())
        state = {
            "pool": self._pool.to_dict(),
            "ledger": self._scorer.ledger.to_dict(),
            "decisions": dict(self._decisions),
            "monitor": self._monitor.to_dict(),
            "lengths": self._folder.lengths(),
            "setting": self._setting,
            "seconds": self._scorer.limits.seconds,
            "target_seconds": self._scorer.seconds,
        }
        save_checkpoint(
            self._folder.checkpoints,
            Checkpoint(record.step + 1, training_tensors(self._trainable), state),
            keep=self._config.keep_checkpoints,
        )

    def _restore(self) -> int:
        """Go back to the last checkpoint; the step to begin with."""
        checkpoint = load_last_checkpoint(self._folder.checkpoints)
        if checkpoint is None:
            self._folder.cut_back({STEPS: 0, PROMPTS: 0, PAIRS: 0})
            return 0
        load_training_tensors(self._trainable, checkpoint.tensors)
        self._pool = CandidatePool.from_dict(checkpoint.state["pool"])
        self._scorer.ledger = Ledger.from_dict(checkpoint.state["ledger"])
        self._decisions = Counter(checkpoint.state["decisions"])
        self._monitor.restore(checkpoint.state["monitor"])
        self._scorer.seconds = dict(checkpoint.state.get("target_seconds", self._scorer.seconds))
        waited = sum(self._scorer.seconds.values())
        self._scorer.limits.start_from(checkpoint.state.get("seconds", 0.0), waited=waited)
        lengths = {PAIRS: 0, **checkpoint.state["lengths"]}
        if checkpoint.state.get("setting") != self._setting:
            # On another machine the target's figures may differ: old and new must not be mixed.
            lengths[PAIRS] = 0
        self._folder.cut_back(lengths)
        self._scorer.memo.restore(self._folder.read_lines(PAIRS))
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
            run_dir=self._folder.path,
            per_input=per_input,
        )
        self._folder.write_json(TEST, outcomes(figures.scores))
        if config.selection.learning_curve:
            self._folder.write_json(CURVE, {"points": self._curve(selection)})
        # Apart: equal runs give equal results, whatever the weather.
        told = trial.seconds if trial is not None else {}
        self._folder.write_json(TIMING, {**told, **self._scorer.weather()})
        self._folder.write_text(BEST_PROMPT, result.prompt + "\n")
        self._folder.write_json(RESULT, result.to_dict())
        return result

    def _try(self, trial: WriterTrial, fixed: str) -> PerInputResult:
        """Whether a prompt for each input pays; the better of two writers is the policy then."""
        self._observer.on_phase("writing a prompt for each input of validation and test")
        result, written = trial.judge(fixed)
        self._trainable.agent.copy(result.writer, Role.POLICY)
        if result.used:  # before the result is written: from then on the run is finished
            trial.keep(fixed, result)
        self._folder.cut_back({WRITES: 0})
        self._folder.append(WRITES, written)
        return result

    def _curve(self, selection: Selection) -> list[list[float]]:
        """Target calls and validation score of what led: at the start, after steps, at the end.

        What leads more than once is scored once; the seed prompt leads at first.
        """
        task, ledger = self._task, self._scorer.ledger
        end = [spent(ledger), selection.validation.score]
        leaders = {0: task.seed_prompt}
        for step in self._folder.read_lines(STEPS):
            leaders[step["target_calls"]] = step["best_prompt"] or task.seed_prompt
        texts = list(dict.fromkeys(leaders.values()))
        found = self._scorer.score_all(texts, task.validation, Purpose.CURVE)
        scores = dict(zip(texts, found, strict=True))
        return [*([calls, scores[p].score] for calls, p in leaders.items()), end]


def outcomes(scores: Mapping[str, PromptScore]) -> dict[str, Any]:
    """What every prompt that was scored on test achieved, example by example."""
    return {
        "prompts": [
            {
                "prompt": prompt,
                "values": list(score.values),
                "predictions": score.predictions,
                "left_out": score.left_out,
            }
            for prompt, score in scores.items()
        ]
    }
