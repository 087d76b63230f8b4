"""From task and configuration to objects: the one place where they meet."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from stableprompt.basis import Basis, known_before_loading
from stableprompt.config import TuneConfig, make_config
from stableprompt.errors import ConfigError
from stableprompt.models.memory import told_when_full
from stableprompt.models.ranks import Ranks
from stableprompt.models.targets.function import TargetFunction
from stableprompt.models.targets.providers import require_no_slip, target_price
from stableprompt.models.training import prepare_training
from stableprompt.parts import Parts, make_scorer, markup_of, parts_of, tell_of_replicas
from stableprompt.place import SAME, Place, require_shareable
from stableprompt.precision import label_agreement
from stableprompt.prompt_writer import WriterCard, save_writer
from stableprompt.reporting.writing import leave_report
from stableprompt.runs.folder import CONFIG, TASK, WRITER, RunFolder, default_run_dir
from stableprompt.runs.lock import alone
from stableprompt.scoring.limits import Limits
from stableprompt.setting import setting_of
from stableprompt.speakers import bundled_writer as bundled_writer
from stableprompt.speakers import (
    judge_price,
    load_models,
    named_target,
    require_price,
    share_of_calls,
    target_of,
)
from stableprompt.tasks.archive import CustomMetric, task_to_dict, unchecked_task
from stableprompt.tasks.metrics.registry import require_available
from stableprompt.tasks.task import Task
from stableprompt.tuning.budget import Budget, require_enough_budget, test_calls
from stableprompt.tuning.checks import require_enough_examples, without_decisions
from stableprompt.tuning.collect import Collector
from stableprompt.tuning.guards import Guards
from stableprompt.tuning.per_input import PerInputResult, WriterTrial
from stableprompt.tuning.records import Observer, Silence, TuneResult
from stableprompt.tuning.room import too_long
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
    target: TargetFunction | Mapping[str, Any] | None = None,
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
        target: The function that answers, where the target is one; or ``{"ray": {...}}`` with
            fields of ``RayConfig`` to change, where it is in Ray actors.
        limits: Fields of ``LimitsConfig`` to change, where the run has reached one of them.
        base_url: Where the target answers now, where its servers have moved; several are replicas.
        changed_ok: Go on although something changed; the result says what.
        observer: Told how it goes.

    Raises:
        ConfigError: the run has a metric of the user's own, and it was not given; or other settings
            of the target were.
        RunError: that is no run folder, the run is finished, another process is at it, or
            something has changed since it began.
        RunStopped: the observer asked for it.
        ModelError: a model cannot be loaded.
    """
    path, observer, ranks = Path(run_dir), observer or Silence(), Ranks.launched()
    function, changes = _what_may_change(target, limits, base_url)
    ranks.first_keeps(lambda: RunFolder.open_unfinished(path))
    with ExitStack() as held:
        ranks.first_keeps(lambda: held.enter_context(alone(path, f"the run in {path}")))
        content, settings = ranks.first_does(lambda: _what_was_written(path))
        # Whether it is what was written is asked below, part by part.
        task = unchecked_task(content, metric)
        _require_the_same_engine(settings, changes)
        config = make_config(settings, changes)
        require_price(config)
        require_shareable(config, ranks)
        known = known_before_loading(task, content, config, function)
        folder = RunFolder(path)
        basis = ranks.first_keeps(
            lambda: Basis.of_resumed(folder, known, changed_ok=changed_ok, tell=observer.on_note)
        )
        observer.on_phase("loading models")
        models = load_models(share_of_calls(config, ranks.count), function, ranks)
        with closing(models[1]):
            ranks.require_same(SAME, lambda: known_before_loading(task, content, config, function))
            if changes:
                ranks.first_does(lambda: folder.write_json(CONFIG, config.model_dump(mode="json")))
            parts = parts_of(task, config, models, ranks, observer)
            with closing(parts.scorer):
                return _run(parts, config, Place(folder, ranks, basis), observer)


def _what_may_change(
    target: TargetFunction | Mapping[str, Any] | None,
    limits: Mapping[str, Any] | None,
    base_url: str | Sequence[str] | None,
) -> tuple[TargetFunction | None, dict[str, Any]]:
    """The target where it is a function, and the settings that a resumed run may have otherwise."""
    named, function = named_target(target)
    others = sorted(named.keys() - {"ray"}) if function is None else []
    if others or (function is None and target is not None and not named.get("ray")):
        raise ConfigError(
            f"a resumed run keeps its target, found {', '.join(others) or 'no settings'}; give the "
            'function that it is, or {"ray": {...}} with settings of Ray actors to change'
        )
    of_target: dict[str, Any] = {"ray": dict(named["ray"])} if named.get("ray") else {}
    if base_url is not None:
        of_target["api"] = {"base_url": base_url}
    changes: dict[str, Any] = {"limits": dict(limits)} if limits else {}
    return function, changes | ({"target": of_target} if of_target else {})


