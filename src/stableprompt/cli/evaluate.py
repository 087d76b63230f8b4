"""``stableprompt evaluate``: the score of one prompt, with its interval."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from stableprompt.cli.data import load_task
from stableprompt.cli.reporting import figure, make_console, one_line_errors
from stableprompt.cli.settings import nested, parse_assignments
from stableprompt.config import TuneConfig, make_config, merge
from stableprompt.errors import ConfigError
from stableprompt.runs.folder import CONFIG, RESULT, RunFolder


@one_line_errors
def command(
    data: Annotated[
        str, typer.Argument(help="CSV, TSV, JSON, JSON Lines or Parquet file, or a bundled task.")
    ],
    prompt: Annotated[str | None, typer.Option(help="The prompt to score.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="Score the prompt that this run found, as it scored it.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="LLM that follows it: embedded name, folder or hub id.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Column of the texts.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the labels.")] = None,
    split: Annotated[
        Literal["train", "validation", "test"], typer.Option(help="Which examples.")
    ] = "test",
    seed: Annotated[
        int | None,
        typer.Option(
            help="Of the split, where DATA has no split column. [default: the run's, or 0]"
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting, as in --set dtype=float32.")
    ] = None,
) -> None:
    """Score one prompt on labelled examples.

    Example: stableprompt evaluate support --prompt "Which team should answer this?"
    """
    if (prompt is None) == (run is None):
        raise ConfigError("give either --prompt TEXT or --run RUN_DIR")
    layers = parse_assignments(assignments or [])
    if target is not None:
        layers.append(nested("target.model", target))
    if prompt is not None and not prompt.strip():
        raise ConfigError("the prompt is empty; give the text to score")
    make_config(*layers)  # a typing error shows before a model is loaded
    settings = merge(*layers)
    if run is not None:
        used, result = read_run(run)
        prompt = str(result["prompt"])
        # The run's own seed, so that its training rows are not in the split that is scored.
        seed = used.seed if seed is None else seed
        settings = merge({"target": used.target.model_dump(), "dtype": used.dtype}, settings)
    task = load_task(data, text=text, label=label, seed_prompt=None, seed=seed or 0)
    from stableprompt import build

    estimate = build.evaluate(task, str(prompt), split=split, **settings)
    make_console().print(
        f"{estimate.metric} on {split}: {figure(estimate)}; majority class "
        f"{task.majority_share(split):.3f}"
    )


def read_run(run_dir: Path) -> tuple[TuneConfig, dict[str, object]]:
    """Configuration and result of a finished run.

    Raises:
        RunError: it is no run folder, or the run is not finished.
    """
    folder = RunFolder.open(run_dir)
    return make_config(folder.read_json(CONFIG)), folder.read_json(RESULT)
