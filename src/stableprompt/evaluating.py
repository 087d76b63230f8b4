"""One prompt, one split, one score with its interval."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

from stableprompt.config import TuneConfig, make_config
from stableprompt.errors import ConfigError
from stableprompt.models.memory import told_when_full
from stableprompt.models.targets.function import TargetFunction
from stableprompt.models.targets.interface import TargetLLM
from stableprompt.models.targets.providers import require_no_slip, target_price
from stableprompt.parts import make_scorer, tell_of_replicas
from stableprompt.scoring.ledger import Purpose
from stableprompt.scoring.limits import Limits
from stableprompt.scoring.scorer import Scorer
from stableprompt.speakers import judge_price, load_target, named_target, require_price
from stableprompt.tasks.metrics.registry import require_available
from stableprompt.tasks.splits import SplitName
from stableprompt.tasks.statistics import Estimate
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import template_of
from stableprompt.tuning.records import Observer, Silence
from stableprompt.tuning.room import answer_room, drop_long_texts
from stableprompt.tuning.selection import estimate_of


@told_when_full()
def evaluate(
    task: Task,
    prompt: str,
    *,
    target: str | TargetFunction | Mapping[str, Any] | None = None,
    split: SplitName = "test",
    observer: Observer | None = None,
    **settings: Any,
) -> Estimate:
    """Score one prompt on one split, with its 95 % interval.

    Args:
        task: Labelled examples.
        prompt: What to score.
        target: Who follows it, as for ``tune``.
        split: train, validation or test.
        observer: Told which texts are left out.
        **settings: Fields of ``TuneConfig``; only the target's and the device matter.

    Raises:
        ConfigError: an empty prompt, or a setting that is unknown or out of range.
        ModelError: the target cannot be loaded.
    """
    if not prompt.strip():
        raise ConfigError("the prompt is empty; give the text to score")
    named, function = named_target(target)
    config = make_config(settings, {"target": named})
    require_available(task.metric)
    require_no_slip(config.target)
    require_price(config)
    task = replace(task, seed_prompt=prompt)
    with closing(load_target(config, function=function)) as answering:
        return evaluate_with(task, config, answering, split, observer or Silence())


def evaluate_with(
    task: Task, config: TuneConfig, target: TargetLLM, split: SplitName, observer: Observer
) -> Estimate:
    """Score a task's seed prompt on one split, with a target that is loaded already."""
    room = answer_room(task, config, target)
    fitting = drop_long_texts(task, target, template_of(config.target), room)
    for note in fitting.notes[len(task.notes) :]:
        observer.on_note(note)
    examples = fitting.splits.part(split)
    with closing(make_scorer(fitting, config, target)) as scorer:
        tell_of_replicas(target, scorer.judge, observer)
        price, of_judge = target_price(config.target), judge_price(config)
        scorer.limits = Limits(config.limits, price, judge_price=of_judge, listener=observer)
        score = scorer.score(task.seed_prompt, examples, Purpose.TEST)
    for note in notes_on_cost(scorer):
        observer.on_note(note)
    return estimate_of(fitting, examples, score, seed=config.seed)


def notes_on_cost(scorer: Scorer) -> list[str]:
    """What a reader of a score must know: calls that failed, answers that name no label."""
    ledger, notes = scorer.ledger, []
    if failed := sum(ledger.failed.values()):
        notes.append(f"{failed} examples got no answer and are left out")
    if unmatched := sum(ledger.unmatched.values()):
        notes.append(f"{unmatched} answers name none of the labels; they count as wrong")
    return notes
