"""What was wrong with a setting, in words of those who set it."""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final, get_args

from pydantic import BaseModel, ValidationError

_LONGEST_SHOWN: Final = 200
_A_SLIP: Final = 0.7
# Where a key may stand by mistake; what was found is not shown.
_SECRETS: Final = {
    "base_url": "it must be http:// or https:// and a host, without user, password, ? and spaces; "
    "in a list each server once; keys are read from the environment (key_variable)",
    "key_variable": "it must be the name of an environment variable, not the key itself: letters, "
    "digits and _",
}
_MUST_BE: Final = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "a text",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "model_type": "a group of settings, each by its name",
}


def explain(error: ValidationError, settings: type[BaseModel]) -> str:
    """The first problem, on one line, with the setting's dotted name.

    Args:
        error: Of these settings.
        settings: Where a name that does not exist is looked for.
    """
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    what = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"setting {where!r} does not exist; {_instead(where, list(names_of(settings)))}"
    if not where:
        return what
    if (secret := _SECRETS.get(where.rpartition(".")[2])) is not None:
        return f"setting {where!r}: {secret}"
    if (must_be := _MUST_BE.get(problem["type"])) is not None:
        limits = {
            name: f"{value:g}" if isinstance(value, float) else value
            for name, value in problem.get("ctx", {}).items()
        }
        what = f"must be {must_be.format(**limits)}"
    found = repr(problem["input"])
    found = found if len(found) <= _LONGEST_SHOWN else f"{found[:_LONGEST_SHOWN]}…"
    return f"setting {where!r}: {what}, found {found}"


def names_of(settings: type[BaseModel], above: str = "") -> Iterator[str]:
    """The dotted name of every setting that holds a value."""
    for name, field in settings.model_fields.items():
        kinds = get_args(field.annotation) or (field.annotation,)
        sections = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        for section in sections:
            yield from names_of(section, f"{above}{name}.")
        if not sections:
            yield f"{above}{name}"


def _instead(wrong: str, names: list[str]) -> str:
    """A name that is nearly the same, or is the same in another section; or what there is."""
    last = wrong.rpartition(".")[2]
    same = [name for name in names if name.rpartition(".")[2] == last]
    if close := same or get_close_matches(wrong, names, n=1, cutoff=_A_SLIP):
        return f"did you mean {' or '.join(close)}?"
    section = wrong.rpartition(".")[0]
    if section and (beside := [name for name in names if name.startswith(f"{section}.")]):
        return f"{section} has {', '.join(name.removeprefix(f'{section}.') for name in beside)}"
    return "config.json of any run lists them all"
