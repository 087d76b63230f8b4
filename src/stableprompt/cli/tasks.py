"""``stableprompt tasks``: what can be tuned without a file of one's own, and how it is shown."""

from typing import Annotated

import typer

from stableprompt.cli.data_options import DataDirOption
from stableprompt.cli.reporting import one_line_errors
from stableprompt.cli.terminal import make_console


@one_line_errors
def command(
    name: Annotated[
        str | None, typer.Argument(help="Show this task: what it is, and examples of it.")
    ] = None,
    data_dir: DataDirOption = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting, as in --set target.position=user."),
    ] = None,
) -> None:
    """List the tasks by name, or show one with three examples as the target will see them.

    Example: stableprompt tasks support
    """
    # A listing does without numpy and pydantic, and help without either file.
    if name is None or name.endswith("/*"):
        from stableprompt.cli.task_list import print_list

        print_list(make_console(), name)
    else:
        from stableprompt.cli.task_card import print_card

        print_card(make_console(), name, data_dir, assignments or [])
