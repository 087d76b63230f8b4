"""What is to be compared: a plan file, and the flags over it."""

from pathlib import Path
from typing import Any, Final

from pydantic import Field, ValidationError

from stableprompt.cli.settings_file import read_settings
from stableprompt.config import Section
from stableprompt.errors import ConfigError

_WANTED: Final = {
    "tasks": 'a list of files or names, as in ["sst2"]',
    "methods": 'a list of names, as in ["appo", "best-of-n"]',
    "seeds": "whole numbers, as in [0, 1, 2]; DATA comes before --seeds",
    "budget": "a whole number of target calls",
    "limit": "numbers of examples by split, as in {test = 200}",
    "label_words": 'the answer to each label, as in {"0" = "no", "1" = "yes"}',
    "settings": "a table of settings",
}


class PlanFile(Section):
    """What was asked for; each field is a line of a plan file, and most of them a flag."""

    tasks: list[str] = Field(min_length=1)
    methods: list[str] = Field(["appo", "best-of-n"], min_length=1)
    seeds: list[int] = Field([0], min_length=1)
    budget: int = Field(2000, ge=1)
    ours: str | None = None
    """The method that the others are compared with; null takes the first."""
    out: Path = Path("runs/comparison")
    limit: dict[str, int] | list[str] = Field([])
    """In a file a table; as a flag ["test=200"]."""
    label_words: dict[str, str] | list[str] = Field([])
    """For the tasks whose labels are all among them. As a flag ["0=no", "1=yes"]."""
    settings: dict[str, Any] = Field({})


def read_plan(path: Path | None, flags: dict[str, Any]) -> PlanFile:
    """A plan file, or none, with the flags that were given over it.

    Raises:
        ConfigError: the file cannot be read, has a name that no plan has, or a value is not what
            it has to be.
    """
    told = read_settings(path) if path is not None else {}
    unknown = sorted(told.keys() - PlanFile.model_fields.keys())
    if unknown:
        known = ", ".join(sorted(PlanFile.model_fields))
        raise ConfigError(f"{path} has {unknown[0]!r}; a plan has {known}")
    given = told | {name: value for name, value in flags.items() if value not in (None, [])}
    if not given.get("tasks"):
        raise ConfigError("DATA is missing; give a file or names that `stableprompt tasks` lists")
    try:
        return PlanFile.model_validate(given)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise ConfigError(
            f"{name} must be {_WANTED.get(name, 'a text')}, found {given[name]!r}"
        ) from error
