from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stableprompt.errors import DataError
from stableprompt.tasks.promptfoo import from_promptfoo, is_promptfoo
from stableprompt.tasks.table import Row, read_table


def rows_expecting(*expected: object, **others: object) -> list[Row]:
    """One row for each expectation, with an input and the other cells."""
    return [
        {"input": f"text {number}", "__expected": value, **others}
        for number, value in enumerate(expected)
    ]


def references(*expected: object) -> list[object]:
    return [row["references"] for row in from_promptfoo(rows_expecting(*expected), "t.csv").rows]


def test_a_file_becomes_rows_with_variables_and_references(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "__description,question,__expected1,language,__expected2\n"
        "one,Capital of France?,contains: Paris,English,\n"
        'two,"Hauptstadt von Peru?",,Deutsch,"contains-any: Lima, die Stadt Lima"\n',
        encoding="utf-8",
    )
    rows = read_table(path)
    assert is_promptfoo(rows[0])
    table = from_promptfoo(rows, str(path))
    assert table.rows == (
        {"question": "Capital of France?", "language": "English", "references": ["Paris"]},
        {
            "question": "Hauptstadt von Peru?",
            "language": "Deutsch",
            "references": ["Lima", "die Stadt Lima"],
        },
    )
    assert table.fields == ("question", "language")
    assert table.metric == "contains_strict"
    assert table.notes == ("left out, as settings of promptfoo: '__description'",)


@pytest.mark.parametrize(
    ("expected", "metric", "answers"),
    [
        ("Paris", "exact_match_strict", ["Paris"]),
        ("  Paris \n", "exact_match_strict", ["Paris"]),
        ("equals: Paris", "exact_match_strict", ["Paris"]),
        ("equals:Paris: the city", "exact_match_strict", ["Paris: the city"]),
        (" contains: Paris, France", "contains_strict", ["Paris, France"]),
        ("icontains: two\nlines ", "contains_any_case", ["two\nlines"]),
        ("contains-any: a, b c ,d", "contains_strict", ["a", "b c", "d"]),
        ("icontains-any: a,,b,", "contains_any_case", ["a", "b"]),
        ('contains-any: "a, b" , "say ""c""",d"e"', "contains_strict", ["a, b", 'say "c"', 'd"e"']),
        ("llm-rubric: is polite, and short", "judge", ["is polite, and short"]),
        ("grade: is polite", "judge", ["is polite"]),
    ],
)
def test_each_supported_assertion_has_its_metric(
    expected: str, metric: str, answers: list[str]
) -> None:
    table = from_promptfoo(rows_expecting(expected), "t.csv")
    assert (table.metric, table.rows[0]["references"]) == (metric, answers)


