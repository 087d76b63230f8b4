"""The three kinds of task from rows, and back from a run folder's JSON."""

import json
from pathlib import Path
from typing import Any

import pytest

from stableprompt.errors import ConfigError, DataError, RunError
from stableprompt.tasks.archive import task_from_dict, task_to_dict, unseen
from stableprompt.tasks.example import Example, TaskKind
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import TargetTemplate

Rows = list[dict[str, Any]]


def generation_rows(count: int = 10) -> Rows:
    return [{"input": f"{i} + 1", "outputs": [str(i + 1), f"n{i + 1}"]} for i in range(count)]


def choice_rows(count: int = 10) -> Rows:
    return [
        {"question": f"q{i}", "choices": [f"a{i}", f"b{i}", f"c{i}"], "answer": i % 3}
        for i in range(count)
    ]


def pair_rows(count: int = 12) -> Rows:
    return [
        {"premise": f"p{i}", "hypothesis": f"h{i}", "label": "yes" if i % 2 else "no"}
        for i in range(count)
    ]


PAIR: Any = {"text": ["premise", "hypothesis"]}


def test_lists_of_several_answers_make_a_generation_task() -> None:
    task = Task.from_records(generation_rows())
    assert task.kind is TaskKind.GENERATION
    assert task.metric.name == "exact_match"
    assert task.seed_prompt == "Write the output for the input. Reply with the output only."
    assert (len(task.train), len(task.validation), len(task.test)) == (4, 3, 3)
    example = next(
        e for s in ("train", "validation", "test") for e in task.splits.part(s) if e.text == "4 + 1"
    )
    assert example == Example("4 + 1", "5", ("n5",), (), {"input": "4 + 1"})
    assert example.answers == ("5", "n5")
    assert task.labels == task.allowed_outputs == task.answer_words(example) == ()
    assert task.shown_answer(example) == "5"


def told_of_repeating(rows: Rows, **options: Any) -> list[str]:
    notes = Task.from_records(rows, **options).notes
    return [note for note in notes if "repeats its input" in note]


def echoes(count: int, of: int) -> Rows:
    rows = [{**row, "split": ("train", "test")[i < 2]} for i, row in enumerate(generation_rows(of))]
    for row in rows[-count:] if count else []:
        row["outputs"].append(f"{row['input']} ")
    return rows


def test_a_score_of_repeating_the_input_is_told_of_from_a_quarter_on() -> None:
    # 20 train examples of which 3/7 become validation; all or none of them have it.
    [note] = told_of_repeating(echoes(20, of=22))
    assert note.startswith("a target that only repeats its input scores 1.00 by exact_match")
    assert told_of_repeating(echoes(0, of=22)) == []


def test_repeating_counts_by_the_metric_and_only_where_answers_are_free() -> None:
    rows = [
        {"one": f"word {i}", "other": f"thing {i}", "answer": f"word {i} is a thing"}
        for i in range(20)
    ]
    fields: Any = {"text": ["one", "other"], "label": "answer", "kind": "generation"}
    assert told_of_repeating(rows, **fields) == []  # never quite right
    [note] = told_of_repeating(rows, **fields, metric="token_f1")  # 2 of 2 words, 2 of 4
    assert "0.67 by token_f1" in note
    own = {"metric": lambda example, prediction: 1.0}
    assert told_of_repeating(rows, **fields, **own) == []
    teams = [{"old": ("a", "b")[i % 2], "id": str(i), "new": ("a", "b")[i % 2]} for i in range(40)]
    assert told_of_repeating(teams, text=["old", "id"], label="new") == []  # an input like others


def test_a_kind_that_is_named_wins() -> None:
    rows = [{"text": f"t{i}", "label": f"answer {i % 2}"} for i in range(10)]
    assert Task.from_records(rows).kind is TaskKind.CLASSIFICATION
    assert Task.from_records(rows, kind="generation").kind is TaskKind.GENERATION
    one_each = [{"text": row["text"], "label": [row["label"]]} for row in rows]
    assert Task.from_records(one_each).labels == ("answer 0", "answer 1")


def test_free_text_is_no_classification_and_the_message_says_what_to_do() -> None:
    rows = [{"text": f"t{i}", "label": f"answer {i}"} for i in range(60)]
    with pytest.raises(DataError, match="looks like free text: use --kind generation"):
        Task.from_records(rows)


