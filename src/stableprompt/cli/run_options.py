"""How a run goes, on the command line: agent, method, seed, where it is kept."""

from pathlib import Path
from typing import Annotated

import typer

from stableprompt.cli.target_options import DEFAULTS
from stableprompt.presets import METHODS, PRESETS
from stableprompt.trackers import TRACKERS

SeedPromptOption = Annotated[
    str | None,
    typer.Option(
        help="The prompt to start from and to beat.",
        show_default="a plain one that lists the labels",
    ),
]
AgentOption = Annotated[
    str | None,
    typer.Option(
        help="LLM that writes prompts: embedded name, folder or hub id.",
        show_default=DEFAULTS["agent.model"],
    ),
]
AdapterOption = Annotated[
    str | None,
    typer.Option(
        help="Writer to start from: an adapter's folder, or a run's.",
        show_default="of the embedded model one that is bundled; else none",
    ),
]
PerInputOption = Annotated[
    str | None,
    typer.Option(metavar="[auto]", help="A prompt for each input; auto: only if it pays."),
]
MethodOption = Annotated[
    str | None,
    typer.Option(help=f"One of {', '.join(METHODS)}.", show_default=DEFAULTS["method"]),
]
StepsOption = Annotated[
    int | None, typer.Option(help="Rollouts and updates.", show_default=DEFAULTS["steps"])
]
SeedOption = Annotated[
    int | None,
    typer.Option(help="Everything random follows from it.", show_default=DEFAULTS["seed"]),
]
PresetOption = Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Only say what it would cost; see estimate.")
]
ReportToOption = Annotated[
    list[str] | None,
    typer.Option(metavar="TRACKER", help=f"Send the figures to {', '.join(TRACKERS)}."),
]
RunDirOption = Annotated[
    Path | None, typer.Option(help="New folder for the results.", show_default="runs/DATA-TIME")
]
ResumeOption = Annotated[
    Path | None, typer.Option(help="Continue an interrupted run, from its folder alone.")
]
ChangedOkOption = Annotated[
    bool, typer.Option("--changed-ok", help="Resume although something changed since it began.")
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print the prompt alone; errors go to stderr.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object a line for each event.")
]
ConfigOption = Annotated[
    Path | None, typer.Option(help="Settings in TOML, YAML or JSON; flags win over it.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any setting, as in --set ppo.learning_rate=0.0001."),
]