@pytest.mark.parametrize(
    "text",
    [
        "note: see below",
        "http://example.com/a",
        "12:30",
        "Contains: x",  # promptfoo's types are lower case
        "contains the word",
        "contain: Paris",
        "not: this",
        "not-a-type: this",
        "grade",
        "fn",
        "similar(high): x",
        "first line\ncontains: x",
        "a { b } c",
    ],
)
def test_a_text_that_is_no_assertion_is_expected_as_it_stands(text: str) -> None:
    table = from_promptfoo(rows_expecting(text), "t.csv")
    assert (table.metric, table.rows[0]["references"]) == ("exact_match_strict", [text])


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ("regex: ^a+$", "'regex'"),
        ("javascript: output.length < 10", "'javascript'"),
        ("fn: output", "'fn'"),
        ("eval: output", "'eval'"),
        ("python: len(output)", "'python'"),
        ("is-json", "'is-json'"),
        ("cost(0.5)", r"'cost\(0.5\)'"),
        ("similar(0.8): hello", r"'similar\(0.8\)'"),
        ("similar:cosine: hello", "'similar'"),
        ("word-count: 5", "'word-count'"),
        ("contains-all: a, b", "'contains-all'"),
        ("not-contains: a", "'not-contains'"),
        ("not-equals: a", "'not-equals'"),
        ("equals(0.5): a", r"'equals\(0.5\)'"),
        ("trajectory:tool-used: search", "'trajectory:tool-used'"),
    ],
)
def test_other_assertions_are_refused_with_what_is_supported(expected: str, found: str) -> None:
    message = rf"^t.csv, row 2: the assertion {found} is not supported; supported is one .*contains"
    with pytest.raises(DataError, match=message):
        from_promptfoo(rows_expecting("equals: a", expected), "t.csv")


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ("", "nothing in __expected; write what is correct: supported is one assertion a row"),
        (None, "nothing in __expected"),
        ("  ", "nothing in __expected"),
        ("equals:", "nothing is expected by 'equals:'; write it after the colon"),
        ("contains", "nothing is expected by 'contains'"),
        ("contains-any: , ,", "nothing is expected"),
        ('contains-any: a, ""', "nothing is expected"),
        (
            'contains-any: "a',
            'the quotes in .* do not enclose whole alternatives; write .*"a, b", c',
        ),
        ('contains-any: "a"b', "do not enclose whole alternatives"),
        (r'contains-any: "a\", b"', "do not enclose whole alternatives"),
        ("contains: {{answer}}", "'{{answer}}' would be filled in or read from a file"),
        ("{% if x %}a{% endif %}", "would be filled in"),
        ("file://check.py", "'file://check.py' would be filled in or read from a file"),
        ("equals: file://answer.txt", "read from a file by promptfoo; write out what is expected"),
        (4, r"'4' \(int\) in '__expected' is not a text; write it as one"),
        (["a"], r"\(list\) in '__expected' is not a text"),
        (float("nan"), r"'nan' \(float\)"),
    ],
)
def test_an_unusable_expectation_is_refused_with_its_row(expected: object, message: str) -> None:
    with pytest.raises(DataError, match=rf"^t.csv, row 2: .*{message}"):
        from_promptfoo(rows_expecting("a", expected), "t.csv")


def test_two_assertions_in_a_row_are_refused() -> None:
    rows: list[Row] = [{"input": "a", "__expected1": "a", "__expected2": "contains: b"}]
    with pytest.raises(DataError, match="row 1: assertions in '__expected1', '__expected2'; keep"):
        from_promptfoo(rows, "t.csv")


def test_rows_must_agree_on_what_is_measured() -> None:
    message = "row 3: the assertion is contains, but equals in row 1; a task has one metric"
    with pytest.raises(DataError, match=message):
        from_promptfoo(rows_expecting("a", "equals: b", "contains: c"), "t.csv")
    assert references("a", "equals: b") == [["a"], ["b"]]


def test_a_prefix_of_all_rows_is_left_out_with_a_note() -> None:
    table = from_promptfoo(rows_expecting("a", "b", __prefix="Answer: ", __suffix=" "), "t.csv")
    assert table.notes == (
        "left out: '__prefix' 'Answer:' is part of the prompt; where it matters, write it into the "
        "seed prompt",
    )
    assert table.fields == ("input",)


def test_different_suffixes_are_refused() -> None:
    rows = [*rows_expecting("a", __suffix="Be brief."), *rows_expecting("b", __suffix=None)]
    message = r"rows differ in '__suffix' \('Be brief.', ''\), which is part of the prompt"
    with pytest.raises(DataError, match=message):
        from_promptfoo(rows, "t.csv")


def test_settings_with_a_value_are_named_in_a_note() -> None:
    others = {
        "__threshold": "0.5",
        "__metric": "",
        "__metadata:category": "x",
        "__config:__expected:threshold": "1",
        "__providerOutput": None,
    }
    table = from_promptfoo(rows_expecting("a", **others), "t.csv")
    assert table.notes == (
        "left out, as settings of promptfoo: '__threshold', '__metadata:category', "
        "'__config:__expected:threshold'",
    )
    assert table.rows == ({"input": "text 0", "references": ["a"]},)