def test_a_column_of_choices_makes_multiple_choice_with_letters() -> None:
    task = Task.from_records(choice_rows())
    assert task.kind is TaskKind.MULTIPLE_CHOICE
    assert task.metric.name == "accuracy"
    assert task.seed_prompt == "Answer the question with the letter of the right choice."
    example = next(e for e in (*task.train, *task.validation, *task.test) if "q4" in e.text)
    assert example.text == "q4\nA. a4\nB. b4\nC. c4"
    assert (example.label, example.choices) == ("B", ("A", "B", "C"))
    assert example.fields == {"question": "q4", "choices": "A. a4\nB. b4\nC. c4"}
    assert task.allowed_outputs == task.answer_words(example) == ("A", "B", "C")
    assert task.fields == ("question", "choices")


def test_or_with_the_choices_themselves() -> None:
    task = Task.from_records(choice_rows(), choice_style="text")
    example = task.train[0]
    assert example.label in example.choices
    assert example.text.splitlines()[1:] == [f"- {choice}" for choice in example.choices]
    assert task.allowed_outputs == ()
    assert task.seed_prompt == "Answer the question with the right choice, in its own words."


def test_multiple_choice_without_choices() -> None:
    with pytest.raises(DataError, match=r"needs a column with the choices.*--choices COLUMN"):
        Task.from_records(generation_rows(), kind="multiple_choice")
    with pytest.raises(ConfigError, match="kind must be one of classification, multiple_choice"):
        Task.from_records(generation_rows(), kind="poem")


def test_several_fields_become_one_input() -> None:
    task = Task.from_records(pair_rows(), **PAIR)
    assert task.fields == ("premise", "hypothesis")
    assert {e.text for e in task.train} <= {f"Premise: p{i}\nHypothesis: h{i}" for i in range(12)}
    layout = "{hypothesis} <- {premise}"
    task = Task.from_records(pair_rows(), input_format=layout, **PAIR)
    assert {e.text for e in task.train} <= {f"h{i} <- p{i}" for i in range(12)}


def test_an_input_format_that_leaves_a_field_out() -> None:
    with pytest.raises(ConfigError, match="does not show the field 'hypothesis'"):
        Task.from_records(pair_rows(), input_format="{premise}", **PAIR)


def test_a_field_that_is_missing_in_a_row() -> None:
    rows = [*pair_rows(), {"premise": "p", "label": "no"}]
    with pytest.raises(DataError, match=r"1 row \(row 13\) with no text in column 'hypothesis'"):
        Task.from_records(rows, **PAIR)


def test_a_seed_prompt_must_place_all_fields_or_none() -> None:
    for prompt in (
        "Does {premise} give {hypothesis}?",
        "Sort {text}.",
        "Is {premise} so, in {text}?",
        "Sort it for {name}.",
    ):
        assert Task.from_records(pair_rows(), seed_prompt=prompt, **PAIR).seed_prompt == prompt
    with pytest.raises(ConfigError, match=r"has no \{hypothesis\}, so the target would never see"):
        Task.from_records(pair_rows(), seed_prompt="Is {premise} so?", **PAIR)


def test_a_placeholder_that_is_no_field_is_noted() -> None:
    [note] = Task.from_records(pair_rows(), seed_prompt="Sort {txt}.", **PAIR).notes
    assert note == (
        "{txt} in the prompt is no field of the input ('text', 'premise', 'hypothesis'): it "
        "is sent as it stands, and every prompt must keep it"
    )


def test_label_words_are_for_classification() -> None:
    with pytest.raises(ConfigError, match="label_words are for classification, this task is gen"):
        Task.from_records(generation_rows(), label_words={"5": "five"})


def test_a_metric_must_fit_the_kind() -> None:
    assert Task.from_records(generation_rows(), metric="token_f1").metric.name == "token_f1"
    with pytest.raises(ConfigError, match="'macro_f1' scores classification tasks"):
        Task.from_records(generation_rows(), metric="macro_f1")


def test_the_trivial_score() -> None:
    rows = [
        {"text": f"{s}{i}", "label": "ab"[i > 5], "split": s}
        for s in ("train", "validation", "test")
        for i in range(8)
    ]
    assert Task.from_records(rows).trivial_score("test") == 6 / 8
    assert Task.from_records(rows, metric="balanced_accuracy").trivial_score("test") == 0.5
    # Right choices A, B, C, A, ...: always A is right for 0, 3, 6, 9 of 10.
    choices = [{**row, "split": s} for row in choice_rows() for s in ("train", "test")]
    for row in choices:
        row["question"] += row["split"]
    assert Task.from_records(choices).trivial_score("test") == 4 / 10
    free = [{**row, "label": row["label"] * 2} for row in rows]
    assert Task.from_records(free, kind="generation").trivial_score("test") == 6 / 8


