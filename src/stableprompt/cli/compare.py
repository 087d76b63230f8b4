"""``stableprompt compare``: several methods on the same tasks at the same budget."""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from stableprompt.cli.absent import Command, Context
from stableprompt.cli.data_options import (
    ChoicesOption,
    DataDirOption,
    DataOptions,
    KindOption,
    LabelOption,
    LabelWordsOption,
    LimitOption,
    MetricOption,
    TextOption,
)
from stableprompt.cli.interrupts import Interrupts
from stableprompt.cli.reporting import one_line_errors
from stableprompt.cli.settings import parse_assignments
from stableprompt.cli.terminal import make_console, on_one_line, say
from stableprompt.errors import ConfigError, RunStopped
from stableprompt.presets import METHODS, flattened
from stableprompt.tasks.wording import listed

if TYPE_CHECKING:
    from rich.console import Console

    from stableprompt.cli.plan_file import PlanFile
    from stableprompt.studies.cell import Arm, CellRecord
    from stableprompt.studies.comparison import Plan
    from stableprompt.tasks.task import Task

PEER_NAMES = ("gepa", "miprov2", "capo")
_LISTS = ("--methods", "--seeds")


class ListCommand(Command):
    """A command whose lists may be written with spaces: ``--seeds 0 1 2``."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Read the command line; what follows a list, up to the next option, belongs to it."""
        return super().parse_args(ctx, _join_lists(args))


def _join_lists(args: Sequence[str]) -> list[str]:
    joined: list[str] = []
    inside = False
    for arg in args:
        if arg.startswith("-"):
            inside = arg in _LISTS
            joined.append(arg)
        elif inside and joined[-1] not in _LISTS:
            joined[-1] += f" {arg}"
        else:
            joined.append(arg)
    return joined


_OF_METHODS: Final = (
    f"Of {', '.join(METHODS)}; peers: {', '.join(PEER_NAMES)}. With settings of its own: "
    "appo:anchor.kind=fixed,ppo.learning_rate=0.003"
)


@one_line_errors
def command(
    data: Annotated[
        list[str] | None,
        typer.Argument(help="One file, hub:ID, or names of tasks (stableprompt tasks)."),
    ] = None,
    methods: Annotated[str | None, typer.Option(help=_OF_METHODS)] = None,
    seeds: Annotated[
        str | None, typer.Option(help="As in --seeds 0 1 2.", show_default="0")
    ] = None,
    budget: Annotated[
        int | None, typer.Option(help="Target calls of each run, test aside.", show_default="2000")
    ] = None,
    ours: Annotated[
        str | None,
        typer.Option(
            help="The method that the others are compared with.", show_default="the first"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the results; a comparison in it goes on.",
            show_default="runs/comparison",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Processes that share the processor's cores.", min=1)
    ] = 1,
    plan: Annotated[
        Path | None, typer.Option(help="All of this in TOML or YAML; flags win over it.")
    ] = None,
    text: TextOption = None,
    label: LabelOption = None,
    choices: ChoicesOption = None,
    kind: KindOption = None,
    metric: MetricOption = None,
    data_dir: DataDirOption = None,
    limit: LimitOption = None,
    seed_prompt: Annotated[str | None, typer.Option(help="The prompt to beat.")] = None,
    label_words: LabelWordsOption = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting, for all methods alike."),
    ] = None,
) -> None:
    """Compare methods on the same tasks, splits and number of target calls."""
    flags = {
        "tasks": data,
        "methods": methods.replace(";", " ").split() if methods else None,
        "seeds": seeds.replace(",", " ").split() if seeds else None,
        "budget": budget,
        "ours": ours,
        "out": str(out) if out else None,
        "limit": limit,
        "label_words": label_words,
    }
    own = DataOptions(text, label, choices, kind, metric, data_dir, limit, seed_prompt)
    from stableprompt.cli.plan_file import read_plan  # loads pydantic

    _run(read_plan(plan, flags), own, parse_assignments(assignments or []), workers)


def _run(told: "PlanFile", own: DataOptions, layers: list[dict[str, Any]], workers: int) -> None:
    from stableprompt.studies.comparison import finished, run_comparison  # loads torch
    from stableprompt.tuning.records import Silence

    plan = _plan(told, own, layers)
    folder = told.out
    console = make_console()
    console.print(
        f"{len(plan.tasks)} tasks x {len(plan.arms)} methods x {len(plan.seeds)} seeds, "
        f"{plan.budget} target calls each; folder: {folder}"
    )
    started = time.perf_counter()

    def tell(record: "CellRecord", done: int, total: int) -> None:
        console.print(on_one_line(_line(record, done, total)))

    with Interrupts() as interrupts:
        try:
            watcher = interrupts.watched(Silence())
            run_comparison(plan, folder, workers=workers, told=tell, observer=watcher)
        except (KeyboardInterrupt, RunStopped) as interrupt:
            say("interrupted; the same command goes on where it stopped", to_stderr=True)
            raise typer.Exit(interrupts.exit_code) from interrupt
    _write(console, finished(plan, folder), plan, told, command_of(told, own, layers))
    console.print(f"{time.perf_counter() - started:.0f} s")


def _line(record: "CellRecord", done: int, total: int) -> str:
    return (
        f"[{done}/{total}] {record.task} {record.arm} seed {record.seed}: test "
        f"{record.score:.3f} (seed prompt {record.seed_score:.3f}), {record.calls} calls, "
        f"{record.seconds:.0f} s{', collapsed' if record.collapsed else ''}"
    )


