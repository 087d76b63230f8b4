"""What a run is made of, from settings: task, agent, target, scorer with its judge."""

from dataclasses import dataclass

from stableprompt.config import TuneConfig
from stableprompt.models.agent import AgentLLM
from stableprompt.models.chat import special_tokens
from stableprompt.models.ranks import ALONE, Ranks
from stableprompt.models.shared_agent import SharedAgent
from stableprompt.models.targets.api import ApiTarget
from stableprompt.models.targets.interface import TargetLLM
from stableprompt.models.targets.ray_actors import RayTarget
from stableprompt.models.targets.shared import SharedTarget
from stableprompt.scoring.judge import DEFAULT_RUBRIC, Judge
from stableprompt.scoring.ledger import Ledger
from stableprompt.scoring.scorer import Scorer
from stableprompt.speakers import load_target, other_judge, share_of_calls
from stableprompt.tasks.metrics.registry import JUDGE
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import template_of
from stableprompt.tuning.checks import require_enough_examples
from stableprompt.tuning.records import Observer
from stableprompt.tuning.room import answer_room, demonstration_room, drop_long_texts


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run is made of."""

    task: Task
    """Without texts that do not fit the target."""
    agent: AgentLLM
    target: TargetLLM
    scorer: Scorer


def parts_of(
    task: Task,
    config: TuneConfig,
    models: tuple[AgentLLM, TargetLLM],
    ranks: Ranks,
    observer: Observer,
) -> Parts:
    """Parts around models that are loaded; a judge of its own is loaded here."""
    agent, target = models
    fitting = without_long_texts(task, target, config, observer)
    scorer = make_scorer(fitting, config, target, ranks=ranks)
    return Parts(fitting, SharedAgent(agent, ranks) if ranks.count > 1 else agent, target, scorer)


def markup_of(agent: AgentLLM, target: TargetLLM) -> list[str]:
    """What no prompt may hold: the special tokens of both."""
    return [*special_tokens(agent.tokenizer), *target.markup()]


def tell_of_replicas(target: TargetLLM, judge: Judge | None, observer: Observer) -> None:
    """Have said which servers of the target, and of a judge, are set aside, or actors lost."""
    for asked in (target, None if judge is None else judge.target):
        own = asked.own if isinstance(asked, SharedTarget) else asked
        if isinstance(own, ApiTarget | RayTarget):
            own.tell = observer.on_note


def make_scorer(
    task: Task,
    config: TuneConfig,
    target: TargetLLM,
    judge: Judge | None = None,
    ranks: Ranks = ALONE,
) -> Scorer:
    """The scorer of a task; loads the judge where one is needed that is not the target."""
    room = answer_room(task, config, target)
    if ranks.count > 1:
        target = SharedTarget(target, ranks)
    if task.metric.name == JUDGE and judge is None:
        other = other_judge(config)
        rater = target
        if other is not None:
            rater = load_target(share_of_calls(config, ranks.count), other)
            rater = rater if ranks.count == 1 else SharedTarget(rater, ranks)
        judge = Judge(rater, config.judge.rubric or task.rubric or DEFAULT_RUBRIC)
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