# --- traps in tables ---


@pytest.mark.parametrize("column", ["hypothesis (en)", "review/text", "question?", "1st", "a:b"])
def test_any_column_name_is_shown_to_the_target(column: str) -> None:
    rows = [{**row, column: f"so {i}"} for i, row in enumerate(pair_rows())]
    for text in (["premise", column], [column]):
        task = Task.from_records(rows, text=text, label="label")
        for example in (*task.train, *task.validation, *task.test):
            assert all(value in example.text for value in example.fields.values())
            assert "{" not in example.text
    choice = [{**row, column: f"so {i}"} for i, row in enumerate(choice_rows())]
    assert "so " in Task.from_records(choice, text=column).train[0].text


def test_column_names_that_become_one() -> None:
    rows = [{**row, "a/b": f"x {i}", "a?b": f"y {i}"} for i, row in enumerate(pair_rows())]
    with pytest.raises(DataError, match="have names that are too alike"):
        Task.from_records(rows, text=["a/b", "a?b"], label="label")


def test_text_is_the_whole_input_even_if_a_field_is_called_text() -> None:
    rows = [{**row, "text": row["question"]} for row in choice_rows()]
    task = Task.from_records(rows, text="text", seed_prompt="Answer: {text}")
    [message] = TargetTemplate().messages(task.seed_prompt, task.train[0])
    assert message["content"] == f"Answer: {task.train[0].text}"
    assert "A. " in message["content"]


def test_a_field_called_choices_beside_choices() -> None:
    rows = [{**row, "choices": "x", "options": row["choices"]} for row in choice_rows()]
    with pytest.raises(DataError, match="a text column cannot be called 'choices'"):
        Task.from_records(rows, text=["question", "choices"], choices="options")


def test_choices_are_for_multiple_choice() -> None:
    with pytest.raises(ConfigError, match="--choices is for multiple choice, not for generation"):
        Task.from_records(choice_rows(), kind="generation", choices="choices")
    [note] = Task.from_records(choice_rows()).notes
    assert note == "choices are read from the column 'choices'; --kind says otherwise"
    assert Task.from_records(choice_rows(), choices="choices").notes == ()


def test_a_list_in_a_cell_of_text_makes_generation() -> None:
    rows = [{"text": f"t {i}", "label": f'["a{i}", "b{i}"]'} for i in range(6)]
    assert Task.from_records(rows).kind is TaskKind.GENERATION


def test_rows_with_one_reference_each_are_put_together() -> None:
    rows = [{"input": f"t {i // 2}", "output": f"a {i}"} for i in range(20)]
    task = Task.from_records(rows, kind="generation")
    for example in (*task.train, *task.validation, *task.test):
        number = int(example.text.split()[1])
        assert set(example.answers) == {f"a {2 * number}", f"a {2 * number + 1}"}
    assert "10 duplicate rows dropped" in task.notes[0]


def test_copies_with_different_labels_are_counted() -> None:
    rows = [{"text": f"t {i}", "label": "ab"[i % 2]} for i in range(12)]
    task = Task.from_records([*rows, {"text": "T  0", "label": "b"}])
    assert task.notes[0] == "1 text has rows with different labels; one row is kept"


def test_the_same_question_with_choices_in_another_order_is_the_same() -> None:
    rows = [{**row, "split": split} for split in ("train", "test") for row in choice_rows()]
    for row in rows[10:]:
        row["choices"] = row["choices"][::-1]
        row["answer"] = 2 - row["answer"]
    rows += [{**row, "question": f"other {row['question']}", "split": "train"} for row in rows[:10]]
    task = Task.from_records(rows)
    assert "10 duplicate rows dropped (same text but for case and white space)" in task.notes
    assert {e.fields["question"] for e in task.test} == {f"q{i}" for i in range(10)}
    assert not {e.fields["question"] for e in task.train} & {f"q{i}" for i in range(10)}


