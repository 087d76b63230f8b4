import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest

from stableprompt.errors import ConfigError, DataError, RunError
from stableprompt.tasks.archive import task_from_dict, task_to_dict
from stableprompt.tasks.example import Example, TaskKind
from stableprompt.tasks.formats import InputFormat
from stableprompt.tasks.metrics.registry import METRICS
from stableprompt.tasks.splits import Splits
from stableprompt.tasks.task import Task
from stableprompt.tasks.verbalizer import Verbalizer

Rows = list[dict[str, object]]


def rows_of(*labels: object, count: int = 5, **more: object) -> Rows:
    return [
        {"text": f"{label} {i}", "label": label, **more} for i in range(count) for label in labels
    ]


def split_rows(**labels_of: list[str]) -> Rows:
    return [
        {"text": f"{split} {i}", "label": label, "split": split}
        for split, labels in labels_of.items()
        for i, label in enumerate(labels)
    ]


def test_records_become_a_task_with_a_plain_seed_prompt() -> None:
    task = Task.from_records(rows_of("billing", "delivery", "account", count=10))
    assert task.name == "records"
    assert task.labels == ("billing", "delivery", "account")
    assert (len(task.train), len(task.validation), len(task.test)) == (12, 9, 9)
    assert task.seed_prompt == (
        "Classify the text. Answer with one of: billing, delivery, account."
    )
    assert task.notes == ()


def test_the_plain_seed_prompt_names_the_label_words_in_their_order() -> None:
    task = Task.from_records(rows_of(0, 1), label_words={"1": "good", "0": "bad"})
    assert task.labels == ("1", "0")
    assert task.seed_prompt.endswith("one of: good, bad.")


def test_a_given_seed_prompt_is_kept_as_it_is() -> None:
    assert Task.from_records(rows_of("a", "b"), seed_prompt=" {x}\n").seed_prompt == " {x}\n"


def test_label_words_may_be_keyed_by_the_numbers_that_the_labels_are() -> None:
    words: Any = {0: "bad", 1: "good"}
    assert Task.from_records(rows_of(0, 1), label_words=words).verbalizer.words == {
        "0": "bad",
        "1": "good",
    }


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ((1, 2), ("1", "2")),
        ((1.0, 2.0), ("1", "2")),
        ((True, False), ("True", "False")),
        ((" a ", "b"), ("a", "b")),
        ((np.int64(3), np.float64(4)), ("3", "4")),
        ((np.bool_(True), np.str_("x")), ("True", "x")),
    ],
)
def test_labels_become_stripped_strings(
    values: tuple[object, object], labels: tuple[str, ...]
) -> None:
    assert Task.from_records(rows_of(*values)).labels == labels


def test_texts_are_stripped() -> None:
    rows = [{**row, "text": f"  {row['text']}\n"} for row in rows_of("a", "b")]
    assert {example.text for example in Task.from_records(rows).train} <= {
        str(row["text"]).strip() for row in rows
    }


CONTENT = rows_of("a", "b")


def write_csv(path: Path, rows: Rows, separator: str = ",") -> None:
    lines = [separator.join(["text", "label"])]
    lines += [separator.join([str(row["text"]), str(row["label"])]) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")


def test_every_way_in_gives_the_same_task(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", CONTENT)
    write_csv(tmp_path / "t.tsv", CONTENT, "\t")
    write_csv(tmp_path / "t.txt", CONTENT)
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, CONTENT)), encoding="utf-8")
    (tmp_path / "t.json").write_text(json.dumps(CONTENT), encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(CONTENT), tmp_path / "t.parquet")
    names = ("t.csv", "t.tsv", "t.jsonl", "t.json", "t.parquet")
    tasks = [
        *(Task.from_file(tmp_path / name) for name in names),
        Task.from_csv(str(tmp_path / "t.txt")),
        Task.from_csv(tmp_path / "t.tsv"),
        Task.from_jsonl(tmp_path / "t.jsonl"),
        Task.from_pandas(pandas.DataFrame(CONTENT), name="t"),
        Task.from_records(CONTENT, name="t"),
    ]
    assert all(task == tasks[0] for task in tasks)
    assert len({task.fingerprint() for task in tasks}) == 1
    assert tasks[0].name == "t"


def test_options_are_passed_on(tmp_path: Path) -> None:
    rows = [{"message": row["text"], "team": row["label"], "text": "-"} for row in CONTENT]
    path = tmp_path / "tickets.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = Task.from_jsonl(
        path,
        name="mine",
        text="message",
        label="team",
        seed_prompt="Sort.",
        fractions=(0.2, 0.2, 0.6),
        seed=1,
    )
    assert (task.name, task.labels, task.seed_prompt) == ("mine", ("a", "b"), "Sort.")
    assert (len(task.train), len(task.test)) == (2, 6)


def test_an_unknown_option_is_a_type_error() -> None:
    options: Any = {"prompt": "Sort."}
    with pytest.raises(TypeError, match=r"unknown options \['prompt'\]"):
        Task.from_records(CONTENT, **options)


