"""Whatever is in a file, reading it gives rows or one line that says what is wrong."""

import csv
import io
import json
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stableprompt.errors import DataError
from stableprompt.tasks.table import Row, read_table

TEXT_EXTENSIONS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
ROWS: list[Row] = [
    {"text": "naïve, “quoted”", "label": "a", "n": 1},
    {"text": 'two\nlines and a "quote"', "label": "b", "n": -2},
    {"text": "tab\tand \u2028 and 😀", "label": "a", "n": 3},
]


def read(extension: str, content: bytes) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"name{extension}"
        path.write_bytes(content)
        return read_table(path)


def require_rows_or_one_line(extension: str, content: bytes) -> None:
    limit = csv.field_size_limit()
    try:
        rows = read(extension, content)
    except DataError as error:
        message = str(error)
        assert len(message.splitlines()) == 1
        assert f"name{extension}" in message
        assert len(message) < 2000
    else:
        assert rows
        assert all(type(row) is dict for row in rows)
        assert all(isinstance(name, str) for row in rows for name in row)
    assert csv.field_size_limit() == limit


def as_csv(rows: list[Row], delimiter: str = ",", line_end: str = "\r\n") -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(
        file,
        list(rows[0]),
        delimiter=delimiter,
        lineterminator=line_end,
        # Where lines end with one sign, the writer leaves the other one unquoted in a field.
        quoting=csv.QUOTE_MINIMAL if line_end == "\r\n" else csv.QUOTE_ALL,
    )
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode("utf-8")


def as_jsonl(rows: list[Row], line_end: str = "\n") -> bytes:
    return line_end.join(json.dumps(row, ensure_ascii=False) for row in rows).encode("utf-8")


def as_parquet(rows: list[Row]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


VALID: dict[str, bytes] = {
    ".csv": as_csv(ROWS),
    ".tsv": as_csv(ROWS, "\t", "\n"),
    ".jsonl": as_jsonl(ROWS),
    ".ndjson": as_jsonl(ROWS, "\r\n"),
    ".json": json.dumps(ROWS, indent=1).encode("utf-8"),
    ".parquet": as_parquet([{**row, "when": datetime(2020, 1, 1), "tags": ["x"]} for row in ROWS]),
}


# Any content


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([*VALID]), st.binary(max_size=200))
def test_any_bytes(extension: str, content: bytes) -> None:
    require_rows_or_one_line(extension, content)


PIECES = st.sampled_from(
    [
        *(
            "text",
            "label",
            "a",
            "é",
            "😀",
            " ",
            "\t",
            ",",
            ";",
            "\n",
            "\r",
            "\r\n",
            "\u2028",
            "\x1c",
        ),
        *('"', '""', "'", "{", "}", "[", "]", ":", '"a":', "null", "true", "NaN", "-1e999", "12"),
        *("\0", "\ufeff", "\\", "\\u0000", '"\\ud83d"', "/", "{}", "[]", "[[[[", '{"a":', "#"),
    ]
)


@settings(deadline=None, max_examples=500)
@given(st.sampled_from(TEXT_EXTENSIONS), st.lists(PIECES, max_size=30).map("".join))
def test_any_text_of_the_signs_that_the_formats_use(extension: str, text: str) -> None:
    require_rows_or_one_line(extension, text.encode("utf-8"))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([".json", ".jsonl"]), JSON_VALUES, st.sampled_from(["utf-8", "utf-16"]))
def test_any_json(extension: str, value: object, encoding: str) -> None:
    require_rows_or_one_line(extension, json.dumps(value).encode(encoding))


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from([".json", ".jsonl"]),
    st.sampled_from(["{}", "[{}]", '[{{"text": {}}}]', '{{"text": {}}}', '{{"text": "a", {}}}']),
    st.sampled_from(["[", '{"a":', "9", "1e", "0.", '"a":1,', "-", "[]", '"', '\\"']),
    st.integers(1, 30_000),
    st.booleans(),
)
def test_json_with_something_too_deep_or_too_long(
    extension: str, frame: str, piece: str, times: int, closed: bool
) -> None:
    end = {"[": "]", '{"a":': "}"}.get(piece, "1") if closed else ""
    value = piece * times + end * times
    require_rows_or_one_line(extension, frame.format(value).encode("utf-8"))


# Valid files, damaged

POSITIONS = st.floats(0, 1, exclude_max=True)
Mutation = Callable[[bytes], bytes]


def cut(position: float) -> Mutation:
    return lambda content: content[: int(position * len(content))]


def cut_out(position: float, length: int) -> Mutation:
    def mutate(content: bytes) -> bytes:
        start = int(position * len(content))
        return content[:start] + content[start + length :]

    return mutate


def flip(position: float, bit: int) -> Mutation:
    def mutate(content: bytes) -> bytes:
        damaged = bytearray(content or b"\0")
        damaged[int(position * len(damaged))] ^= 1 << bit
        return bytes(damaged)

    return mutate