def test_choices_are_shuffled_where_the_right_one_always_stands_first() -> None:
    rows = [{**row, "answer": 0} for row in choice_rows(30)]
    task = Task.from_records(rows, choices="choices")
    assert task.notes == ("the right choice always had the same place; choices shuffled",)
    examples = [*task.train, *task.validation, *task.test]
    assert {e.label for e in examples} == {"A", "B", "C"}
    for example in examples:
        number = example.fields["question"][1:]
        listed = dict(line.split(". ") for line in example.fields["choices"].splitlines())
        assert listed[example.label] == f"a{number}"
    assert Task.from_records(rows, choices="choices", seed=5).layout == task.layout
    again = {
        e.text: e.label
        for s in Task.from_records(rows, seed=5).splits.__class__.__slots__
        for e in Task.from_records(rows, seed=5).splits.part(s)
    }  # type: ignore[arg-type]
    assert all(again[e.text] == e.label for e in examples)  # the order follows from the texts
    assert Task.from_records(rows[:9], choices="choices").notes == ()


# --- sizes ---


def test_generation_is_cut_without_regard_to_the_answers() -> None:
    assert len(Task.from_records(generation_rows(3)).test) == 1
    with pytest.raises(DataError, match=r"at least 3 different examples .*found 2"):
        Task.from_records(generation_rows(2))


def test_a_limit_keeps_labels_in_proportion_and_is_noted() -> None:
    rows = [
        {"text": f"{s}{i}", "label": "ab"[i % 4 == 0], "split": s}
        for s in ("train", "validation", "test")
        for i in range(40)
    ]
    task = Task.from_records(rows, limit={"test": 8, "train": 100})
    assert (len(task.train), len(task.validation), len(task.test)) == (40, 40, 8)
    assert sum(e.label == "b" for e in task.test) == 2
    assert task.notes == ("8 of 40 test examples drawn",)
    again = Task.from_records(rows, limit={"test": 8})
    assert again.test == task.test
    other = Task.from_records(rows, limit={"test": 8}, seed=1)
    assert other.test != task.test


@pytest.mark.parametrize("limit", [{"test": 0}, {"dev": 5}])
def test_a_limit_that_makes_no_sense(limit: Any) -> None:
    with pytest.raises(ConfigError, match="limit must give train, validation or test a number"):
        Task.from_records(pair_rows(), limit=limit, **PAIR)


def test_near_duplicates_across_splits_are_reported() -> None:
    long = "the quick brown fox jumps over the lazy dog near the old river bank today"
    rows = [
        {"text": f"{name} {s} {i}", "label": "ab"[i % 2], "split": s}
        for s in ("train", "validation", "test")
        for i, name in enumerate("klmn")
    ]
    rows += [{"text": f"{long} {s}", "label": "a", "split": s} for s in ("train", "test")]
    notes = Task.from_records(rows).notes
    assert len(notes) == 1
    assert "nearly" in notes[0] and "bank today" in notes[0]


# --- archive ---


def test_every_kind_survives_the_run_folder() -> None:
    tasks = [
        Task.from_records(generation_rows(), metric="token_f1", max_answer_tokens=7),
        Task.from_records(choice_rows(), choice_style="text", name="mine"),
        Task.from_records(pair_rows(), label_words={"yes": "Y", "no": "N"}, **PAIR),
    ]
    for task in tasks:
        content = json.loads(json.dumps(task_to_dict(task)))
        assert task_from_dict(content) == task
        assert task_from_dict(content).fingerprint() == task.fingerprint()
    assert len({task.fingerprint() for task in tasks}) == 3


def own(example: Example, prediction: str) -> float:
    return float(prediction == example.label)


def test_a_metric_of_ones_own_is_never_looked_up_by_name() -> None:
    task = Task.from_records(generation_rows(), metric=own)
    content = json.loads(json.dumps(task_to_dict(task)))
    assert content["metric"] == "own"
    with pytest.raises(ConfigError, match="own"):
        task_from_dict(content)
    back = task_from_dict(content, own)
    assert back.metric.value(Example("t", "x"), "x") == 1.0
    assert back.fingerprint() == task.fingerprint()


@pytest.mark.parametrize("name", ["os:system", "os.system", "__import__", "builtins.eval"])
def test_a_run_folder_cannot_name_code_to_run(name: str) -> None:
    content = task_to_dict(Task.from_records(generation_rows())) | {"metric": name}
    with pytest.raises(ConfigError, match="scored by a function of your own"):
        task_from_dict(content)


def other(example: Example, prediction: str) -> float:
    return 0.0