def test_frames_with_gaps_and_repeated_columns() -> None:
    gaps = pandas.DataFrame({"text": ["a", "b", "c", "d"], "label": [1, None, float("nan"), 2]})
    with pytest.raises(DataError, match=r"2 rows .first: 2, 3. with no label in column 'label'"):
        Task.from_pandas(gaps)
    nullable = gaps.astype({"label": "Int64"})
    with pytest.raises(DataError, match=r"2 rows .first: 2, 3. with no label"):
        Task.from_pandas(nullable)
    twice = pandas.DataFrame([["a", "b"]], columns=["text", "text"])
    with pytest.raises(DataError, match="two columns of the frame have the same name"):
        Task.from_pandas(twice)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "there are no rows"),
        ([("text", "label")], "row 1 is a tuple, not a mapping"),
        ([*rows_of("a", "b"), {"text": " ", "label": "a"}], r"1 row \(row 11\) with no text"),
        (
            [{"text": None, "label": "a"}] * 6,
            r"6 rows \(first: 1, 2, 3, 4, 5\) with no text in column 'text'.*fill them in or",
        ),
        ([*rows_of("a", "b"), {"text": 7, "label": "a"}], r"row 11\) with no text.*a text is a no"),
        ([*rows_of("a", "b"), {"text": "t", "label": ""}], r"row 11\) with no label in column 'la"),
        ([*rows_of("a", "b"), {"text": "t"}], r"row 11\) with no label in column 'label'.*fill"),
        ([{"text": "t", "label": float("nan")}], r"row 1\) with no label"),
        (rows_of(0.25, 0.5), r"label in row 1 is '0.25' \(float\).*use --kind generation"),
        (rows_of(float("inf"), 1), r"label in row 1 is 'inf' \(float\)"),
        (
            [{"text": "t", "label": {"a": 1}}],
            r"label in row 1 is .* \(dict\).*must be a class name",
        ),
        ([{"text": "t", "label": [["a"]]}], r"label in row 1 is .* \(list\).*must be a class name"),
        ([{"text": "half \ud83d", "label": "a"}], r"row 1\) with half a character"),
        (rows_of("a"), r"only one label, 'a': a task needs.*--label COLUMN"),
        (
            rows_of(*(f"label {i}" for i in range(51))),
            r"51 distinct labels \(at most 50\), which looks like free text: use --kind generation",
        ),
        ([*rows_of("a"), *rows_of("b", count=2)], r"at least 3 examples.*'b' has 2"),
        (split_rows(train=["a", "b"]), r"column 'split' has only train: it must have train and te"),
        (split_rows(train=["a"], validation=["b"]), "has only train, validation"),
        (split_rows(train=["a", "b"], holdout=["a"]), r"row 3 has 'holdout' in the column 'split'"),
        ([{"text": "t", "label": "a", "split": None}], r"row 1 has 'None' in the column 'split'"),
        (
            split_rows(train=["a", "b"], validation=["a"], test=["a", "c"]),
            r"test split has labels that train does not have: 'c'",
        ),
        (
            split_rows(train=["a", "b"], validation=["d"], test=["a"]),
            r"validation split has labels that train does not have: 'd'",
        ),
        (split_rows(train=["a", "b", "b"], test=["a"]), r"2 examples.*validation: 'a' has 1"),
    ],
)
def test_rows_that_cannot_be_used_are_refused_in_one_line(rows: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Task.from_records(rows)
    assert "\n" not in str(caught.value)


def test_fifty_labels_are_still_classification() -> None:
    labels = [f"label {i}" for i in range(50)]
    assert Task.from_records(rows_of(*labels, count=3)).labels == tuple(labels)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"a": "x"}, r"found words for 'a', but the labels in the data are 'a', 'b'"),
        ({"a": "x", "b": "y", "c": "z"}, "found words for 'a', 'b', 'c'"),
        ({"a": "x", "b": "X"}, "share the label word"),
    ],
)
def test_label_words_must_fit_the_labels(words: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Task.from_records(rows_of("a", "b"), label_words=words)


def test_a_full_split_column_is_used_as_it_is() -> None:
    task = Task.from_records(split_rows(train=["a", "b"], dev=["b", "a"], test=["a", "b", "a"]))
    assert [example.text for example in task.train] == ["train 0", "train 1"]
    assert [example.text for example in task.validation] == ["dev 0", "dev 1"]
    assert [example.text for example in task.test] == ["test 0", "test 1", "test 2"]
    assert task.notes == ()


def test_validation_is_carved_from_train_where_it_is_missing_and_noted() -> None:
    task = Task.from_records(split_rows(train=["a", "b"] * 7, test=["a", "b"]))
    assert (len(task.train), len(task.validation), len(task.test)) == (8, 6, 2)
    assert {example.label for example in task.validation} == {"a", "b"}
    assert task.notes == ("6 of 14 train examples made validation",)


def test_dropped_duplicates_and_absent_labels_are_noted() -> None:
    rows = split_rows(train=["a", "b", "a"], validation=["a"], test=["b"])
    rows.append({"text": "TEST  0", "label": "b", "split": "train"})
    task = Task.from_records(rows)
    assert len(task.train) == 3
    assert task.notes == (
        "1 duplicate row dropped (same text but for case and white space)",
        "no validation example has the label 'b'",
        "no test example has the label 'a'",
    )


def test_a_label_left_only_in_dropped_rows_is_no_label() -> None:
    rows = [*rows_of("a", "b"), {"text": "A 0", "label": "c"}]
    assert Task.from_records(rows).labels == ("a", "b")


def test_the_trivial_score_is_the_majority_share_of_the_split() -> None:
    task = Task.from_records(
        split_rows(train=["a", "b"], validation=["a", "a", "b", "b"], test=["b", "b", "b", "a"])
    )
    assert task.trivial_score("validation") == 0.5
    assert task.trivial_score("test") == 0.75


def hand_made() -> Task:
    return Task(
        name="hand-made",
        kind=TaskKind.CLASSIFICATION,
        layout=InputFormat("{text}"),
        metric=METRICS["accuracy"],
        splits=Splits(
            train=(Example("one", "a"), Example("two", "b")),
            validation=(Example("three", "a"),),
            test=(Example("four", "b"),),
        ),
        verbalizer=Verbalizer.identity(["a", "b"]),
        seed_prompt="Sort.",
    )


def test_a_hand_made_task_is_checked() -> None:
    task = hand_made()
    with pytest.raises(ConfigError, match="seed prompt is empty"):
        dataclasses.replace(task, seed_prompt=" \n")
    with pytest.raises(DataError, match="the validation split is empty"):
        dataclasses.replace(task, splits=dataclasses.replace(task.splits, validation=()))
    with pytest.raises(DataError, match="splits are not disjoint"):
        dataclasses.replace(task, splits=dataclasses.replace(task.splits, test=task.train))
    with pytest.raises(DataError, match="unknown label 'b'"):
        dataclasses.replace(task, verbalizer=Verbalizer.identity(["a", "c"]))
    with pytest.raises(ConfigError, match="a classification task needs a verbalizer"):
        dataclasses.replace(task, verbalizer=None)
    with pytest.raises(ConfigError, match="no other task takes one"):
        dataclasses.replace(task, kind=TaskKind.GENERATION, metric=METRICS["exact_match"])
    with pytest.raises(ConfigError, match="'exact_match' does not score classification tasks"):
        dataclasses.replace(task, metric=METRICS["exact_match"])


def test_the_fingerprint_changes_with_what_changes_scores_and_with_nothing_else() -> None:
    task = hand_made()
    same = dataclasses.replace(task, name="other", notes=("a note",))
    assert same.fingerprint() == task.fingerprint()
    test = (Example("four", "a"),)
    changed = [
        dataclasses.replace(task, seed_prompt="Sort!"),
        dataclasses.replace(task, splits=dataclasses.replace(task.splits, test=test)),
        dataclasses.replace(task, verbalizer=Verbalizer.identity(["b", "a"])),
        dataclasses.replace(task, verbalizer=Verbalizer({"a": "a", "b": "c"})),
        dataclasses.replace(task, metric=METRICS["macro_f1"]),
    ]
    assert len({task.fingerprint(), *(other.fingerprint() for other in changed)}) == 6


def test_the_fingerprint_is_the_same_in_another_process() -> None:
    code = (
        "from stableprompt.tasks.task import Task\n"
        "rows = [{'text': f'{l} {i}', 'label': l} for i in range(5) for l in 'abc']\n"
        "print(Task.from_records(rows).fingerprint())"
    )
    output = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert output.strip() == Task.from_records(rows_of("a", "b", "c")).fingerprint()


def test_a_task_survives_the_archive() -> None:
    task = dataclasses.replace(hand_made(), notes=("a note",))
    back = task_from_dict(json.loads(json.dumps(task_to_dict(task))))
    assert back == task
    assert back.fingerprint() == task.fingerprint()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("good 1", "good 9"),
        ('"label": "positive"', '"label": "negative"'),
        ("Classify", "Classifies"),
    ],
)
def test_a_task_that_was_changed_on_disk_is_not_taken_back(old: str, new: str) -> None:
    rows = [
        {"text": f"{('good', 'bad')[i % 2]} {i // 2}", "label": ("positive", "negative")[i % 2]}
        for i in range(24)
    ]
    written = json.dumps(task_to_dict(Task.from_records(rows)))
    assert task_from_dict(json.loads(written)).fingerprint()
    assert old in written
    with pytest.raises((RunError, DataError)):
        task_from_dict(json.loads(written.replace(old, new, 1)))


def test_an_example_that_holds_no_texts_is_damage() -> None:
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(24)]
    for name, value in (("text", 3), ("label", []), ("fields", {"text": ["a"]})):
        content = json.loads(json.dumps(task_to_dict(Task.from_records(rows))))
        content["train"][0][name] = value
        with pytest.raises(RunError, match=r"task\.json cannot be read"):
            task_from_dict(content)