def _plan(told: "PlanFile", own: DataOptions, layers: list[dict[str, Any]]) -> "Plan":
    from stableprompt.cli.data import load_task
    from stableprompt.config import make_config, merge
    from stableprompt.studies.comparison import Plan

    settings = merge(told.settings, *layers)
    split_seed = make_config(settings).split_seed
    given = replace(own, limit=_assigned(told.limit))
    tasks = tuple(load_task(name, given, seed=split_seed) for name in told.tasks)
    tasks = _answered(tasks, told, given, split_seed)
    arms = tuple(parse_arm(name) for name in told.methods)
    if told.ours and told.ours not in [arm.name for arm in arms]:
        raise ConfigError(
            f"--ours {told.ours!r} is none of the methods: {', '.join(arm.name for arm in arms)}"
        )
    return Plan(tasks, arms, tuple(told.seeds), told.budget, settings)


def _answered(
    tasks: Sequence["Task"], told: "PlanFile", given: DataOptions, split_seed: int
) -> tuple["Task", ...]:
    """The tasks, those with words given for all of their labels loaded with these words.

    Raises:
        ConfigError: a word is for none of them.
    """
    from stableprompt.cli.data import label_words_of, load_task

    words = label_words_of(_assigned(told.label_words))
    own: list[list[str]] = []
    for task in tasks:
        covered = task.labels and words.keys() >= set(task.labels)
        own.append([f"{one}={words[one]}" for one in words if covered and one in task.labels])
    used = {label for task, mine in zip(tasks, own, strict=True) if mine for label in task.labels}
    unused = sorted(words.keys() - used)
    if unused:
        raise ConfigError(
            f"--label-words: no task takes a word for {listed(unused)}; a task takes words for all "
            "of its labels, or none"
        )
    return tuple(
        load_task(name, replace(given, label_words=mine), seed=split_seed) if mine else task
        for name, task, mine in zip(told.tasks, tasks, own, strict=True)
    )


def parse_arm(text: str) -> "Arm":
    """A method, with settings of its own behind a colon."""
    from stableprompt.config import merge
    from stableprompt.studies.cell import Arm

    method, _, given = text.partition(":")
    layers = parse_assignments([part for part in given.split(",") if part])
    return Arm(text, method, merge(*layers))


def _write(
    console: "Console",
    records: Sequence["CellRecord"],
    plan: "Plan",
    told: "PlanFile",
    command: str,
) -> None:
    from stableprompt.runs.folder import RunFolder
    from stableprompt.studies.comparison import shared_setting
    from stableprompt.studies.plots import bars_svg, curves_svg
    from stableprompt.studies.table import content_of, markdown_of

    content = content_of(
        records,
        ours=told.ours or plan.arms[0].name,
        plan=plan.to_dict(),
        setting=shared_setting(plan, told.out),
        command=command,
    )
    out = RunFolder(told.out)
    out.write_json("comparison.json", content)
    out.write_text("comparison.md", markdown_of(content))
    console.print()
    for m in sorted(content["methods"], key=lambda m: -m["mean"]):
        console.print(
            f"{m['method']:<14} {m['mean']:.3f} [{m['low']:.3f}, {m['high']:.3f}]  "
            f"{m['target_calls']:.0f} calls"
        )
    try:
        curves = {arm: [(c, s) for c, s in points] for arm, points in content["curves"].items()}
        xlabel, ylabel = "target calls", "validation score of the leader"
        out.write_text("curves.svg", curves_svg("Learning curves", curves, xlabel, ylabel))
        rows = [(m["method"], m["mean"], m["low"], m["high"]) for m in content["methods"]]
        out.write_text("methods.svg", bars_svg("Methods", rows, "test score, mean over tasks"))
    except ConfigError as error:  # without matplotlib the figures stand, the pictures do not
        console.print(f"no pictures: {error}")


def command_of(told: "PlanFile", own: DataOptions, layers: Sequence[dict[str, Any]]) -> str:
    """What makes the same comparison anew, wherever the data lies and without a plan file."""
    from stableprompt.config import merge

    words = [*told.tasks, "--methods", *told.methods, "--seeds", *map(str, told.seeds)]
    words += ["--budget", str(told.budget), "--ours", told.ours or told.methods[0]]
    for option, settled in (("--limit", told.limit), ("--label-words", told.label_words)):
        for one in _assigned(settled):
            words += [option, one]
    for name in ("text", "label", "choices", "kind", "metric", "seed_prompt"):
        given = getattr(own, name)
        for one in given if isinstance(given, list) else [given] if given else []:
            words += [f"--{name.replace('_', '-')}", one]
    for setting, value in flattened(merge(told.settings, *layers)).items():
        words += ["--set", f"{setting}={'null' if value is None else value}"]
    return shlex.join(["stableprompt", "compare", *words])


def _assigned(given: Mapping[str, object] | list[str]) -> list[str]:
    """A table of a plan file as the flag of the same name is written.

    Raises:
        ConfigError: a value could not be told from its name there.
    """
    for value in given.values() if isinstance(given, Mapping) else ():
        if "=" in str(value):
            raise ConfigError(f"{str(value)!r} holds the sign =; give another word")
    return given if isinstance(given, list) else [f"{k}={value}" for k, value in given.items()]
