"""From task and configuration to objects: the one place where they meet."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stableprompt.basis import Basis, known_before_loading
from stableprompt.config import TuneConfig, make_config
from stableprompt.errors import ConfigError
from stableprompt.models.agent import AgentLLM
from stableprompt.models.chat import special_tokens
from stableprompt.models.memory import told_when_full
from stableprompt.models.targets.api import ApiTarget
from stableprompt.models.targets.function import TargetFunction
from stableprompt.models.targets.interface import TargetLLM
from stableprompt.models.targets.providers import target_price
from stableprompt.models.training import prepare_training
from stableprompt.precision import label_agreement
from stableprompt.prompt_writer import WriterCard, save_writer
from stableprompt.reporting.writing import leave_report
from stableprompt.runs.folder import CONFIG, TASK, WRITER, RunFolder, default_run_dir
from stableprompt.runs.lock import alone
from stableprompt.scoring.judge import DEFAULT_RUBRIC, Judge
from stableprompt.scoring.ledger import Ledger
from stableprompt.scoring.limits import Limits
from stableprompt.scoring.scorer import Scorer
from stableprompt.setting import setting_of
from stableprompt.speakers import bundled_writer as bundled_writer
from stableprompt.speakers import (
    judge_price,
    load_models,
    load_target,
    named_target,
    other_judge,
    require_price,
    target_of,
)
from stableprompt.tasks.archive import CustomMetric, task_from_dict, task_to_dict
from stableprompt.tasks.metrics.registry import JUDGE, require_available
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import template_of
from stableprompt.tuning.budget import Budget, require_enough_budget, test_calls
from stableprompt.tuning.checks import require_enough_examples
from stableprompt.tuning.collect import Collector
from stableprompt.tuning.guards import Guards
from stableprompt.tuning.per_input import PerInputResult, WriterTrial
from stableprompt.tuning.records import Observer, Silence, TuneResult
from stableprompt.tuning.room import answer_room, demonstration_room, drop_long_texts
from stableprompt.tuning.rules import Rules
from stableprompt.tuning.tuner import Tuner


def tune(
    task: Task,
    *,
    agent: str | Mapping[str, Any] | None = None,
    target: str | TargetFunction | Mapping[str, Any] | None = None,
    run_dir: str | Path | None = None,
    preset: str = "default",
    observer: Observer | None = None,
    **settings: Any,
) -> TuneResult:
    """Find the best prompt for a task.

    ``KeyboardInterrupt`` (Ctrl-C, the stop button of a notebook) passes through at once, as
    anywhere in Python; ``resume`` goes on from the last step that was finished. For a stop between
    two steps give an observer whose ``stop_asked`` says so. No signal handler is set.

    Args:
        task: Labelled examples in three splits, and the seed prompt.
        agent: The LLM that writes prompts: embedded name, local folder or hub id; or a mapping
            of ``AgentConfig``'s fields, such as ``{"model": ..., "temperature": 0.7}``.
        target: The LLM that follows them: a name as above, or PROVIDER/MODEL behind an API; a
            function, chat messages -> answer; or a mapping of ``TargetConfig``'s fields, in which
            ``model`` may be a function.
        run_dir: A new folder for everything that the run leaves behind; by default one under
            ``runs/`` that is named after the task and the time.
        preset: "default" or "paper".
        observer: Told how it goes.
        **settings: Any field of ``TuneConfig``: ``seed=1``, ``steps=30``, ``method="best-of-n"``,
            ``ppo={"learning_rate": 1e-4}``, ...

    Returns:
        The prompt with its figures; the same is in ``result.json`` in the run folder.

    Raises:
        ConfigError: a setting is unknown, out of range, or contradicts another.
        DataError: the task has too few examples for these settings.
        ModelError: a model cannot be loaded; TargetError, a target cannot be reached.
        RunError: the run folder holds something already, or cannot be written.
        RunStopped: the observer asked for it.
    """
    if not isinstance(task, Task):
        raise ConfigError(
            f"tune takes a task, found {type(task).__name__}; make one with Task.from_file(...)"
        )
    named, function = named_target(target)
    models = {"agent": {"model": agent} if isinstance(agent, str) else dict(agent or {})}
    config = make_config(settings, models, {"target": named}, preset=preset)
    path = Path(run_dir) if run_dir else default_run_dir(task.name)
    return start_run(task, config, path, observer or Silence(), function=function)


@told_when_full()
def resume(
    run_dir: str | Path,
    *,
    metric: CustomMetric | None = None,
    target: TargetFunction | None = None,
    limits: Mapping[str, Any] | None = None,
    base_url: str | Sequence[str] | None = None,
    changed_ok: bool = False,
    observer: Observer | None = None,
) -> TuneResult:
    """Continue a run that was interrupted, from its folder alone.

    The result is that of an uninterrupted run. What that rests on must be as it was when the run
    began: settings but limits and addresses, data, models, functions, versions.

    Args:
        run_dir: What ``tune`` was given, or printed.
        metric: The function that scores, where the run uses one of your own.
        target: The function that answers, where the target is one.
        limits: Fields of ``LimitsConfig`` to change, where the run has reached one of them.
        base_url: Where the target answers now, where its servers have moved; several are replicas.
        changed_ok: Go on although something changed; the result says what.
        observer: Told how it goes.

    Raises:
        ConfigError: the run has a metric of the user's own, and it was not given.
        RunError: that is no run folder, the run is finished, another process is at it, or
            something has changed since it began.
        RunStopped: the observer asked for it.
        ModelError: a model cannot be loaded.
    """
    path, observer = Path(run_dir), observer or Silence()
    RunFolder.open_unfinished(path)
    with alone(path, f"the run in {path}"):
        folder = RunFolder.open_unfinished(path)  # who had the lock may have finished it
        content = folder.read_json(TASK)
        # Whether it is what was written is asked below, part by part.
        task = task_from_dict({k: v for k, v in content.items() if k != "fingerprint"}, metric)
        changes: dict[str, Any] = {"limits": dict(limits or {})}
        if base_url is not None:
            changes["target"] = {"api": {"base_url": base_url}}
        config = make_config(folder.read_json(CONFIG), changes)
        require_price(config)
        known = known_before_loading(task, content, config, target)
        basis = Basis.of_resumed(folder, known, changed_ok=changed_ok, tell=observer.on_note)
        observer.on_phase("loading models")
        models = load_models(config, target)
        if limits or base_url is not None:
            folder.write_json(CONFIG, config.model_dump(mode="json"))
        with closing(models[1]):
            fitting = without_long_texts(task, models[1], config, observer)
            return _run(fitting, config, models, basis, observer)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run is made of."""

    task: Task
    """Without texts that do not fit the target."""
    agent: AgentLLM
    scorer: Scorer


