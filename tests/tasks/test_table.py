import csv
import json
import sys
import tempfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stableprompt.errors import DataError
from stableprompt.tasks.table import read_table

ROWS = [{"text": "naïve, “quoted”", "label": "a"}, {"text": "two\nlines", "label": "b"}]
EXTENSIONS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", 'text,label\n"naïve, “quoted”",a\n\n"two\nlines",b\n'),
        ("t.CSV", '\r\ntext , label\r\n"naïve, “quoted”",a\r\n"two\nlines",b\r\n'),
        ("t.tsv", 'text\tlabel\nnaïve, “quoted”\ta\n"two\nlines"\tb\n'),
        ("t.jsonl", "\n".join(json.dumps(row) for row in ROWS) + "\n\n"),
        ("t.ndjson", "\r\n".join(json.dumps(row) for row in ROWS)),
        ("t.json", json.dumps(ROWS)),
    ],
)
def test_every_text_format_gives_the_same_rows(
    tmp_path: Path, name: str, content: str, bom: str
) -> None:
    assert read_table(write(tmp_path, name, bom + content)) == ROWS


def test_parquet_gives_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    assert read_table(path) == ROWS


def test_a_short_csv_row_lacks_its_last_columns(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, "t.csv", "text,label\none\n")) == [
        {"text": "one", "label": None}
    ]


def test_a_line_separator_inside_a_json_string_does_not_end_the_line(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, "t.jsonl", '{"text": "a\u2028b"}')) == [{"text": "a\u2028b"}]


def test_a_text_of_one_megabyte_is_read_and_the_global_limit_restored(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    text = "x" * 1_000_000
    assert read_table(write(tmp_path, "t.csv", f"text,label\n{text},a\n"))[0]["text"] == text
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", "the file is empty"),
        ("t.jsonl", " \n\n", "the file is empty"),
        ("t.csv", "\ufeff", "the file is empty"),
        ("t.csv", "text,label\n", "only a header line .'text', 'label'. and no rows"),
        ("t.csv", "text,label\na,b\nc,d,e\n", "line 3: 3 fields, but the header has 2"),
        ("t.csv", 'text,label\n"a\nb",c\nd,e,f', "line 4: 3 fields"),
        ("t.csv", 'text,label\n"never closed,b\n', "line 2: not valid CSV"),
        ("t.csv", "text,text\na,b\n", "two columns have the name 'text'"),
        ("t.csv", "text;label\na;b\n", "separated by semicolons"),
        ("t.csv", "text\tlabel\na\tb\n", "separated by tabs"),
        ("t.tsv", "text,label\na,b\n", "separated by commas"),
        ("t.csv", b"text,label\ncaf\xe9,a\n", "not UTF-8 text .byte 14 is 0xe9.; save the file"),
        ("t.csv", b"\xef\xbb\xbfa,b\n\xff,c", "byte 7 is 0xff"),
        ("t.jsonl", "text".encode("utf-16"), "byte 0 is 0xff"),
        ("t.csv", "text,label\na\x00b,c\n", "a NUL byte at byte 12"),
        ("t.jsonl", '{"text": "a"}\n\n{"text": \n', "line 3: not valid JSON"),
        ("t.jsonl", '{"text": "a"}\n["b"]\n', "line 2: expected a JSON object, found a list"),
        ("t.jsonl", "[" * 100_000, "line 1: not valid JSON"),
        ("t.jsonl", "9" * 10_000, "line 1: not valid JSON"),
        ("t.json", '{"text": "a"}', "expected a JSON list of objects, found an object"),
        ("t.json", "null", "found null"),
        ("t.json", "[]", "the list is empty"),
        ("t.json", '[{"text": "a"}, 3]', "item 2: expected a JSON object, found a number"),
        ("t.json", "[{]", "not valid JSON"),
        ("t.parquet", "no parquet", "not a readable Parquet file"),
        ("t.parquet", "", "not a readable Parquet file"),
        ("t.xlsx", "x", r"\.xlsx is not one of \.csv, \.tsv, \.jsonl, \.ndjson, \.json, \.parquet"),
        ("t", "x", "the extension .none. is not one of"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_table(write(tmp_path, name, content))
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["missing.csv", "missing.parquet", "n" * 300 + ".csv", "\0.csv"])
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / name)


@pytest.mark.parametrize("name", ["folder.csv", "folder.parquet"])
def test_a_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="is a folder: give the path of one file"):
        read_table(tmp_path / name)


def test_a_file_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"cannot read .*\(Permission denied\)"):
        read_table(write(tmp_path, "t.csv", "text,label\na,b\n"))


def test_parquet_without_rows_or_with_a_column_twice(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    empty = pyarrow.table({"text": pyarrow.array([], pyarrow.string())})
    pyarrow.parquet.write_table(empty, path)
    with pytest.raises(DataError, match="no rows"):
        read_table(path)
    twice = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"])
    pyarrow.parquet.write_table(twice, path)
    with pytest.raises(DataError, match="two columns have the name 'text'"):
        read_table(path)


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'stableprompt\[parquet\]'"):
        read_table(write(tmp_path, "t.parquet", "x"))


@settings(deadline=None, max_examples=200)
@given(
    extension=st.sampled_from(EXTENSIONS),
    content=st.one_of(
        st.binary(max_size=60),
        st.text(alphabet='ab,"\n\r\t;{}[]:1é\u2028', max_size=60).map(lambda t: t.encode("utf-8")),
    ),
)
def test_any_bytes_give_rows_or_a_data_error(extension: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), f"t{extension}", content)
        try:
            rows = read_table(path)
        except DataError as error:
            assert "\n" not in str(error)
        else:
            assert rows
            assert all(isinstance(row, dict) for row in rows)


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@settings(deadline=None)
@given(st.lists(st.tuples(ANY_TEXT, st.text("ab", min_size=1)), min_size=1))
def test_what_csv_writes_is_read_back(rows: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
        assert [(row["text"], row["label"]) for row in read_table(path)] == rows
