"""The tasks by name, as tables. Imports neither numpy nor pydantic: a listing answers at once."""

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from stableprompt.cli.reporting import spaced
from stableprompt.errors import DataError
from stableprompt.tasks.benchmarks.entries import families, find_benchmark, kinds_of
from stableprompt.tasks.bundled_cards import bundled_names, bundled_title


def print_list(console: Console, family: str | None) -> None:
    """Print the members of a family of tasks, or all tasks, one line a family.

    Raises:
        DataError: there is no such family.
    """
    if family is None:
        _print_all(console)
    else:
        _print_members(console, family)


def _print_all(console: Console) -> None:
    table = _table("name", "kind", "data", "what it is")
    for name in bundled_names():
        table.add_row(name, "classification", "bundled", bundled_title(name))
    for family in families():
        entry = find_benchmark(family.members[0])
        place = "folder, hub" if entry.hub else "folder"
        kinds = kinds_of(family.members)
        kind = spaced(kinds.pop()) if len(kinds) == 1 else "several"
        table.add_row(family.name, kind, place, family.title)
    console.print(table)
    console.print(
        "`stableprompt tasks 'ii/*'` lists a family, `stableprompt tasks NAME` shows one task. "
        "Where the data is in a folder, name it with --data-dir."
    )


def _print_members(console: Console, name: str) -> None:
    members = [member for f in families() if f.name == name for member in f.members]
    if not members:
        raise DataError(f"no family of tasks {name!r}; `stableprompt tasks` lists them")
    table = _table("name", "kind", "metric")
    for member in members:
        entry = find_benchmark(member)
        table.add_row(member, spaced(entry.kind), entry.metric)
    console.print(table)


def _table(*columns: str) -> Table:
    """The last column wraps, the others are shown whole."""
    table = Table(box=SIMPLE, pad_edge=False, show_edge=False)
    for column in columns[:-1]:
        table.add_column(column, no_wrap=True)
    table.add_column(columns[-1])
    return table
