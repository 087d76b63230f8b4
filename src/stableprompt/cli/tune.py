"""``stableprompt tune``: the main job."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stableprompt.cli.absent import Command, Context
from stableprompt.cli.data_options import (
    ChoicesOption,
    DataArgument,
    DataDirOption,
    DataOptions,
    KindOption,
    LabelOption,
    LabelWordsOption,
    LimitOption,
    MetricOption,
    TextOption,
)
from stableprompt.cli.machine_options import machine_order
from stableprompt.cli.reporting import one_line_errors
from stableprompt.cli.run_options import (
    AdapterOption,
    AgentOption,
    ChangedOkOption,
    ConfigOption,
    DryRunOption,
    JsonOption,
    MethodOption,
    PerInputOption,
    PresetOption,
    QuietOption,
    ReportToOption,
    ResumeOption,
    RunDirOption,
    SeedOption,
    SeedPromptOption,
    SetOption,
    StepsOption,
)
from stableprompt.cli.running import bounds_of, run_and_tell
from stableprompt.cli.settings import nested, parse_assignments
from stableprompt.cli.target_options import (
    BaseUrlOption,
    EngineOption,
    LimitOptions,
    MaxCallsOption,
    MaxCostOption,
    MaxTimeOption,
    MaxTokensOption,
    TargetOption,
    settings_of_ray,
    target_layers,
)
from stableprompt.cli.voices import Voice, choose_voice
from stableprompt.errors import ConfigError
from stableprompt.launched import process_number
from stableprompt.runs.folder import CONFIG, TASK, RunFolder, default_run_dir
from stableprompt.trackers import TRACKERS, require_trackers

MODES = ("never", "always", "auto")
_OF_REAL_RUNS = ("dry_run", "report_to", "run_dir", "resume", "changed_ok")
_REPORT = "--report-to"

if TYPE_CHECKING:
    from stableprompt.cli.live import Bounds
    from stableprompt.scaling.machines import MachineOrder
    from stableprompt.tasks.archive import CustomMetric
    from stableprompt.tuning.records import Observer, TuneResult


class TuneCommand(Command):
    """A command whose ``--per-input`` may stand alone, and ``--report-to`` take several names."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Read the command line; ``--per-input`` alone means always."""
        return super().parse_args(ctx, with_trackers(with_mode(args)))


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


def with_trackers(args: Sequence[str]) -> list[str]:
    """``--report-to`` before each name behind it.

    >>> with_trackers(["--report-to", "wandb", "mlflow", "support"])
    ['--report-to', 'wandb', '--report-to', 'mlflow', 'support']
    """
    whole: list[str] = []
    inside = False
    for arg in args:
        if inside and arg in TRACKERS and whole[-1] != _REPORT:
            whole.append(_REPORT)
        inside = arg == _REPORT or (inside and arg in TRACKERS)
        whole.append(arg)
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
    label_words: LabelWordsOption = None,
    agent: AgentOption = None,
    target: TargetOption = None,
    base_url: BaseUrlOption = None,
    target_engine: EngineOption = None,
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
    report_to: ReportToOption = None,
    run_dir: RunDirOption = None,
    resume: ResumeOption = None,
    changed_ok: ChangedOkOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
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
    own = DataOptions(text, label, choices, kind, metric, data_dir, limit, seed_prompt, label_words)
    require_trackers(report_to or [])
    voice = choose_voice(quiet=quiet, as_json=as_json)
    if resume is not None:
        ray = settings_of_ray(parse_assignments(assignments or []))
        others = any((data, config, run_dir, dry_run, target_engine, ray is None, *layers))
        again = Again(resume, limits, base_url, ray or {}, changed_ok, report_to or [], voice)
        _resume(again, own, target, something_else=others or preset != "default")
        return
    if changed_ok:
        raise ConfigError("--changed-ok is for --resume; a new run has nothing that could differ")
    if not data:
        raise ConfigError("DATA is missing; give a file or a name that `stableprompt tasks` lists")
    of_target, function = target_layers(target, base_url, limits, target_engine)
    layers += [*of_target, *parse_assignments(assignments or [])]
    order = Order(own, layers, function, preset, config, run_dir, report_to or [], voice)
    _start(data, order, dry_run=dry_run)


