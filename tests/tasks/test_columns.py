import pytest

from stableprompt.errors import DataError
from stableprompt.tasks.columns import Columns, resolve_columns, split_name


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["text", "label"], Columns(("text",), "label")),
        (["id", "Sentence", "CLASS"], Columns(("Sentence",), "CLASS")),
        (["input", "output"], Columns(("input",), "output")),
        (["question", "answer", "Split"], Columns(("question",), "answer", split="Split")),
        (["question", "Options", "answer"], Columns(("question",), "answer", "Options")),
        (["input", "choices", "answer_index"], Columns(("input",), "answer_index", "choices")),
        (["input", "references"], Columns(("input",), "references")),
        (["content", "category"], Columns(("content",), "category")),
        (["message", "intent"], Columns(("message",), "intent")),
        (["review", "target"], Columns(("review",), "target")),
        (["y", "x"], Columns(("x",), "y")),
        (["sentence", "text", "class", "label"], Columns(("text",), "label")),
    ],
)
def test_common_names_are_guessed(columns: list[str], expected: Columns) -> None:
    assert resolve_columns(columns) == expected


def test_named_columns_win_and_are_not_guessed_a_second_time() -> None:
    columns = ["text", "message", "label", "team"]
    assert resolve_columns(columns, text="message", label="team") == Columns(("message",), "team")
    assert resolve_columns(columns, label="text") == Columns(("message",), "text")
    assert resolve_columns(["label", "class"], text="label") == Columns(("label",), "class")


def test_several_columns_are_the_fields_of_the_input() -> None:
    columns = ["hypothesis", "premise", "label", "choices"]
    found = resolve_columns(columns, text=["premise", "hypothesis"])
    assert found == Columns(("premise", "hypothesis"), "label", "choices")
    assert resolve_columns(columns, text=("choices",)) == Columns(("choices",), "label")
    assert resolve_columns(["q", "a", "b"], "q", "a", "b") == Columns(("q",), "a", "b")


def test_a_label_column_named_split_is_not_the_split_column() -> None:
    assert resolve_columns(["text", "split"], label="split") == Columns(("text",), "split")
    assert resolve_columns(["split", "label"], text="split") == Columns(("split",), "label")


@pytest.mark.parametrize(
    ("columns", "text", "label", "message"),
    [
        (["a", "label"], None, None, r"no text column.*'a', 'label'.*--text COLUMN"),
        (["text", "b"], None, None, r"no label column.*'text', 'b'.*--label COLUMN"),
        (["text", "label"], "body", None, r"no column 'body', found 'text', 'label'.*--text COL"),
        (["text", "label"], None, "team", r"no column 'team', found 'text', 'label'.*--label COL"),
        (["text", "label"], "text", "text", r"same column 'text'.*--text COLUMN and --label COL"),
        (["text", "label"], ["text", "text"], None, r"a text column is named twice"),
        (["text", "label"], ["text", "x"], None, r"no column 'x', found 'text', 'label'.*--text"),
    ],
)
def test_unresolvable_columns_are_listed(
    columns: list[str], text: str | list[str] | None, label: str | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        resolve_columns(columns, text, label)


def test_a_choices_column_that_is_missing_or_has_another_role() -> None:
    with pytest.raises(DataError, match=r"no column 'c', found.*name the choices column with --ch"):
        resolve_columns(["text", "label"], choices="c")
    with pytest.raises(DataError, match=r"label and choices are the same column 'label'"):
        resolve_columns(["text", "label"], "text", "label", "label")


def test_a_long_list_of_columns_is_cut() -> None:
    with pytest.raises(DataError, match=r"'c19' and 980 more: name it"):
        resolve_columns([f"c{i}" for i in range(1000)])


def test_split_spellings() -> None:
    found = [split_name(cell) for cell in ("train", " Valid", "val", "DEV", "validation", "test")]
    assert found == ["train", *["validation"] * 4, "test"]
    assert [split_name(cell) for cell in ("training", None, 1)] == [None, None, None]
