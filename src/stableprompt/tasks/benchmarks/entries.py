"""The catalogue: ``catalogue/*.toml``, one entry a benchmark.

Besides its entries a file may have ``[defaults]``, which is merged under each of them, and
``[families]``, a title for each group of names such as ``"mmlu/*"``. An entry with that name and a
list ``members`` stands for one benchmark a member. ``{member}`` in any text is what follows the
slash in the benchmark's name, or the whole name.
"""

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from stableprompt.errors import DataError
from stableprompt.tasks.benchmarks.benchmark import Benchmark
from stableprompt.tasks.benchmarks.building import Table, build_benchmark, require
from stableprompt.tasks.wording import listed, quoted


@dataclass(frozen=True, slots=True)
class BenchmarkFamily:
    """One line of a listing: benchmarks with a common name, or a single one.

    Attributes:
        name: Such as ``mmlu/*``; of a single benchmark, its own name.
        title: A few words.
        members: The names of its benchmarks.
    """

    name: str
    title: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A benchmark as its file has it, not yet checked: a listing needs no more than that.

    Attributes:
        table: Merged with the defaults.
        member: What ``{member}`` stands for in it.
        place: Where it stands, for messages.
    """

    table: Table
    member: str
    place: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All files of a folder.

    Attributes:
        entries: By name, in alphabetical order.
        titles: Of the families with several members.
    """

    entries: Mapping[str, Entry]
    titles: Mapping[str, str]


def benchmark_names(catalogue: Catalogue | None = None) -> tuple[str, ...]:
    """The names of all benchmarks in alphabetical order; no data are read.

    Args:
        catalogue: Where to look; the package's own by default.
    """
    return tuple((catalogue or _package_catalogue()).entries)


def families(catalogue: Catalogue | None = None) -> tuple[BenchmarkFamily, ...]:
    """All benchmarks, one line for those that belong together; no data are read.

    Args:
        catalogue: Where to look; the package's own by default.

    Raises:
        DataError: some family has no title, or some title no family.
    """
    catalogue = catalogue or _package_catalogue()
    groups: dict[str, list[str]] = {}
    for name in catalogue.entries:
        head, slash, _ = name.partition("/")
        groups.setdefault(f"{head}/*" if slash else name, []).append(name)
    wrong = {name for name in groups if name.endswith("/*")} ^ catalogue.titles.keys()
    require(not wrong, "[families]", f"a title without a family, or the reverse: {listed(wrong)}")
    return tuple(
        BenchmarkFamily(
            name,
            title=catalogue.titles.get(name) or find_benchmark(name, catalogue).title,
            members=tuple(members),
        )
        for name, members in groups.items()
    )


def kinds_of(names: Iterable[str], catalogue: Catalogue | None = None) -> set[str]:
    """The kinds of some benchmarks as their entries have them: to check all takes too long to list.

    Args:
        names: Some of ``benchmark_names``.
        catalogue: Where to look; the package's own by default.
    """
    entries = (catalogue or _package_catalogue()).entries
    return {str(entries[name].table.get("kind")) for name in names}


def find_benchmark(name: str, catalogue: Catalogue | None = None) -> Benchmark:
    """The benchmark with this name.

    Args:
        name: One of ``benchmark_names``.
        catalogue: Where to look; the package's own by default.

    Raises:
        DataError: there is none, or its entry is not as ``Benchmark`` says.
    """
    catalogue = catalogue or _package_catalogue()
    entry = catalogue.entries.get(name)
    if entry is None:
        close = difflib.get_close_matches(name, catalogue.entries, n=3)
        guess = f"did you mean {' or '.join(close)}? " if close else ""
        groups = ", ".join(family.name for family in families(catalogue))
        raise DataError(f"no benchmark {quoted(name)}: {guess}there are {groups}")
    return build_benchmark(name, _filled(entry.table, entry.member), entry.place)


def read_catalogue(folder: Traversable) -> Catalogue:
    """Read all .toml files of a folder; entries are checked when they are asked for.

    Raises:
        DataError: a file is not TOML, or a name is taken twice.
    """
    entries: dict[str, Entry] = {}
    titles: dict[str, str] = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".toml"):
            continue
        tables = _parse(file)
        titles |= tables.pop("families", {})
        defaults = tables.pop("defaults", {})
        for key, table in tables.items():
            place = f"{file.name}, entry {quoted(key)}"
            for name, entry in _entries(key, _merged(defaults, table), place):
                require(name not in entries, place, f"the name {name} is taken")
                entries[name] = entry
    return Catalogue(dict(sorted(entries.items())), titles)


@cache
def _package_catalogue() -> Catalogue:
    return read_catalogue(resources.files("stableprompt.tasks.benchmarks") / "catalogue")


def _parse(file: Traversable) -> Table:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # not TOML, or not UTF-8
        raise DataError(f"{file.name}: not valid TOML ({error}); correct it") from error


def _merged(under: Table, over: Table) -> Table:
    both = {
        key: _merged(under[key], over[key])
        for key in under.keys() & over.keys()
        if isinstance(under[key], dict) and isinstance(over[key], dict)
    }
    return {**under, **over, **both}


def _entries(key: str, table: Table, place: str) -> Iterator[tuple[str, Entry]]:
    members = table.pop("members", None)
    if not key.endswith("/*"):
        require(members is None, place, 'members belong to an entry named "NAME/*"')
        yield key, Entry(table, key.rpartition("/")[2], place)
        return
    given = isinstance(members, list) and all(isinstance(member, str) for member in members)
    require(given and bool(members), place, 'a "NAME/*" needs a list of members')
    for member in members or ():
        yield f"{key[:-1]}{member}", Entry(table, member, place)


def _filled(value: Any, member: str) -> Any:
    """The table with the member in place of ``{member}``, in all texts inside it."""
    if isinstance(value, dict):
        return {key: _filled(item, member) for key, item in value.items()}
    return value.replace("{member}", member) if isinstance(value, str) else value