def _estimate_of(tune: Callable[..., None]) -> Callable[..., None]:
    """The command that takes the options of ``tune`` and only says what the run would cost."""
    signature = inspect.signature(tune)
    kept = {n: p for n, p in signature.parameters.items() if n not in _OF_REAL_RUNS}
    machines = inspect.signature(machine_order).parameters

    @one_line_errors
    def estimate(**options: Any) -> None:
        order = machine_order(**{name: options.pop(name) for name in machines})
        tune(**options, dry_run=order or True)

    estimate.__doc__ = (
        "Say what a run would cost, before a single call: calls, tokens, dollars, time.\n\n"
        "Example: stableprompt estimate tickets.csv --text message --label team --max-cost 2\n\n"
        "For other machines: stableprompt estimate support --on h100 --agent-size llama-3-8b "
        "--target-on 8xh200 --target-size llama-3-405b"
    )
    kept |= machines
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
    report_to: list[str]
    voice: Voice


def _start(data: str, order: Order, *, dry_run: "bool | MachineOrder") -> None:
    # These load numpy and pydantic, which --help does without.
    from stableprompt.cli.data import load_task
    from stableprompt.cli.settings_file import read_settings
    from stableprompt.config import make_config
    from stableprompt.models.targets.providers import require_no_slip
    from stableprompt.tuning.checks import require_enough_examples

    file_settings = read_settings(order.config) if order.config else {}
    settings = make_config(file_settings, *order.layers, preset=order.preset)
    task = load_task(data, order.given, seed=settings.split_seed)
    require_enough_examples(task, settings)
    require_no_slip(settings.target)
    folder = order.run_dir or default_run_dir(task.name)  # that of the first process counts
    if process_number() == 0:
        RunFolder.require_free(folder)
    voice, function = order.voice, order.function
    voice.introduce(task)
    if dry_run is True:
        with voice.estimating() as observer:
            from stableprompt.estimating import estimate_run  # imports torch

            found = estimate_run(task, settings, observer, function=function)
        voice.show_estimate(found)
        return
    if dry_run:
        from stableprompt.planning.plan import plan_run  # the same

        voice.show_plan(plan_run(task, settings, dry_run))
        return
    run_and_tell(
        folder,
        lambda build, watcher: build.start_run(task, settings, folder, watcher, function=function),
        voice,
        lambda: bounds_of(task, settings),
        order.report_to,
    )


@dataclass(frozen=True)
class Again:
    """How a run is to go on."""

    folder: Path
    limits: LimitOptions
    base_urls: Sequence[str] | None
    """Where the target answers now."""
    ray: dict[str, Any]
    """Settings of its Ray actors, to change."""
    changed_ok: bool
    report_to: Sequence[str]
    voice: Voice


def _resume(again: Again, given: DataOptions, target: str | None, *, something_else: bool) -> None:
    from stableprompt.cli.data import custom_metric  # loads numpy, as above

    own = custom_metric(given.metric)  # what a run folder cannot hold: functions
    function = target_layers(target, None, LimitOptions())[1]
    if function is not None and again.ray:
        raise ConfigError("Ray actors hold a checkpoint; leave --set target.ray... out")
    something_else = something_else or (target is not None and function is None)
    # The data folder may come from the environment, so it does not count.
    others = replace(given, metric=None if own else given.metric, data_dir=None)
    if something_else or others != DataOptions():
        raise ConfigError(
            "--resume takes data and settings from the run folder; give it alone (limits, "
            "--base-url, --set target.ray.actors=... and the like, and functions of your own "
            "aside), or start a new run without it"
        )
    if process_number() == 0:  # others may be on a machine that has no such folder
        RunFolder.open_unfinished(again.folder)
    options = {
        "limits": again.limits.settings(),
        "base_url": again.base_urls or None,
        "changed_ok": again.changed_ok,
    }

    def run(build: Any, watcher: "Observer") -> "TuneResult":
        target = {"ray": again.ray} if again.ray else function
        resumed: TuneResult = build.resume(
            again.folder, metric=own, target=target, observer=watcher, **options
        )
        return resumed

    run_and_tell(
        again.folder, run, again.voice, lambda: _bounds_in(again.folder, own), again.report_to
    )


def _bounds_in(path: Path, metric: "CustomMetric | None") -> "Bounds":
    """What the run in a folder will not exceed."""
    from stableprompt.config import make_config
    from stableprompt.tasks.archive import unchecked_task

    folder = RunFolder.open(path)
    task = unchecked_task(folder.read_json(TASK), metric)
    return bounds_of(task, make_config(folder.read_json(CONFIG)))
