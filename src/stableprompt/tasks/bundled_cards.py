"""The cards of the bundled tasks: ``bundled/NAME/task.toml``, all that a listing needs of them.

A card has title, description, seed_prompt, licence and, optionally, a table ``[label_words]``.
"""

import difflib
import tomllib
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Final

from stableprompt.errors import DataError
from stableprompt.tasks.wording import quoted

_CARD: Final = "task.toml"
_CARD_TEXTS: Final = ("title", "description", "seed_prompt", "licence")


def bundled_names(folder: Traversable | None = None) -> tuple[str, ...]:
    """The names of the bundled tasks in alphabetical order.

    Args:
        folder: Where they lie; the package's own folder by default.
    """
    place = folder or _package_folder()
    if not place.is_dir():
        return ()
    return tuple(sorted(entry.name for entry in place.iterdir() if (entry / _CARD).is_file()))


def bundled_title(name: str) -> str:
    """A bundled task in a few words.

    Raises:
        DataError: no bundled task has this name, or its card is damaged.
    """
    return str(read_card(place_of(name))["title"])


def place_of(name: str, folder: Traversable | None = None) -> Traversable:
    """The folder of a bundled task.

    Args:
        name: One of ``bundled_names``.
        folder: Where they lie; the package's own folder by default.

    Raises:
        DataError: no bundled task has this name.
    """
    names = bundled_names(folder)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        guess = f"did you mean {close[0]}? " if close else ""
        raise DataError(
            f"no bundled task {quoted(name)}: {guess}there are {', '.join(names) or 'none'}"
        )
    return (folder or _package_folder()) / name


def read_card(place: Traversable) -> dict[str, Any]:
    """What ``task.toml`` of a bundled task says.

    Raises:
        DataError: it is damaged.
    """
    try:
        card = tomllib.loads((place / _CARD).read_text(encoding="utf-8"))
    except ValueError as error:  # not TOML, or not UTF-8
        raise DataError(f"{place / _CARD}: not valid TOML ({error}); install again") from error
    missing = [key for key in _CARD_TEXTS if not isinstance(card.get(key), str)]
    if missing:
        raise DataError(f"{place / _CARD}: no {', '.join(missing)}; add it as a string")
    return card


def _package_folder() -> Traversable:
    return resources.files("stableprompt.tasks") / "bundled"
