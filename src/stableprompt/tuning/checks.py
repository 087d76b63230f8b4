"""What can be known about a run before a model is loaded; imports no torch."""

from stableprompt.config import TuneConfig
from stableprompt.errors import ConfigError, DataError
from stableprompt.tasks.task import Task


def without_decisions(config: TuneConfig) -> str | None:
    """A note where a run has an adaptive anchor and is too short for a decision about it."""
    adaptive = config.anchor.kind == "adaptive" and config.ppo.learning
    if not adaptive or not 0 < config.steps < config.anchor.update_period:
        return None
    return (
        f"no anchor decision falls into {config.steps} steps (anchor.update_period is "
        f"{config.anchor.update_period}): the policy is held to where it began; for a decision "
        f"give --set anchor.update_period={config.steps}, or more steps"
    )


def require_enough_examples(task: Task, config: TuneConfig) -> None:
    """Check that the training split holds what a step draws from it.

    Raises:
        DataError: it does not.
        ConfigError: the metric cannot say what a prompt for a single input is worth.
    """
    if config.per_input.wanted and task.metric.together is not None:
        raise ConfigError(
            f"the metric {task.metric.name!r} is no mean over examples: prompts for single inputs "
            "cannot be compared by it; choose another --metric"
        )
    scored, shown = config.examples_per_step, config.agent.num_demonstrations
    found = len(task.train)
    if found >= scored + shown or not config.steps:
        return
    lower = f"--set reward.examples_per_step={max(1, found - min(shown, found // 2))}"
    if found <= shown:
        lower += f" --set agent.num_demonstrations={max(1, found // 2)}"
    raise DataError(
        f"the train split has {found} examples, a step needs {scored + shown} ({scored} to score "
        f"and {shown} to show); add examples, or lower that: {lower}"
    )
