"""Sizes that follow from task, settings and target."""

from typing import Any

import pytest

from stableprompt.config import make_config
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import TargetTemplate
from stableprompt.tuning.room import answer_room, demonstration_room, drop_long_texts, too_long
from tests.fakes.target_stub import TargetStub


class Words(TargetStub):
    """A target whose tokens are words; it reads at most 12 of them."""

    def num_tokens(self, text: str) -> int:
        return len(text.split())

    def fits(self, conversation: list[dict[str, str]], room: int) -> bool:
        return sum(len(m["content"].split()) for m in conversation) + room <= 12


TARGET: Any = Words()
ROWS = [
    {"text": f"t {split} {i}", "label": "a " * (4 if (split, i) == ("train", 1) else 1),
     "split": split}
    for split in ("train", "validation", "test") for i in range(3)
]  # fmt: skip
TASK = Task.from_records(ROWS, kind="generation", seed_prompt="Go.")


def test_an_answer_has_room_for_the_longest_reference_of_train_and_half_as_much_again() -> None:
    # 4 words and 2, and one for the end of the turn.
    assert answer_room(TASK, make_config(), TARGET) == 7
    rows = [{**row, "label": "b " * 50} if row["split"] != "train" else row for row in ROWS]
    task = Task.from_records(rows, kind="generation", seed_prompt="Go.")
    assert answer_room(task, make_config(), TARGET) == 7


def test_an_answer_that_need_not_be_equal_may_be_wordy() -> None:
    task = Task.from_records(ROWS, kind="generation", metric="contains")
    assert answer_room(task, make_config(), TARGET) == 64
    rows = [{**row, "label": "b " * 50} for row in ROWS]
    task = Task.from_records(rows, kind="generation", metric="contains")
    assert answer_room(task, make_config(), TARGET) == 76


@pytest.mark.parametrize(("setting", "own", "room"), [(None, 5, 5), (3, 5, 3), (3, None, 3)])
def test_settings_go_before_the_task(setting: int | None, own: int | None, room: int) -> None:
    task = Task.from_records(ROWS, kind="generation", max_answer_tokens=own)
    config = make_config({"target": {"max_answer_tokens": setting}})
    assert answer_room(task, config, TARGET) == room


def test_where_answers_are_not_generated_there_is_none() -> None:
    rows = [{**row, "label": "xy"[i % 2]} for i, row in enumerate(ROWS)]
    assert answer_room(Task.from_records(rows), make_config(), TARGET) == 0


def test_texts_that_leave_no_room_are_dropped_and_counted() -> None:
    rows = [*ROWS, {"text": "one two three four five six", "label": "a", "split": "train"}]
    task = Task.from_records(rows, kind="generation", seed_prompt="Go.")
    template = TargetTemplate("system", input_format="{text}")
    kept = drop_long_texts(task, TARGET, template, room=6)
    assert len(kept.train) == 3  # 1 + 6 + 6 words are too many, 1 + 3 + 6 are not
    assert kept.notes[-1] == "1 texts longer than the target's context left out"
    assert too_long(task, kept) == {"train": [3]}
    assert drop_long_texts(task, TARGET, template, room=5) == task
    assert too_long(task, task) == {}


def test_demonstrations_have_room_for_the_longest_of_train() -> None:
    # "Input: t train 1 Output: a a a a" has 9 words, the others have 6.
    config = make_config({"selection": {"num_demonstrations": 2}})
    assert demonstration_room(TASK, config, TARGET) == 9 + 6
    rows = [{**row, "text": "b " * 50} if row["split"] == "test" else row for row in ROWS]
    rows = [{**row, "text": f"{row['text']} {i}"} for i, row in enumerate(rows)]
    longer = Task.from_records(rows, kind="generation")
    assert demonstration_room(longer, config, TARGET) == 10 + 7  # test counts for nothing
    assert demonstration_room(TASK, make_config(), TARGET) == 0