def insert(position: float, piece: bytes) -> Mutation:
    def mutate(content: bytes) -> bytes:
        start = int(position * len(content))
        return content[:start] + piece + content[start:]

    return mutate


INSERTED = st.sampled_from(
    [
        *(b"\0", b"\xef\xbb\xbf", b"\xff", b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"1e400"),
        *(b'"', b"\r", b"\n", b"\r\n", b",", b"\t", b'{"a":1,"a":2}'),
        *(b"[" * 50_000, b"9" * 5000, b"x" * 200_000),
    ]
)
MUTATIONS = st.lists(
    st.builds(cut, POSITIONS)
    | st.builds(cut_out, POSITIONS, st.integers(1, 20))
    | st.builds(flip, POSITIONS, st.integers(0, 7))
    | st.builds(insert, POSITIONS, INSERTED | st.binary(max_size=4)),
    min_size=1,
    max_size=3,
)


@settings(deadline=None, max_examples=500)
@given(st.sampled_from([*VALID]), MUTATIONS)
def test_a_damaged_file(extension: str, mutations: list[Mutation]) -> None:
    content = VALID[extension]
    for mutate in mutations:
        content = mutate(content)
    require_rows_or_one_line(extension, content)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.builds(flip, POSITIONS, st.integers(0, 7)), min_size=1, max_size=4))
def test_a_damaged_parquet_file(mutations: list[Mutation]) -> None:
    content = VALID[".parquet"]
    for mutate in mutations:
        content = mutate(content)
    require_rows_or_one_line(".parquet", content)


MOMENTS = st.sampled_from(
    [
        *(pyarrow.timestamp(unit) for unit in ("s", "ms", "us", "ns")),
        *(pyarrow.timestamp("us", tz="UTC"), pyarrow.date64(), pyarrow.duration("s")),
    ]
)


@settings(deadline=None, max_examples=200)
@given(st.integers(-(2**63), 2**63 - 1), MOMENTS)
@example(2**62, pyarrow.timestamp("us"))  # the year 148,000: no datetime
def test_any_moment_in_a_parquet_file(number: int, kind: pyarrow.DataType) -> None:
    column = pyarrow.array([number], pyarrow.int64()).cast(kind)
    sink = pyarrow.BufferOutputStream()
    try:
        pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "when": column}), sink)
    except pyarrow.ArrowInvalid:
        return  # not even Parquet can hold it
    require_rows_or_one_line(".parquet", sink.getvalue().to_pybytes())


def test_an_unknown_time_zone_in_a_parquet_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def timezone(name: str) -> object:
        raise KeyError(name)  # as pytz does, which pyarrow asks where it is installed

    monkeypatch.setitem(sys.modules, "pytz", SimpleNamespace(timezone=timezone))
    column = pyarrow.array([0], pyarrow.timestamp("us", tz="Nowhere/City"))
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "when": column}), sink)
    with pytest.raises(DataError, match=r"not a readable Parquet file .*Nowhere/City"):
        read(".parquet", sink.getvalue().to_pybytes())


# What is written is read back

CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff")
TEXTS = st.text(CHARACTERS, max_size=20)
NAMES = st.lists(st.text(CHARACTERS).map(str.strip), min_size=2, max_size=4, unique=True)
BYTE_ORDER_MARKS = st.sampled_from([b"", b"\xef\xbb\xbf"])


@st.composite
def tables(draw: st.DrawFn, values: st.SearchStrategy[object]) -> list[Row]:
    names = draw(NAMES)
    return draw(
        st.lists(st.fixed_dictionaries({name: values for name in names}), min_size=1, max_size=5)
    )


@settings(deadline=None, max_examples=200)
@given(
    tables(TEXTS),
    st.sampled_from([(".csv", ","), (".tsv", "\t")]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    BYTE_ORDER_MARKS,
)
def test_csv_gives_back_what_was_written(
    rows: list[Row], kind: tuple[str, str], line_end: str, mark: bytes
) -> None:
    extension, delimiter = kind
    assert read(extension, mark + as_csv(rows, delimiter, line_end)) == rows


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS


@settings(deadline=None, max_examples=200)
@given(tables(SCALARS), st.sampled_from(["\n", "\r\n", "\n\n"]), BYTE_ORDER_MARKS)
def test_json_gives_back_what_was_written(rows: list[Row], line_end: str, mark: bytes) -> None:
    assert read(".jsonl", mark + as_jsonl(rows, line_end)) == rows
    assert read(".json", mark + json.dumps(rows).encode("utf-8")) == rows


@settings(deadline=None, max_examples=200)
@given(tables(TEXTS | st.none()))
def test_parquet_gives_back_what_was_written(rows: list[Row]) -> None:
    assert read(".parquet", as_parquet(rows)) == rows
