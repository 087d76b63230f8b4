"""``stableprompt tune``: the main job."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stableprompt.cli.absent import Command, Context
from stableprompt.cli.data_options import (
    ChoicesOption,
    DataArgument,
    DataDirOption,
    DataOptions,
    KindOption,
    LabelOption,
    LimitOption,
    MetricOption,
    TextOption,
)
from stableprompt.cli.reporting import (
    INTERRUPTED,
    ConsoleObserver,
    make_console,
    one_line_errors,
    print_summary,
    spaced,
)
from stableprompt.cli.settings import nested, parse_assignments
from stableprompt.errors import ConfigError
from stableprompt.presets import METHODS, PRESETS
from stableprompt.runs.folder import RunFolder, default_run_dir

MODES = ("never", "always", "auto")

if TYPE_CHECKING:
    from stableprompt.tasks.task import Task
    from stableprompt.tuning.records import TuneResult


class TuneCommand(Command):
    """A command whose ``--per-input`` may stand alone."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Read the command line; ``--per-input`` alone means always."""
        return super().parse_args(ctx, with_mode(args))


def with_mode(args: Sequence[str]) -> list[str]:
    """``--per-input`` with its mode behind it.

    >>> with_mode(["support", "--per-input", "--seed", "1"])
    ['support', '--per-input', 'always', '--seed', '1']
    """
    whole: list[str] = []
    for arg, behind in zip_longest(args, args[1:], fillvalue=""):
        whole.append(arg)
        # What is nearly a mode is a misspelt one, and the settings will say so.
        if arg == "--per-input" and not get_close_matches(behind, MODES):
            whole.append("always")
    return whole


@one_line_errors
def command(
    data: DataArgument = None,
    text: TextOption = None,
    label: LabelOption = None,
    choices: ChoicesOption = None,
    kind: KindOption = None,
    metric: MetricOption = None,
    data_dir: DataDirOption = None,
    limit: LimitOption = None,
    seed_prompt: Annotated[
        str | None, typer.Option(help="The prompt to start from and to beat.")
    ] = None,
    agent: Annotated[
        str | None, typer.Option(help="LLM that writes prompts: embedded name, folder or hub id.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="LLM that follows them: embedded name, folder or hub id.")
    ] = None,
    agent_adapter: Annotated[
        str | None, typer.Option(help="Writer to start from: an adapter's folder, or a run's.")
    ] = None,
    per_input: Annotated[
        str | None,
        typer.Option(metavar="[auto]", help="A prompt for each input; auto: only if it pays."),
    ] = None,
    method: Annotated[str | None, typer.Option(help=f"One of {', '.join(METHODS)}.")] = None,
    steps: Annotated[int | None, typer.Option(help="Rollouts and updates.")] = None,
    seed: Annotated[int | None, typer.Option(help="Everything random follows from it.")] = None,
    preset: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "default",
    run_dir: Annotated[
        Path | None, typer.Option(help="New folder for the results. [default: runs/DATA-TIME]")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue an interrupted run, from its folder alone.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings in TOML or YAML; flags win over it.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting, as in --set ppo.learning_rate=0.0001."),
    ] = None,
) -> None:
    """Find the best prompt for labelled examples.

    Example: stableprompt tune tickets.csv --text message --label team
    """
    models = {"agent.model": agent, "target.model": target, "agent.adapter": agent_adapter}
    models["per_input.mode"] = per_input
    flags = {"method": method, "steps": steps, "seed": seed, **models}
    layers = [nested(name, value) for name, value in flags.items() if value is not None]
    layers += parse_assignments(assignments or [])
    given = DataOptions(text, label, choices, kind, metric, data_dir, limit, seed_prompt)
    if resume is not None:
        others = any((data, config, run_dir, *layers)) or preset != "default"
        _resume(resume, given, something_else=others)
        return
    if not data:
        raise ConfigError("DATA is missing; give a file or a name that `stableprompt tasks` lists")
    _start(data, given, layers, preset=preset, config=config, run_dir=run_dir)


def _start(
    data: str,
    given: DataOptions,
    layers: list[dict[str, Any]],
    *,
    preset: str,
    config: Path | None,
    run_dir: Path | None,
) -> None:
    # These load numpy and pydantic, which --help does without.
    from stableprompt.cli.data import load_task
    from stableprompt.cli.settings_file import read_settings
    from stableprompt.config import make_config
    from stableprompt.tuning.checks import require_enough_examples

    file_settings = read_settings(config) if config else {}
    settings = make_config(file_settings, *layers, preset=preset)
    task = load_task(data, given, seed=settings.split_seed)
    require_enough_examples(task, settings)
    folder = run_dir or default_run_dir(task.name)
    RunFolder.require_free(folder)
    _introduce(task)
    _report(folder, lambda build, watcher: build.start_run(task, settings, folder, watcher))


def _resume(folder: Path, given: DataOptions, *, something_else: bool) -> None:
    from stableprompt.cli.data import custom_metric  # loads numpy, as above

    own = custom_metric(given.metric)  # the one thing that a run folder cannot hold
    # The data folder may come from the environment, so it does not count.
    others = replace(given, metric=None if own else given.metric, data_dir=None)
    if something_else or others != DataOptions():
        raise ConfigError(
            "--resume takes data and settings from the run folder; give it alone (a metric of your "
            "own aside), or start a new run without it"
        )
    RunFolder.open_unfinished(folder)
    _report(folder, lambda build, watcher: build.resume(folder, metric=own, observer=watcher))


def _report(folder: Path, run: Callable[[Any, ConsoleObserver], "TuneResult"]) -> None:
    """Run something in a folder, show how it goes, and print what came out."""
    console = make_console()
    console.print(f"run folder: {folder}")
    started = time.perf_counter()
    from stableprompt import build  # imports torch: only after everything else was in order

    try:
        result = run(build, ConsoleObserver(console))
    except KeyboardInterrupt as interrupt:
        hint = f"; continue with: stableprompt tune --resume {folder}" if folder.is_dir() else ""
        typer.echo(f"interrupted{hint}", err=True)
        raise typer.Exit(INTERRUPTED) from interrupt
    print_summary(console, result, time.perf_counter() - started)


def _introduce(task: "Task") -> None:
    console = make_console()
    sizes = ", ".join(
        f"{len(task.splits.part(name))} {name}" for name in ("train", "validation", "test")
    )
    console.print(f"task {task.name}: {spaced(task.kind)}, {task.metric.name}; {sizes}")
    if task.labels:
        console.print(f"labels: {', '.join(task.labels)}")
    for note in task.notes:
        console.print(f"note: {note}")
