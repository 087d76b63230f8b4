"""DATA on the command line and the options beside it, as ``--help`` shows them.

What they lead to is in ``data.py``, which loads numpy: help does without.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

DATA: Any = typer.Argument(
    help="CSV, TSV, JSON, JSON Lines or Parquet file, task.json of a run, hub:ID of a data set, or "
    "the name of a task (stableprompt tasks)."
)
DataArgument = Annotated[str | None, DATA]
TextOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Column of the inputs; several times for inputs of several fields.",
        show_default="by common names",
    ),
]
LabelOption = Annotated[
    str | None, typer.Option(help="Column of the right answers.", show_default="by common names")
]
ChoicesOption = Annotated[
    str | None, typer.Option(help="Column of the choices, for multiple choice.")
]
KindOption = Annotated[
    str | None,
    typer.Option(
        help="classification, multiple_choice or generation.",
        show_default="multiple_choice where there are choices, else classification",
    ),
]
MetricOption = Annotated[
    str | None,
    typer.Option(
        help="What is measured: a name, or MODULE:FUNCTION of your own.",
        show_default="by the kind",
    ),
]
DataDirOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder with the benchmarks' data; else the hub.", envvar="STABLEPROMPT_DATA"
    ),
]
LimitOption = Annotated[
    list[str] | None, typer.Option(help="At most so many examples, as in --limit test=200.")
]

LabelWordsOption = Annotated[
    list[str] | None,
    typer.Option(
        help="What the target should answer for a label, once for each, as in "
        "--label-words 0=no --label-words 1=yes.",
        show_default="the labels; of a named task its own",
    ),
]


@dataclass(frozen=True, slots=True)
class DataOptions:
    """What the options above were given."""

    text: list[str] | None = None
    label: str | None = None
    choices: str | None = None
    kind: str | None = None
    metric: str | None = None
    data_dir: Path | None = None
    limit: list[str] | None = None
    seed_prompt: str | None = None
    label_words: list[str] | None = None
