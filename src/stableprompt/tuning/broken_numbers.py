"""What a run does about numbers that are not finite: go back, go slower, and at last give up.

By the time that this is asked, what would have been learned from them has been taken back already
(``update.learn``), or was never begun. The answers go beside those of the monitor.
"""

from dataclasses import fields, replace

from torch import Tensor

from stableprompt.config import PPOConfig
from stableprompt.errors import NumberError
from stableprompt.models.numbers import broken_in
from stableprompt.models.training import Trainable, training_tensors
from stableprompt.ppo.rollout import Rollout
from stableprompt.tuning.monitor import Action, Alarm, Finding, Monitor


def broken_rollout(rollout: Rollout) -> str | None:
    """The first number of a rollout that is not finite; None where all are."""
    found = {f.name: getattr(rollout, f.name) for f in fields(rollout)}
    tensors = {name: one for name, one in found.items() if isinstance(one, Tensor)}
    broken = broken_in(tensors)
    return None if broken is None else f"in the rollout, {broken}"


def watch_numbers(monitor: Monitor, finding: Finding, broken: str | None) -> Finding:
    """What was found in a step, and whether all its numbers were finite.

    The learning rate is halved; in the second step in a row and later ones the policy goes back to
    the anchor, too: what it is now may be what breaks.

    Args:
        monitor: Counts it, and changes the rate; ``roll_back`` is the caller's to do.
        finding: What else was found in the step, and has been answered.
        broken: The first number that was not finite; None: all were.
    """
    if broken is None:
        # A step that had nothing to teach does not prove that one could be learned from.
        idle = finding.readings is not None and finding.readings.gradient_norm == 0
        monitor.broken_in_a_row *= idle
        return finding
    monitor.broken_in_a_row += 1
    monitor.count([Alarm.BROKEN_NUMBERS])
    wanted = [Action.LOWER_RATE]
    if monitor.broken_in_a_row > 1:
        wanted.append(Action.ROLL_BACK)
    new = [a for a in wanted if monitor.config.act and a not in finding.actions]
    monitor.answer(new)
    return replace(
        finding,
        alarms=(*finding.alarms, Alarm.BROKEN_NUMBERS),
        actions=(*finding.actions, *new),
        broken=broken,
    )


def sound_tensors(trainable: Trainable) -> dict[str, Tensor]:
    """Weights and optimizer state for a checkpoint, which never holds a broken number.

    Raises:
        NumberError: one is not finite, though no update made it so: the machine did.
    """
    tensors = training_tensors(trainable)
    broken = broken_in(tensors)
    if broken is not None:
        raise NumberError(
            f"a number that no update changed is not finite any more ({broken}); look at this "
            "machine's memory, then resume: the last checkpoint is sound"
        )
    return tensors


def note_on(finding: Finding, step: int) -> str:
    """What an observer is told of a step with broken numbers."""
    return f"step {step + 1} taught nothing, a number was not finite: {finding.broken}"


def require_sound_numbers(monitor: Monitor, finding: Finding, step: int, config: PPOConfig) -> None:
    """Check that a run whose numbers break may still go on.

    Raises:
        NumberError: they did in ``monitor.max_broken_steps`` steps in a row.
    """
    if monitor.broken_in_a_row < monitor.config.max_broken_steps:
        return
    raise NumberError(
        f"numbers were not finite in {monitor.broken_in_a_row} steps in a row, at last in step "
        f"{step + 1}: {finding.broken}; nothing was learned from them and the last checkpoint is "
        "sound: resume to go on with the next step, or start a new run with a lower "
        f"ppo.learning_rate (now {config.learning_rate:g}) or with --set dtype=float32"
    )
