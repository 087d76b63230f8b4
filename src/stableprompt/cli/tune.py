"""``stableprompt tune``: the main job."""

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from stableprompt.cli.run_options import (
    AdapterOption,
    AgentOption,
    ConfigOption,
    DryRunOption,
    MethodOption,
    PerInputOption,
    PresetOption,
    ResumeOption,
    RunDirOption,
    SeedOption,
    SeedPromptOption,
    SetOption,
    StepsOption,
)
from stableprompt.cli.settings import nested, parse_assignments
from stableprompt.cli.target_options import (
    BaseUrlOption,
    LimitOptions,
    MaxCallsOption,
    MaxCostOption,
    MaxTimeOption,
    MaxTokensOption,
    TargetOption,
    target_layers,
)
from stableprompt.errors import ConfigError
from stableprompt.runs.folder import RunFolder, default_run_dir

MODES = ("never", "always", "auto")
_OF_REAL_RUNS = ("dry_run", "run_dir", "resume")

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
    seed_prompt: SeedPromptOption = None,
    agent: AgentOption = None,
    target: TargetOption = None,
    base_url: BaseUrlOption = None,
    agent_adapter: AdapterOption = None,
    per_input: PerInputOption = None,
    method: MethodOption = None,
    steps: StepsOption = None,
    seed: SeedOption = None,
    preset: PresetOption = "default",
    max_target_calls: MaxCallsOption = None,
    max_cost: MaxCostOption = None,
    max_tokens: MaxTokensOption = None,
    max_time: MaxTimeOption = None,
    dry_run: DryRunOption = False,
    run_dir: RunDirOption = None,
    resume: ResumeOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Find the best prompt for labelled examples.

    Example: stableprompt tune tickets.csv --text message --label team
    """
    models = {"agent.model": agent, "agent.adapter": agent_adapter, "per_input.mode": per_input}
    flags = {"method": method, "steps": steps, "seed": seed, **models}
    layers = [nested(name, value) for name, value in flags.items() if value is not None]
    limits = LimitOptions(max_target_calls, max_cost, max_tokens, max_time)
    given = DataOptions(text, label, choices, kind, metric, data_dir, limit, seed_prompt)
    if resume is not None:
        layers += parse_assignments(assignments or [])
        others = any((data, config, run_dir, base_url, dry_run, *layers)) or preset != "default"
        _resume(resume, given, target, limits, something_else=others)
        return
    if not data:
        raise ConfigError("DATA is missing; give a file or a name that `stableprompt tasks` lists")
    of_target, function = target_layers(target, base_url, limits)
    layers += [*of_target, *parse_assignments(assignments or [])]
    order = Order(given, layers, function, preset=preset, config=config, run_dir=run_dir)
    _start(data, order, dry_run=dry_run)


def _estimate_of(tune: Callable[..., None]) -> Callable[..., None]:
    """The command that takes the options of ``tune`` and only says what the run would cost."""
    signature = inspect.signature(tune)
    kept = {n: p for n, p in signature.parameters.items() if n not in _OF_REAL_RUNS}

    def estimate(**options: Any) -> None:
        tune(**options, dry_run=True)

    estimate.__doc__ = (
        "Say what a run would cost, before a single call: calls, tokens, dollars, time.\n\n"
        "Example: stableprompt estimate tickets.csv --text message --label team --max-cost 2"
    )
    estimate.__annotations__ = {name: p.annotation for name, p in kept.items()}
    vars(estimate)["__signature__"] = signature.replace(parameters=list(kept.values()))
    return estimate


estimate = _estimate_of(command)


@dataclass(frozen=True)
class Order:
    """What the command line asks for beside the data."""

    given: DataOptions
    layers: list[dict[str, Any]]
    function: Any
    """The target, where it is a function."""
    preset: str
    config: Path | None
    run_dir: Path | None


def _start(data: str, order: Order, *, dry_run: bool) -> None:
    # These load numpy and pydantic, which --help does without.
    from stableprompt.cli.data import load_task
    from stableprompt.cli.settings_file import read_settings
    from stableprompt.config import make_config
    from stableprompt.tuning.checks import require_enough_examples

    file_settings = read_settings(order.config) if order.config else {}
    settings = make_config(file_settings, *order.layers, preset=order.preset)
    task = load_task(data, order.given, seed=settings.split_seed)
    require_enough_examples(task, settings)
    folder = order.run_dir or default_run_dir(task.name)
    RunFolder.require_free(folder)
    _introduce(task)
    function = order.function
    if dry_run:
        from stableprompt.cli.estimate import report

        report(task, settings, function)
        return
    _report(
        folder,
        lambda build, watcher: build.start_run(task, settings, folder, watcher, function=function),
    )


def _resume(
    folder: Path,
    given: DataOptions,
    target: str | None,
    limits: LimitOptions,
    *,
    something_else: bool,
) -> None:
    from stableprompt.cli.data import custom_metric  # loads numpy, as above

    own = custom_metric(given.metric)  # what a run folder cannot hold: functions
    function = target_layers(target, None, LimitOptions())[1]
    something_else = something_else or (target is not None and function is None)
    # The data folder may come from the environment, so it does not count.
    others = replace(given, metric=None if own else given.metric, data_dir=None)
    if something_else or others != DataOptions():
        raise ConfigError(
            "--resume takes data and settings from the run folder; give it alone (limits and "
            "functions of your own aside), or start a new run without it"
        )
    RunFolder.open_unfinished(folder)
    raised = limits.settings()

    def run(build: Any, watcher: ConsoleObserver) -> "TuneResult":
        resumed: TuneResult = build.resume(
            folder, metric=own, target=function, limits=raised, observer=watcher
        )
        return resumed

    _report(folder, run)


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
