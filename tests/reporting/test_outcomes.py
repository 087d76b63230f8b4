"""What was fixed and broken, by class and by confusion, counted by hand."""

from pathlib import Path
from typing import Any

from stableprompt.reporting.outcomes import Outcomes, outcomes_of
from stableprompt.reporting.reading import read_run
from stableprompt.reporting.tables import candidates_table, examples_table, writes_table
from tests.reporting import folders


def outcomes(folder: Path, **parts: Any) -> Outcomes:
    found = outcomes_of(read_run(folders.finished(folder, **parts)))
    assert isinstance(found, Outcomes)
    return found


def test_changes_are_counted(tmp_path: Path) -> None:
    found = outcomes(tmp_path)
    assert found.changes == {"fixed": 4, "broke": 1, "both wrong": 2, "both right": 5}
    table = examples_table(found)
    assert table is not None
    assert [row[0] for row in table.rows[:5]] == ["fixed"] * 4 + ["broke"]
    assert table.rows[0] == ["fixed", "message 0", "delivery", "payment", "delivery"]


def test_classes_and_confusion_are_right(tmp_path: Path) -> None:
    found = outcomes(tmp_path)
    delivery = found.classes[0]  # examples 0, 3, 6, 9
    assert (delivery.label, delivery.n) == ("delivery", 4)
    assert (delivery.seed.score, delivery.best.score) == (0.25, 0.75)
    assert delivery.seed.low < 0.25 < delivery.seed.high
    assert (delivery.seed_precision, delivery.best_precision) == (1.0, 1.0)
    confusion = found.seed_confusion
    assert confusion is not None
    assert confusion.answers == [*folders.LABELS, ""]  # "account" is answered by nothing
    assert confusion.counts == [[1, 3, 0, 0], [0, 3, 1, 0], [0, 0, 2, 2]]


def test_examples_without_an_answer_are_in_neither(tmp_path: Path) -> None:
    first = folders.answers(folders.SEED_PROMPT, folders.SEED_RIGHT)
    second = folders.answers(folders.BEST_PROMPT, folders.BEST_RIGHT)
    first["left_out"] = [2]
    del first["values"][2], first["predictions"][2]
    found = outcomes(tmp_path, test={"prompts": [first, second]})
    assert len(found.pairs) == 11
    assert found.changes["fixed"] == 3
    assert "message 2" not in [pair.example.text for pair in found.pairs]


def test_answers_that_do_not_fit_the_examples_are_not_guessed_at(tmp_path: Path) -> None:
    run = read_run(folders.finished(tmp_path, task=folders.task(tests=13)))
    assert "cannot be matched" in str(outcomes_of(run))


def test_texts_too_long_for_the_target_are_passed_over(tmp_path: Path) -> None:
    task = folders.task()
    task["test"].insert(2, {"text": "endless", "label": folders.LABELS[0]})
    found = outcomes(tmp_path, task=task | {"too_long": {"test": [2]}})
    assert found.changes == {"fixed": 4, "broke": 1, "both wrong": 2, "both right": 5}
    assert "endless" not in [pair.example.text for pair in found.pairs]


def test_graded_answers_are_better_or_worse(tmp_path: Path) -> None:
    first = folders.answers(folders.SEED_PROMPT, folders.SEED_RIGHT)
    second = folders.answers(folders.BEST_PROMPT, folders.BEST_RIGHT)
    first["values"], second["values"] = [0.5] * 12, [0.75] * 6 + [0.5] * 3 + [0.25] * 3
    task = folders.task() | {"kind": "generation", "metric": "token_f1", "label_words": None}
    found = outcomes(tmp_path, test={"prompts": [first, second]}, task=task)
    assert found.changes == {"better": 6, "equal": 3, "worse": 3}
    assert found.classes == []


def test_candidates_are_one_row_a_text_with_n_beside_every_score(tmp_path: Path) -> None:
    prompts = [
        folders.written(0, "Name it.", score=0.5, reward=0.4),
        folders.written(3, "Name it.", score=1.0, reward=0.8),
        folders.written(2, "Name it.", scored_on="validation", score=0.6, seed_reward=None),
        folders.written(1, "Oops", fault="leak", score=None, reward=-0.5),
        folders.written(4, folders.BEST_PROMPT),
    ]
    table = candidates_table(read_run(folders.finished(tmp_path, prompts=prompts)))
    assert table is not None
    titles = [column.title for column in table.columns]
    rows = {row[0]: dict(zip(titles, row, strict=True)) for row in table.rows}
    own = rows["Name it."]
    assert (own["Role"], own["Step"], own["Times"]) == ("scored", 1.0, 3.0)
    assert own["Train"] == [0.75, 8.0]  # twice on four examples
    assert own["Validation"] == [0.6, 9.0]
    assert own["Gain"] == 0.4
    assert rows["Oops"]["Role"] == "refused: leak"
    assert rows["Oops"]["Train"] is None
    assert rows[folders.BEST_PROMPT]["Test"] == [0.75, 12.0]
    assert rows[folders.SEED_PROMPT]["Role"] == "seed"


def test_every_role_of_a_candidate_has_a_button(tmp_path: Path) -> None:
    for run in (folders.finished(tmp_path / "a"), folders.unfinished(tmp_path / "b")):
        table = candidates_table(read_run(run))
        assert table is not None
        roles = {str(row[table.choose]).partition(":")[0] for row in table.rows}
        assert roles <= set(table.choices)


def test_prompts_for_single_inputs_are_listed(tmp_path: Path) -> None:
    writes = [
        {"input": "a", "prompt": "Ask a.", "fault": None, "value": 1.0},
        {"input": "b", "prompt": "It is b.", "fault": "leak", "value": 0.0},
    ]
    table = writes_table(read_run(folders.finished(tmp_path, writes=writes)))
    assert table is not None
    assert table.rows == [
        ["a", "Ask a.", "used", 1.0],
        ["b", "It is b.", "refused: leak", 0.0],
    ]
