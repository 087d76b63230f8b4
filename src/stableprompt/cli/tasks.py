"""``stableprompt tasks``: what can be tuned without a file of one's own, and how it is shown."""

from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from stableprompt.cli.data import DataDirOption, DataOptions, load_task
from stableprompt.cli.reporting import make_console, one_line_errors, trivial_name
from stableprompt.cli.settings import parse_assignments
from stableprompt.config import TargetConfig, make_config
from stableprompt.errors import DataError
from stableprompt.tasks.benchmarks.entries import benchmark_names, families, find_benchmark
from stableprompt.tasks.bundled_tasks import bundled_names, describe_bundled
from stableprompt.tasks.example import Example
from stableprompt.tasks.named import is_named
from stableprompt.tasks.splits import SPLIT_NAMES
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import template_of

NUM_SHOWN = 3


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
    console = make_console()
    if name is None:
        _print_list(console)
        return
    if name.endswith("/*"):
        _print_members(console, name)
        return
    settings = make_config(*parse_assignments(assignments or []))
    _print_card(console, name)
    task = load_task(name, DataOptions(data_dir=data_dir), seed=settings.split_seed)
    _print_task(console, task, settings.target)


def _print_list(console: Console) -> None:
    table = _table("name", "kind", "data", "what it is")
    for name in bundled_names():
        table.add_row(name, "classification", "bundled", describe_bundled(name).title)
    for family in families():
        entry = find_benchmark(family.members[0])
        place = "folder, hub" if entry.hub else "folder"
        kinds = {_words(find_benchmark(member).kind) for member in family.members}
        kind = kinds.pop() if len(kinds) == 1 else "several"
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
        table.add_row(member, _words(entry.kind), entry.metric)
    console.print(table)


def _table(*columns: str) -> Table:
    """The last column wraps, the others are shown whole."""
    table = Table(box=SIMPLE, pad_edge=False, show_edge=False)
    for column in columns[:-1]:
        table.add_column(column, no_wrap=True)
    table.add_column(columns[-1])
    return table


def _words(name: str) -> str:
    return str(name).replace("_", " ")


def _print_card(console: Console, name: str) -> None:
    if name in benchmark_names():
        entry = find_benchmark(name)
        lines = {"title": entry.title, "source": entry.source, "licence": entry.licence}
        lines |= {"seed prompt from": entry.seed_prompt_from}
    elif is_named(name):
        bundled = describe_bundled(name)
        lines = {"title": bundled.title, "licence": bundled.licence, "note": bundled.description}
    else:
        return
    _print_lines(console, lines)


def _print_task(console: Console, task: Task, target: TargetConfig) -> None:
    sizes = ", ".join(f"{len(task.splits.part(split))} {split}" for split in SPLIT_NAMES)
    lines = {
        "kind": _words(task.kind),
        "metric": task.metric.name,
        "examples": sizes,
        "answers": _answers(task),
        "seed prompt": " ".join(task.seed_prompt.split()),
    }
    trivial = task.trivial_score("test")
    if trivial is not None:
        lines[trivial_name(task.kind)] = f"{trivial:.3f} on test"
    _print_lines(console, lines)
    for note in task.notes:
        console.print(f"note: {note}")
    template = template_of(target)
    for number, example in enumerate(task.train[:NUM_SHOWN], start=1):
        console.rule(f"train example {number}", align="left", characters="-")
        for message in template.messages(task.seed_prompt, example):
            console.print(f"[{message['role']}]", style="bold")
            console.print(message["content"], soft_wrap=True)
        console.print(f"right answer: {_right(task, example)}", style="bold", soft_wrap=True)


def _answers(task: Task) -> str:
    if task.verbalizer is None:
        return ", ".join(task.allowed_outputs) or "free"
    words = task.verbalizer.words.items()
    return ", ".join(word if word == label else f"{word} ({label})" for label, word in words)


def _right(task: Task, example: Example) -> str:
    return " | ".join((task.shown_answer(example), *example.others))


def _print_lines(console: Console, lines: dict[str, str]) -> None:
    for name, value in lines.items():
        if value:
            console.print(f"{name + ':':<22}{value}")
