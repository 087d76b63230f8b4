"""The tasks that come with the package: ``bundled/NAME/`` with a card and ``data.jsonl``.

``data.jsonl`` has one ``{"text", "label", "split"}`` per line.
"""

from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

from stableprompt.tasks.bundled_cards import place_of, read_card
from stableprompt.tasks.loading import LoadOptions
from stableprompt.tasks.splits import SPLIT_NAMES
from stableprompt.tasks.table import read_jsonl
from stableprompt.tasks.task import Task

_DATA: Final = "data.jsonl"


@dataclass(frozen=True, slots=True)
class BundledDescription:
    """What a bundled task is.

    Attributes:
        name: What ``load_bundled`` takes.
        title: A few words.
        description: Where the examples come from and what is asked.
        licence: Of the examples.
        sizes: Split -> number of examples.
        labels: In the order of their class index.
    """

    name: str
    title: str
    description: str
    licence: str
    sizes: dict[str, int]
    labels: tuple[str, ...]


def load_bundled(
    name: str, folder: Traversable | None = None, *, overrides: LoadOptions | None = None
) -> Task:
    """Load a bundled task.

    Args:
        name: One of ``bundled_names``.
        folder: Where they lie; the package's own folder by default.
        overrides: Options that win over those of the task.

    Raises:
        DataError: no bundled task has this name, or its files are damaged.
        ConfigError: an option contradicts the task.
    """
    place = place_of(name, folder)
    card = read_card(place)
    with resources.as_file(place / _DATA) as path:
        rows = read_jsonl(path)
    options: LoadOptions = {
        "name": name,
        "text": "text",
        "label": "label",
        "seed_prompt": card["seed_prompt"],
        "label_words": card.get("label_words"),
    }
    options.update(overrides or {})
    return Task.from_records(rows, **options)


def describe_bundled(name: str, folder: Traversable | None = None) -> BundledDescription:
    """Describe a bundled task.

    Args:
        name: One of ``bundled_names``.
        folder: Where they lie; the package's own folder by default.

    Raises:
        DataError: no bundled task has this name, or its files are damaged.
    """
    card = read_card(place_of(name, folder))
    task = load_bundled(name, folder)
    return BundledDescription(
        name=name,
        title=card["title"],
        description=card["description"],
        licence=card["licence"],
        sizes={split: len(task.splits.part(split)) for split in SPLIT_NAMES},
        labels=task.labels,
    )
