"""One task as the target will see it: what it is, and a few of its examples."""

from pathlib import Path

from rich.console import Console

from stableprompt.cli.data import load_task
from stableprompt.cli.data_options import DataOptions
from stableprompt.cli.reporting import spaced, trivial_name
from stableprompt.cli.settings import parse_assignments
from stableprompt.cli.terminal import cut, on_one_line
from stableprompt.config import TargetConfig, make_config
from stableprompt.tasks.benchmarks.entries import benchmark_names, find_benchmark
from stableprompt.tasks.bundled_tasks import describe_bundled
from stableprompt.tasks.example import Example
from stableprompt.tasks.named import is_named
from stableprompt.tasks.splits import SPLIT_NAMES
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import template_of

NUM_SHOWN = 3
MOST_SHOWN = 10_000
"""Characters of a message."""


def print_card(console: Console, name: str, data_dir: Path | None, assignments: list[str]) -> None:
    """Print where a task comes from, what it asks for, and examples of it.

    Args:
        console: Where to.
        name: As on the command line.
        data_dir: Folder with the benchmarks' data.
        assignments: Settings as NAME=VALUE.

    Raises:
        DataError: there is no such task, or its data cannot be had.
        ConfigError: a setting is wrong.
    """
    settings = make_config(*parse_assignments(assignments))
    _print_origin(console, name)
    task = load_task(name, DataOptions(data_dir=data_dir), seed=settings.split_seed)
    _print_task(console, task, settings.target)


def _print_origin(console: Console, name: str) -> None:
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
        "kind": spaced(task.kind),
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
        console.print(f"note: {on_one_line(note)}")
    template = template_of(target)
    for number, example in enumerate(task.train[:NUM_SHOWN], start=1):
        console.rule(f"train example {number}", align="left", characters="-")
        for message in template.messages(task.seed_prompt, example):
            console.print(f"[{message['role']}]", style="bold")
            console.print(cut(message["content"], MOST_SHOWN), soft_wrap=True)
        right = on_one_line(_right(task, example))
        console.print(f"right answer: {right}", style="bold", soft_wrap=True)


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
            console.print(f"{name + ':':<22}{on_one_line(value)}")