def test_a_file_in_a_variable_is_taken_as_text_with_a_note() -> None:
    rows = rows_expecting("a", "b", image="file://cat.png")
    table = from_promptfoo(rows, "t.csv")
    assert table.rows[1]["image"] == "file://cat.png"
    [note] = table.notes
    assert note.startswith("2 rows (first: 1, 2) with file://... in 'image': taken as text")


def test_a_split_column_is_kept_and_is_no_variable() -> None:
    table = from_promptfoo(rows_expecting("a", split="train"), "t.csv")
    assert table.fields == ("input",)
    assert table.rows[0]["split"] == "train"


def test_a_row_without_a_column_has_none_in_it() -> None:
    rows: list[Row] = [{"a": "1", "__expected": "x"}, {"b": "2", "__expected": "y"}]
    table = from_promptfoo(rows, "t.jsonl")
    assert table.fields == ("a", "b")
    assert table.rows[1] == {"a": None, "b": "2", "references": ["y"]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "t.csv: there are no rows; add tests"),
        ([{"__expected": "a"}], "no column with a variable, found '__expected'; add one"),
        ([{"split": "test", "__expected": "a"}], "no column with a variable"),
        ([{"references": "b", "__expected": "a"}], "rename this column"),
    ],
)
def test_a_table_without_usable_variables_is_refused(rows: list[Row], message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_promptfoo(rows, "t.csv")


@pytest.mark.parametrize(
    ("columns", "answer"),
    [
        (["input", "__expected"], True),
        ([" __expected2 "], True),
        (["input", "expected", "_expected"], False),
        (["__description", "text", "label"], False),
        ([], False),
    ],
)
def test_a_promptfoo_table_is_known_by_its_expectations(columns: list[str], answer: bool) -> None:
    assert is_promptfoo(columns) is answer


PIECES = st.sampled_from(
    [
        *("contains", "contains-any", "equals", "not-", "llm-rubric", "is-json", "grade", "(0.5)"),
        *(":", ",", '"', "\\", " ", "\n", "a", "é", "{{", "file://"),
    ]
)
CELLS = (
    st.lists(PIECES, max_size=6).map("".join)
    | st.text(max_size=10)
    | st.none()
    | st.integers()
    | st.floats()
    | st.lists(st.text(max_size=2), max_size=2)
)
COLUMNS = st.sampled_from(
    [
        *("input", "x", "split", "references", "__expected", "__expected2", " __expected"),
        *("__prefix", "__threshold", "__", ""),
    ]
)


@settings(deadline=None, max_examples=400)
@given(st.lists(st.dictionaries(COLUMNS, CELLS, max_size=4), max_size=4))
def test_any_rows_give_a_table_or_a_data_error(rows: list[Row]) -> None:
    try:
        table = from_promptfoo(rows, "t.csv")
    except DataError as error:
        assert str(error).startswith("t.csv")
        assert len(str(error).splitlines()) == 1
    else:
        require_sound(table.rows, rows)


@settings(deadline=None, max_examples=400)
@given(st.lists(CELLS, min_size=1, max_size=2))
def test_any_expectations_give_references_or_a_data_error(expected: list[object]) -> None:
    try:
        table = from_promptfoo(rows_expecting(*expected), "t.csv")
    except DataError as error:
        assert len(str(error).splitlines()) == 1
    else:
        require_sound(table.rows, expected)


def require_sound(rows: tuple[Row, ...], given_rows: list[Row] | list[object]) -> None:
    assert len(rows) == len(given_rows)
    for row in rows:
        answers = row["references"]
        assert isinstance(answers, list) and answers
        assert all(isinstance(answer, str) and answer == answer.strip() != "" for answer in answers)
        assert not any(name.strip().startswith("__") for name in row)


@settings(deadline=None)
@given(st.text(min_size=1).map(str.strip).filter(bool))
def test_a_text_after_equals_is_expected_literally(text: str) -> None:
    if "{{" not in text and "{%" not in text and not text.startswith("file://"):
        assert references(f"equals: {text}") == [[text]]
