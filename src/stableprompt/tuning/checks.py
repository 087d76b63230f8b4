"""What can be known about a run before a model is loaded; imports no torch."""

from stableprompt.config import TuneConfig
from stableprompt.errors import DataError
from stableprompt.tasks.task import Task


def require_enough_examples(task: Task, config: TuneConfig) -> None:
    """Check that the training split holds what a step draws from it.

    Raises:
        DataError: it does not.
    """
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
