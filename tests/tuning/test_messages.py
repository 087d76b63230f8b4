"""What a result says was sent is what the target was sent, byte for byte; in every export, too."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stableprompt import build
from stableprompt.cli import app
from stableprompt.exporting.formats import FORMATS, export
from stableprompt.exporting.shipped import read_shipped
from stableprompt.tasks.example import Example
from stableprompt.tasks.placeholders import fill
from stableprompt.tasks.task import Task
from stableprompt.tuning.records import TuneResult
from tests.fakes.api_chat import Messages
from tests.tuning.conftest import TINY

pytestmark = pytest.mark.usefixtures("elsewhere")

SHORT: dict[str, Any] = {**TINY, "method": "seed"}
COLOURS = ("red", "green")
SPECIAL = 'é 😀 {"a": 1} {{ b }} {% c %} <|im_end|> \\'


def rows(count: int = 36) -> list[dict[str, Any]]:
    return [
        {
            "premise": f" {COLOURS[n % 2]} thing {n} {SPECIAL}\n",
            "hypothesis": f"it has\ncolour {n}",
            "label": COLOURS[n % 2],
        }
        for n in range(count)
    ]


def recorded(task: Task, folder: Path, target: Mapping[str, Any], **settings: Any) -> Any:
    """A run, and all that its target was sent."""
    sent: list[Messages] = []

    def speak(messages: Messages) -> str:
        sent.append(messages)
        words = json.dumps(messages)
        return next((c for c in COLOURS if f"{c} thing" in words), "A")

    result = build.tune(
        task, target={"model": speak, **target}, run_dir=folder, **{**SHORT, **settings}
    )
    return result, sent


def export_of(result: TuneResult, given: Any) -> Any:
    return read_shipped(result.run_dir).messages_for(given)


def given_of(example: Example) -> Any:
    fields = dict(example.fields)
    return fields if len(fields) > 1 else next(iter(fields.values()))


SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "system": ({"text": "premise"}, {"position": "system"}, {}),
    "user": ({"text": "premise"}, {"position": "user", "separator": "\n--{x}\n"}, {}),
    "input first": (
        {"text": "premise"},
        {"position": "user", "order": "input_first", "input_format": "<{text}>"},
        {},
    ),
    "plain": ({"text": "premise"}, {"format": "plain", "input_format": "In: {text}\nOut:"}, {}),
    "fields": ({"text": ["premise", "hypothesis"]}, {"position": "system"}, {}),
    "placeholders": (
        {
            "text": ["premise", "hypothesis"],
            "seed_prompt": "Is {premise} so? {hypothesis} {unknown} {",
        },
        {},
        {},
    ),
    "whole input": (
        {"text": ["premise", "hypothesis"], "seed_prompt": "Look: {{ text }}! Which {colour}?"},
        {},
        {},
    ),
    "demonstrations": (
        {"text": "premise"},
        {},
        {"method": "few-shot", "selection": {"num_demonstrations": 2, "demonstration_sets": 1}},
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_the_messages_of_a_result_are_what_was_sent(case: str, tmp_path: Path) -> None:
    loading, target, settings = SETTINGS[case]
    task = Task.from_records(rows(), **{"label": "label", **loading})
    result, sent = recorded(task, tmp_path / "run", target, **settings)
    python: dict[str, Any] = {}
    exec(export(result, "python"), python)
    for example in task.test:
        said = result.messages_for(given_of(example))
        assert said in sent
        assert export_of(result, given_of(example)) == said
        assert python["messages"](given_of(example)) == said
        values = {**example.fields, "text": example.text}
        by_hand = [{**m, "content": fill(m["content"], values)} for m in result.messages]
        assert by_hand == said


def test_choices_are_sent_as_the_export_lays_them_out(tmp_path: Path) -> None:
    table = [
        {
            "question": f"Which one {n}?",
            "choices": [f"red thing {n} {SPECIAL}", f" green {n}"],
            "label": "AB"[n % 2],  # else they would be shuffled
        }
        for n in range(36)
    ]
    task = Task.from_records(table)
    result, sent = recorded(task, tmp_path / "run", {})
    python: dict[str, Any] = {}
    exec(export(result, "python"), python)
    asked = {row["question"]: row for row in table}
    for example in task.test:
        row = asked[example.fields["question"]]
        said = python["messages"]({"question": row["question"], "choices": row["choices"]})
        assert said in sent


def test_every_form_is_made_of_a_run_folder(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    task = Task.from_records(rows(), text="premise", label="label")
    result, _ = recorded(task, tmp_path / "run", {})
    for form in FORMATS:
        done = CliRunner().invoke(app, ["export", str(tmp_path / "run"), "--to", form])
        assert done.exit_code == 0
        assert done.stdout == export(tmp_path / "run", form)
    assert json.loads(export(result, "messages")) == result.messages
    assert export(result) == (tmp_path / "run" / "best_prompt.txt").read_text(encoding="utf-8")
