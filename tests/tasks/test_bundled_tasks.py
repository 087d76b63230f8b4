import json
from pathlib import Path

import pytest

from stableprompt.errors import DataError
from stableprompt.tasks.bundled_cards import bundled_names, bundled_title
from stableprompt.tasks.bundled_tasks import (
    BundledDescription,
    describe_bundled,
    load_bundled,
)

CARD = 'title = "Moods"\ndescription = "Made up."\nseed_prompt = "Judge."\nlicence = "CC0-1.0"\n'
WORDS = '[label_words]\n1 = "good"\n0 = "bad"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, card in (("moods", CARD + WORDS), ("weather", CARD)):
        place = tmp_path / name
        place.mkdir()
        (place / "task.toml").write_text(card, encoding="utf-8")
        rows = [
            {"text": f"{split} {i}", "label": str(i % 2), "split": split}
            for split, count in (("train", 4), ("validation", 2), ("test", 3))
            for i in range(count)
        ]
        lines = "\n".join(json.dumps(row) for row in rows)
        (place / "data.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "no_task").mkdir()
    return tmp_path


def test_names_are_the_folders_with_a_card(folder: Path) -> None:
    assert bundled_names(folder) == ("moods", "weather")
    assert bundled_names(folder / "missing") == ()


def test_load_reads_card_and_data(folder: Path) -> None:
    task = load_bundled("moods", folder)
    assert (task.name, task.seed_prompt) == ("moods", "Judge.")
    assert task.verbalizer.label_words == ("good", "bad")
    assert load_bundled("weather", folder).labels == ("0", "1")


def test_describe(folder: Path) -> None:
    assert describe_bundled("moods", folder) == BundledDescription(
        name="moods",
        title="Moods",
        description="Made up.",
        licence="CC0-1.0",
        sizes={"train": 4, "validation": 2, "test": 3},
        labels=("1", "0"),
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mods", r"no bundled task 'mods': did you mean moods\? there are moods, weather"),
        ("zzz", r"no bundled task 'zzz': there are moods, weather"),
        ("../moods", "no bundled task"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(folder: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_bundled(name, folder)


def test_no_task_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are none"):
        describe_bundled("moods", tmp_path)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("title = ", "not valid TOML"),
        ("title = 'x'\nseed_prompt = 3\n", "no description, seed_prompt, licence; add"),
    ],
)
def test_a_damaged_card(folder: Path, card: str, message: str) -> None:
    (folder / "moods" / "task.toml").write_text(card, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_bundled("moods", folder)


@pytest.mark.parametrize("name", bundled_names())
def test_what_the_package_ships_loads_without_a_note(name: str) -> None:
    assert load_bundled(name).notes == ()
    assert all(describe_bundled(name).sizes.values())
    assert bundled_title(name) == describe_bundled(name).title