def test_a_run_goes_on_with_its_own_metric_only() -> None:
    mine = task_to_dict(Task.from_records(generation_rows(), metric=own))
    built_in = task_to_dict(Task.from_records(generation_rows()))
    for content in (mine, built_in):
        with pytest.raises(ConfigError, match=r"is scored by '.*', the function given is 'other'"):
            task_from_dict(content, other)


@pytest.mark.parametrize(
    "damage", [{"kind": "foo"}, {"train": [{"x": 1}]}, {"layout": {"y": 2}}, {"label_words": 3}]
)
def test_a_damaged_archive_is_one_clear_line(damage: dict[str, Any]) -> None:
    content = task_to_dict(Task.from_records(generation_rows())) | damage
    with pytest.raises(RunError, match=r"task.json cannot be read .* start a new run"):
        task_from_dict(content)
    with pytest.raises(RunError, match="KeyError: 'kind'"):
        task_from_dict({"name": "of an older version", "metric": "exact_match"})


def test_what_decides_a_score_is_in_the_fingerprint() -> None:
    base = Task.from_records(generation_rows())
    others = [
        Task.from_records(generation_rows(), metric="token_f1"),
        Task.from_records(generation_rows(), max_answer_tokens=3),
        Task.from_records(
            [{**r, "outputs": r["outputs"][:1]} for r in generation_rows()], kind="generation"
        ),
    ]
    assert len({task.fingerprint() for task in (base, *others)}) == 4


def test_other_data_is_judged_as_the_run_was() -> None:
    run = Task.from_records(generation_rows(), metric="token_f1", rubric="R", max_answer_tokens=7)
    fresh = [{"input": f"new {i}", "outputs": ["a", "b"]} for i in range(10)]
    seen = [{"input": e.text, "outputs": list(e.answers)} for e in (*run.train, *run.validation)]
    rows = [{**row, "split": "test"} for row in (*fresh, *seen)]
    rows += [{"input": f"t {i}", "outputs": ["a", "b"], "split": "train"} for i in range(5)]
    judged = unseen(Task.from_records(rows), run)
    assert {e.text for e in judged.test} == {f"new {i}" for i in range(10)}
    assert judged.train == run.train and judged.validation == run.validation
    assert (judged.metric, judged.rubric, judged.max_answer_tokens) == (run.metric, "R", 7)
    assert judged.notes[-1] == "7 of 17 test texts left out: the run was tuned on them"


def test_the_same_texts_with_corrected_answers_are_other_data() -> None:
    run = Task.from_records(generation_rows())
    corrected = [{**row, "outputs": [*row["outputs"], "also"]} for row in generation_rows()]
    judged = unseen(Task.from_records(corrected), run)
    assert all("also" in example.answers for example in judged.test)
    assert unseen(Task.from_records(generation_rows()), run) is run


def test_what_a_run_has_seen_whole_cannot_judge_it() -> None:
    run = Task.from_records(generation_rows())
    rows = [{"input": e.text, "outputs": ["x", "y"], "split": "test"} for e in run.train]
    rows += [{"input": f"t {i}", "outputs": ["a", "b"], "split": "train"} for i in range(5)]
    with pytest.raises(DataError, match="has seen every test example"):
        unseen(Task.from_records(rows), run)


def test_data_of_another_kind_cannot_be_judged_by_a_run() -> None:
    run = Task.from_records(generation_rows())
    with pytest.raises(DataError, match="tuned for generation, these examples are multiple_choi"):
        unseen(Task.from_records(choice_rows()), run)


# --- promptfoo ---


def test_a_table_of_promptfoo_tests(tmp_path: Path) -> None:
    lines = ["question,tone,__expected", *(f'q{i},kind,"contains: a{i}"' for i in range(6))]
    path = tmp_path / "tests.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    task = Task.from_file(path)
    assert (task.kind, task.metric.name) == (TaskKind.GENERATION, "contains_strict")
    assert task.name == "tests"
    assert task.fields == ("question", "tone")
    assert {e.label for e in task.train} <= {f"a{i}" for i in range(6)}


def test_a_promptfoo_rubric_is_what_the_judge_requires(tmp_path: Path) -> None:
    lines = ["q,__expected", *(f'q{i},"llm-rubric: mentions {i}"' for i in range(6))]
    path = tmp_path / "tests.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    task = Task.from_file(path)
    assert (task.metric.name, task.rubric) == ("judge", "{reference}")
    assert {e.label for e in task.train} <= {f"mentions {i}" for i in range(6)}
    assert task_from_dict(json.loads(json.dumps(task_to_dict(task)))) == task
