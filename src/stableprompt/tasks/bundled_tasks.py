"""The tasks that come with the package: ``bundled/NAME/task.toml`` and ``data.jsonl``.

``task.toml`` has title, description, seed_prompt, licence and, optionally, a table
``[label_words]``. ``data.jsonl`` has one ``{"text", "label", "split"}`` per line.
"""

import difflib
import tomllib
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Final

from stableprompt.errors import DataError
from stableprompt.tasks.loading import LoadOptions
from stableprompt.tasks.splits import SPLIT_NAMES
from stableprompt.tasks.table import read_jsonl
from stableprompt.tasks.task import Task
from stableprompt.tasks.wording import quoted

_CARD: Final = "task.toml"
_DATA: Final = "data.jsonl"
_CARD_TEXTS: Final = ("title", "description", "seed_prompt", "licence")


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


def bundled_names(folder: Traversable | None = None) -> tuple[str, ...]:
    """The names of the bundled tasks in alphabetical order.

    Args:
        folder: Where they lie; the package's own folder by default.
    """
    place = folder or _package_folder()
    if not place.is_dir():
        return ()
    return tuple(sorted(entry.name for entry in place.iterdir() if (entry / _CARD).is_file()))


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
    place = _place_of(name, folder)
    card = _read_card(place)
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
    card = _read_card(_place_of(name, folder))
    task = load_bundled(name, folder)
    return BundledDescription(
        name=name,
        title=card["title"],
        description=card["description"],
        licence=card["licence"],
        sizes={split: len(task.splits.part(split)) for split in SPLIT_NAMES},
        labels=task.labels,
    )


def _package_folder() -> Traversable:
    return resources.files("stableprompt.tasks") / "bundled"


def _place_of(name: str, folder: Traversable | None) -> Traversable:
    names = bundled_names(folder)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        guess = f"did you mean {close[0]}? " if close else ""
        raise DataError(
            f"no bundled task {quoted(name)}: {guess}there are {', '.join(names) or 'none'}"
        )
    return (folder or _package_folder()) / name


def _read_card(place: Traversable) -> dict[str, Any]:
    try:
        card = tomllib.loads((place / _CARD).read_text(encoding="utf-8"))
    except ValueError as error:  # not TOML, or not UTF-8
        raise DataError(f"{place / _CARD}: not valid TOML ({error}); install again") from error
    missing = [key for key in _CARD_TEXTS if not isinstance(card.get(key), str)]
    if missing:
        raise DataError(f"{place / _CARD}: no {', '.join(missing)}; add it as a string")
    return card
