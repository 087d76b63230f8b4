"""``stableprompt evaluate``: the score of one prompt, with its interval."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stableprompt.cli.data_options import (
    DATA,
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
from stableprompt.cli.reporting import one_line_errors
from stableprompt.cli.run_options import JsonOption
from stableprompt.cli.settings import parse_assignments
from stableprompt.cli.target_options import (
    BaseUrlOption,
    EngineOption,
    LimitOptions,
    TargetOption,
    target_layers,
)
from stableprompt.cli.voices import Voice, choose_voice
from stableprompt.errors import ConfigError, RunError
from stableprompt.runs.folder import CONFIG, RESULT, TASK, RunFolder

if TYPE_CHECKING:
    from stableprompt.tasks.archive import CustomMetric
    from stableprompt.tasks.task import Task


Split = Literal["train", "validation", "test"]


@one_line_errors
def command(
    data: Annotated[str, DATA],
    prompt: Annotated[str | None, typer.Option(help="The prompt to score.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="Score the prompt that this run found, as it scored it.")
    ] = None,
    target: TargetOption = None,
    base_url: BaseUrlOption = None,
    target_engine: EngineOption = None,
    text: TextOption = None,
    label: LabelOption = None,
    choices: ChoicesOption = None,
    kind: KindOption = None,
    metric: MetricOption = None,
    data_dir: DataDirOption = None,
    limit: LimitOption = None,
    label_words: LabelWordsOption = None,
    split: Annotated[Split, typer.Option(help="Which examples.")] = "test",
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting, as in --set dtype=float32.")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print the score alone; errors go to stderr.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Score one prompt on labelled examples.

    Example: stableprompt evaluate support --prompt "Which team should answer this?"
    """
    if (prompt is None) == (run is None):
        raise ConfigError("give either --prompt TEXT or --run RUN_DIR")
    of_target, function = target_layers(target, base_url, LimitOptions(), target_engine)
    layers = [*parse_assignments(assignments or []), *of_target]
    if prompt is not None and not prompt.strip():
        raise ConfigError("the prompt is empty; give the text to score")
    columns = (text, label, choices, kind, metric, data_dir)
    options = DataOptions(*columns, limit, label_words=label_words)
    voice = choose_voice(quiet=quiet, as_json=as_json)
    asked = (prompt, run, split)
    _evaluate(data, options, layers, asked, function=function, voice=voice)


def _evaluate(
    data: str,
    options: DataOptions,
    layers: list[dict[str, Any]],
    asked: tuple[str | None, Path | None, Split],
    *,
    function: Any,
    voice: Voice,
) -> None:
    # These load numpy and pydantic, which --help does without.
    from stableprompt.cli.data import custom_metric, load_task
    from stableprompt.config import make_config, merge
    from stableprompt.tasks.archive import unseen
    from stableprompt.tasks.notes import notes_on_prompt

    prompt, run, split = asked
    settings = make_config(*layers)  # a typing error shows before a model is loaded
    given = merge(*layers)
    if run is None:
        task = load_task(data, options, seed=settings.split_seed)
    else:
        own = custom_metric(options.metric)
        if options.metric is not None and own is None:
            raise ConfigError("--run scores by the metric of the run; leave --metric out")
        if options.label_words:
            raise ConfigError("--run scores by the label words of the run; leave --label-words out")
        prompt, used, as_in_run = _as_in_run(run, own)
        task = load_task(data, options, seed=settings.split_seed, like=used)
        task = unseen(task, used, split)
        given = merge(as_in_run, given)
    from stableprompt import evaluating

    task = replace(task, seed_prompt=str(prompt))  # what is wrong with it shows before torch does
    if function is not None:
        given = merge(given, {"target": {"model": function}})
    with voice.scoring() as observer:
        for note in (*task.notes, *notes_on_prompt(task.seed_prompt, task.fields)):
            observer.on_note(note)
        score = evaluating.evaluate(task, str(prompt), split=split, observer=observer, **given)
    voice.show_score(score, task, split)


def _as_in_run(run_dir: Path, metric: "CustomMetric | None") -> tuple[str, "Task", dict[str, Any]]:
    """A finished run's prompt, its task, and how it was scored.

    Raises:
        RunError: it is no run folder, or the run is not finished.
        ConfigError: the run has a metric of the user's own, and it was not given.
    """
    from stableprompt.config import make_config
    from stableprompt.tasks.archive import task_from_dict

    folder = RunFolder.open(run_dir)
    result = folder.read_json(RESULT)
    used = make_config(folder.read_json(CONFIG))
    task = task_from_dict(folder.read_json(TASK), metric)
    try:
        # The longest answer may have been derived from the run's own training split.
        room = result["setting"].get("max_answer_tokens") or None
        prompt = result["prompt"]
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{run_dir / RESULT} cannot be read ({type(error).__name__}: {error}); it is damaged"
        ) from error
    if not isinstance(prompt, str) or not prompt.strip():
        raise RunError(f"{run_dir / RESULT} holds no prompt; it is damaged")
    target = {**used.target.model_dump(), "max_answer_tokens": room}
    held = {name: getattr(used, name) for name in ("dtype", "device", "attention", "quantize")}
    settings = {"target": target, "judge": used.judge.model_dump(), **held}
    return prompt, task, settings