Search = Callable[[Parts], Sequence[str]]
"""Another way to find prompts than the loop."""


@told_when_full()
def start_run(
    task: Task,
    config: TuneConfig,
    path: Path,
    observer: Observer,
    *,
    search: Search | None = None,
    function: TargetFunction | None = None,
) -> TuneResult:
    """Run a checked configuration in a new folder.

    Args:
        task: What is tuned for.
        config: Every setting.
        path: Where the run is written down.
        observer: Told how it goes.
        search: Finds prompts before the loop; they compete in the selection.
        function: The target, where it is a function.

    Raises:
        DataError: the training split is too small for a step.
        ModelError: a model cannot be loaded; nothing is left behind.
        RunError: the folder holds something already.
    """
    require_possible(task, config)
    RunFolder.require_free(path)
    observer.on_phase("loading models")
    agent, target = load_models(config, function)
    with closing(target):
        fitting = without_long_texts(task, target, config, observer)
        folder = RunFolder.create(path)  # only now: a model that cannot be loaded leaves no folder
        with alone(path, f"the run in {path}"):
            RunFolder.require_free(path)  # another process may have been faster
            folder.write_json(TASK, content := task_to_dict(task))
            folder.write_json(CONFIG, config.model_dump(mode="json"))
            basis = Basis.of_new(folder, known_before_loading(task, content, config, function))
            return _run(fitting, config, (agent, target), basis, observer, search)