def _require_the_same_engine(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Check that a run is in Ray actors already where those are to change: answers differ in their
    last digits from those in this process.

    Raises:
        ConfigError: it is not.
    """
    target = settings.get("target")
    in_actors = isinstance(target, Mapping) and target.get("ray") is not None
    if "ray" in changes.get("target", {}) and not in_actors:
        raise ConfigError(
            "the target of this run is not in Ray actors, so none of their settings can change; "
            "leave target.ray out, or start a new run"
        )


def _what_was_written(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Task and settings of a run that is not finished."""
    folder = RunFolder.open_unfinished(path)  # who had the lock may have finished it
    folder.make_checkpoints()
    return folder.read_json(TASK), folder.read_json(CONFIG)


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
    ranks = Ranks.launched()
    require_shareable(config, ranks, searching=search is not None)
    path = ranks.agree(path)
    ranks.first_does(lambda: RunFolder.require_free(path))
    observer.on_phase("loading models")
    models = load_models(share_of_calls(config, ranks.count), function, ranks)
    with closing(models[1]), ExitStack() as held:
        parts = parts_of(task, config, models, ranks, observer)
        held.enter_context(closing(parts.scorer))
        content = {**task_to_dict(task), "too_long": too_long(task, parts.task)}
        known = known_before_loading(task, content, config, function)
        ranks.require_same(SAME, lambda: known)
        # Only now: a model that cannot be loaded leaves no folder.
        files = {TASK: content, CONFIG: config.model_dump(mode="json")}
        place = Place.of_new(path, ranks, files, known, held)
        return _run(parts, config, place, observer, search)


def require_possible(task: Task, config: TuneConfig) -> None:
    """Check what can be known about a run before a model is loaded.

    Raises:
        ConfigError: the settings contradict each other, or the metric or a price is missing.
        DataError: the training split is too small for a step.
    """
    require_enough_examples(task, config)
    require_enough_budget(task, config)
    require_available(task.metric)
    require_no_slip(config.target)
    require_price(config)


def _run(
    parts: Parts, config: TuneConfig, place: Place, observer: Observer, search: Search | None = None
) -> TuneResult:
    task, agent, target, scorer = parts.task, parts.agent, parts.target, parts.scorer
    folder, ranks = place.folder, place.ranks
    if undecided := without_decisions(config):
        observer.on_note(undecided)
    setting = setting_of(task, config, agent, target) | label_agreement(task, config, target)
    setting = place.settle(task, config, setting)
    tell_of_replicas(target, scorer.judge, observer)
    scorer.limits = Limits(
        config.limits,
        target_price(config.target),
        judge_price=judge_price(config),
        kept=test_calls(task, config),
        selection=Budget(config, len(task.validation)).selection,
        listener=observer,
    )
    scorer.limits.agree = ranks.agree
    markup = markup_of(agent, target)
    guards = Guards(config.guards, agent, Rules.of(task), markup)
    trainable = prepare_training(agent, config.ppo.learning_rate, ranks)
    tuner = Tuner(task, config, trainable, scorer, guards, folder, observer)
    if search is not None:
        tuner.consider(search(parts))
    if not config.per_input.wanted:
        return _reported(tuner.run(setting), ranks, observer)
    card = WriterCard.of(task, config, markup)
    collector = Collector(agent, scorer, card.guards_for(agent), task, config)
    itself = make_scorer(task, config, target_of(agent, config), scorer.judge, ranks)
    itself.ratings = scorer.ratings

    def keep(fixed: str, found: PerInputResult) -> None:
        save_writer(agent, card.with_result(fixed, found), folder.path / WRITER)

    trial = WriterTrial(collector, scorer, itself, task, config, keep=keep)
    return _reported(tuner.run(setting, trial), ranks, observer)


def _reported(result: TuneResult, ranks: Ranks, observer: Observer) -> TuneResult:
    """The same result, with a page of it in the run folder."""
    if trouble := ranks.first_does(lambda: leave_report(result.run_dir)):
        observer.on_note(trouble)
    return result
