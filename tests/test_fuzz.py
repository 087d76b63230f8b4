"""Damaged and hostile files at every door, in short; at length: benchmarks/bad_inputs.py."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks.fuzzing import Counts, damaged, doors, throw
from benchmarks.fuzzing_models import model_doors

from stableprompt.errors import DataError, RunError

CASES = 40
DOORS = doors()


@pytest.mark.parametrize("name", DOORS)
def test_a_damaged_file_is_read_or_refused_by_an_error_of_ours(name: str, tmp_path: Path) -> None:
    door, seeds = DOORS[name]
    counts = throw(door, seeds, CASES, 7, tmp_path / "scratch")
    assert counts.others == {}, counts.examples
    assert counts.cases == CASES


def test_a_damaged_model_or_adapter_is_read_or_refused(tmp_path: Path) -> None:
    for name, (door, seeds) in model_doors(tmp_path).items():
        counts = throw(door, seeds, 6, 3, tmp_path / "scratch")
        assert counts.others == {}, (name, counts.examples)


def outcome(door: Callable[[bytes, Path], None], tmp_path: Path) -> Counts:
    return throw(door, [b'{"a": [1, 2]}'], 20, 0, tmp_path / "scratch")


def raising(error: Exception) -> Callable[[bytes, Path], None]:
    def door(content: bytes, folder: Path) -> None:
        raise error

    return door


def test_what_is_counted(tmp_path: Path) -> None:
    # The counts above would all be empty if errors of other kinds were not seen.
    assert outcome(lambda content, folder: None, tmp_path).read == 20
    assert outcome(raising(DataError("no")), tmp_path).refused == 20
    assert outcome(raising(RunError("no")), tmp_path).refused == 20
    assert outcome(raising(KeyError("x")), tmp_path).others == {"KeyError": 20}
    with pytest.raises(AssertionError, match="without a line"):
        outcome(raising(DataError(" ")), tmp_path)


def test_the_same_seed_gives_the_same_damage_and_most_files_are_damaged() -> None:
    seeds = [b'{"text": "a", "label": "b"}' * 3]
    one, other = ([damaged(seeds, random.Random(n)) for n in range(200)] for _ in range(2))
    assert one == other
    assert sum(content != seeds[0] for content in one) > 150
