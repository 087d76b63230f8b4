"""``stableprompt tasks``: what can be tuned without a file of one's own."""

from rich.table import Table

from stableprompt.cli.reporting import make_console, one_line_errors
from stableprompt.tasks.bundled_tasks import bundled_names, describe_bundled


@one_line_errors
def command() -> None:
    """List the bundled tasks."""
    table = Table("name", "what it is", "labels", "train / validation / test")
    for name in bundled_names():
        task = describe_bundled(name)
        sizes = " / ".join(str(size) for size in task.sizes.values())
        table.add_row(name, task.title, ", ".join(task.labels), sizes)
    make_console().print(table)
