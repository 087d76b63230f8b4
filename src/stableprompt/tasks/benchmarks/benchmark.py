"""What a benchmark is: a task under a name, and where its rows are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from stableprompt.tasks.example import TaskKind
from stableprompt.tasks.splits import SplitName

PROMPT_ORIGINS: Final = ("paper's code", "Honovich et al.", "BIG-bench", "ours")


@dataclass(frozen=True, slots=True)
class LocalSource:
    """Where the rows lie below a data folder.

    Attributes:
        files: Split -> path from the data folder; ``{fold}`` stands for one of ``folds``.
        folds: The seeds of the few-shot draws that the folder has; empty where it has one draw.
        text_pattern: The layout in which ``text`` holds all fields; None where each has a column.
    """

    files: Mapping[str, str]
    folds: tuple[int, ...] = ()
    text_pattern: str | None = None


@dataclass(frozen=True, slots=True)
class HubSource:
    """Where the rows are on the hub.

    Attributes:
        id: The data set, ``owner/name``.
        config: Its configuration, if it has several.
        splits: Our split -> its split.
        columns: Our column -> its column, where they differ.
        shots: Examples a label that are drawn for train, and as many for validation, from the
            train split; None: splits are taken as they are.
    """

    id: str
    config: str | None
    splits: Mapping[SplitName, str]
    columns: Mapping[str, str]
    shots: int | None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: What the user asks for, such as ``sst2`` or ``mmlu/anatomy``.
        title: A few words.
        kind: What the target is asked for.
        source: Who made it, and where it is described.
        licence: Of the rows, as far as known.
        metric: What is measured.
        seed_prompt: Where tuning starts.
        seed_prompt_from: Who wrote it, one of ``PROMPT_ORIGINS``.
        text: The columns of the input.
        label: The column of the label, of the right choice's number, or of the references.
        choices: The column of the choices, multiple choice only.
        local: Where the rows lie below a data folder.
        hub: Where they are on the hub; None if no copy is known.
        label_words: Label -> label word, classification only.
        input_format: The layout of the input; None for one field as it is.
        choice_style: How choices are shown and answered, multiple choice only.
        limit: Split -> most examples.
        max_answer_tokens: Longest answer, generation only.
        filters: Split -> column -> the value that its rows must have.
        input_is_no_answer: Whether answers that repeat the input are taken out of the references.
        note: What is peculiar about it, "" for nothing.
    """

    name: str
    title: str
    kind: TaskKind
    source: str
    licence: str
    metric: str
    seed_prompt: str
    seed_prompt_from: str
    text: tuple[str, ...]
    label: str
    choices: str | None
    local: LocalSource
    hub: HubSource | None
    label_words: Mapping[str, str] | None
    input_format: str | None
    choice_style: str | None
    limit: Mapping[str, int]
    max_answer_tokens: int | None
    filters: Mapping[str, Mapping[str, str]]
    input_is_no_answer: bool
    note: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that every row must have."""
        return (*self.text, self.label, *([self.choices] if self.choices else []))
