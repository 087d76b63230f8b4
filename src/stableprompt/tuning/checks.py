"""What can be known about a run before a model is loaded; imports no torch."""

from stableprompt.config import TuneConfig
from stableprompt.errors import DataError
from stableprompt.tasks.task import Task


def require_enough_examples(task: Task, config: TuneConfig) -> None:
    """Check that the training split holds what a step draws from it.

    Raises:
        DataError: it does not.
    """
    scored, shown = config.reward.examples_per_step, config.agent.num_demonstrations
    if len(task.train) < scored + shown:
        raise DataError(
            f"the train split has {len(task.train)} examples, a step needs {scored + shown} "
            f"({scored} to score and {shown} to show); add examples, or lower "
            "reward.examples_per_step"
        )