def require_possible(task: Task, config: TuneConfig) -> None:
    """Check what can be known about a run before a model is loaded.

    Raises:
        ConfigError: the settings contradict each other, or the metric or a price is missing.
        DataError: the training split is too small for a step.
    """
    require_enough_examples(task, config)
    require_enough_budget(task, config)
    require_available(task.metric)
    require_price(config)


def _run(
    task: Task,
    config: TuneConfig,
    models: tuple[AgentLLM, TargetLLM],
    basis: Basis,
    observer: Observer,
    search: Search | None = None,
) -> TuneResult:
    (agent, target), folder = models, basis.folder
    setting = setting_of(task, config, agent, target) | label_agreement(task, config, target)
    setting = basis.settle(task, config, setting)
    tell_of_replicas(target, observer)
    with closing(make_scorer(task, config, target)) as scorer:
        scorer.limits = Limits(
            config.limits,
            target_price(config.target),
            judge_price=judge_price(config),
            kept=test_calls(task, config),
            selection=Budget(config, len(task.validation)).selection,
            tell=observer.on_note,
        )
        markup = markup_of(agent, target)
        guards = Guards(config.guards, agent, Rules.of(task), markup)
        trainable = prepare_training(agent, config.ppo.learning_rate)
        tuner = Tuner(task, config, trainable, scorer, guards, folder, observer)
        if search is not None:
            tuner.consider(search(Parts(task, agent, scorer)))
        if not config.per_input.wanted:
            return _reported(tuner.run(setting), observer)
        card = WriterCard.of(task, config, markup)
        collector = Collector(agent, scorer, card.guards_for(agent), task, config)
        itself = make_scorer(task, config, target_of(agent, config), scorer.judge)
        itself.ratings = scorer.ratings

        def keep(fixed: str, found: PerInputResult) -> None:
            save_writer(agent, card.with_result(fixed, found), folder.path / WRITER)

        trial = WriterTrial(collector, scorer, itself, task, config, keep=keep)
        return _reported(tuner.run(setting, trial), observer)


def tell_of_replicas(target: TargetLLM, observer: Observer) -> None:
    """Have said which servers of the target are set aside."""
    if isinstance(target, ApiTarget):
        target.tell = observer.on_note


def _reported(result: TuneResult, observer: Observer) -> TuneResult:
    """The same result, with a page of it in the run folder."""
    if trouble := leave_report(result.run_dir):
        observer.on_note(trouble)
    return result


def markup_of(agent: AgentLLM, target: TargetLLM) -> list[str]:
    """What no prompt may hold: the special tokens of both."""
    return [*special_tokens(agent.tokenizer), *target.markup()]


def make_scorer(
    task: Task, config: TuneConfig, target: TargetLLM, judge: Judge | None = None
) -> Scorer:
    """The scorer of a task; loads the judge where one is needed that is not the target."""
    if task.metric.name == JUDGE and judge is None:
        other = other_judge(config)
        rater = target if other is None else load_target(config, other)
        judge = Judge(rater, config.judge.rubric or task.rubric or DEFAULT_RUBRIC)
    room = answer_room(task, config, target)
    return Scorer(
        target,
        template_of(config.target),
        task,
        Ledger(),
        answers=config.target.model_copy(update={"max_answer_tokens": room}),
        reward=config.reward,
        judge=judge,
    )


def without_long_texts(
    task: Task, target: TargetLLM, config: TuneConfig, observer: Observer
) -> Task:
    """The task but for texts that leave the target no room for a prompt and an answer.

    Raises:
        DataError: too few examples are left.
    """
    room = config.agent.max_prompt_tokens + answer_room(task, config, target)
    room += demonstration_room(task, config, target)
    fitting = drop_long_texts(task, target, template_of(config.target), room)
    require_enough_examples(fitting, config)
    for note in fitting.notes[len(task.notes) :]:
        observer.on_note(note)
    return fitting
