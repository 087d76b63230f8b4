"""What must fit into the target's context beside an input: prompt, demonstrations, answer."""

from dataclasses import replace
from typing import Final

from stableprompt.config import TuneConfig
from stableprompt.models.targets.interface import TargetLLM
from stableprompt.tasks.example import TaskKind
from stableprompt.tasks.splits import SPLIT_NAMES, Splits
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import TargetTemplate
from stableprompt.tuning.demonstrations import as_demonstration

MUST_BE_EQUAL: Final = ("exact_match", "exact_match_strict")
ROOM_TO_TALK: Final = 64


def answer_room(task: Task, config: TuneConfig, target: TargetLLM) -> int:
    """How many tokens a generated answer may have; 0 where answers are not generated.

    Where neither the settings nor the task say it: half as much again as the longest reference
    of the training split, so that an answer is not cut for being a little wordy; and 64 tokens at
    least where an answer need not equal a reference to be right.
    """
    if task.kind is not TaskKind.GENERATION:
        return 0
    given = config.target.max_answer_tokens or task.max_answer_tokens
    if given is not None:
        return given
    references = sorted({a for e in task.train for a in e.answers}, key=lambda a: (len(a), a))
    # Those with the most characters: to tokenize them all would take seconds.
    longest = max(target.num_tokens(reference) for reference in references[-50:])
    room = longest + longest // 2 + 1
    return room if task.metric.name in MUST_BE_EQUAL else max(room, ROOM_TO_TALK)


def demonstration_room(task: Task, config: TuneConfig, target: TargetLLM) -> int:
    """Tokens for the largest set of demonstrations that could be drawn from train.

    Kept free from the start, so that which set is chosen does not depend on the length of any
    test example.
    """
    shown = sorted((as_demonstration(e, task) for e in task.train), key=len, reverse=True)
    return sum(target.num_tokens(text) for text in shown[: config.selection.num_demonstrations])


def drop_long_texts(task: Task, target: TargetLLM, template: TargetTemplate, room: int) -> Task:
    """Leave out texts that do not fit the target's context, and say how many.

    Args:
        task: As loaded.
        target: Knows its context.
        template: How a text is sent.
        room: Tokens to keep free for the prompt.

    Raises:
        DataError: nothing would be left of a split.
    """
    kept = {
        name: tuple(
            e
            for e in task.splits.part(name)
            if target.fits(template.messages(task.seed_prompt, e), room)
        )
        for name in SPLIT_NAMES
    }
    dropped = sum(len(task.splits.part(name)) - len(kept[name]) for name in SPLIT_NAMES)
    if not dropped:
        return task
    note = f"{dropped} texts longer than the target's context left out"
    return replace(task, splits=Splits(**kept), notes=(*task.notes, note))


def too_long(task: Task, fitting: Task) -> dict[str, list[int]]:
    """Which examples of each split were left out, by their numbers; splits without any are not in.

    Args:
        task: As loaded.
        fitting: What ``drop_long_texts`` made of it.
    """
    found = {}
    for name in SPLIT_NAMES:
        kept = {id(example) for example in fitting.splits.part(name)}  # the same objects
        part = enumerate(task.splits.part(name))
        found[name] = [number for number, example in part if id(example) not in kept]
    return {name: numbers for name, numbers in found.items() if numbers}
