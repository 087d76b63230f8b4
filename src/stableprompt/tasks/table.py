"""Files -> rows: CSV, TSV, JSON lines, JSON and Parquet.

Nothing is guessed about damaged files: what cannot be read as it stands is
refused with the place and the repair. Rows are plain dicts; which column is
the text and which the label is decided in ``columns``.
"""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from stableprompt.errors import DataError
from stableprompt.tasks.wording import listed, quoted

Row = dict[str, object]

_LARGEST_C_LONG = 2**31 - 1  # what csv.field_size_limit accepts on every platform


def read_table(path: Path) -> list[Row]:
    """Read the rows of a file; its extension says how.

    Args:
        path: A .csv, .tsv, .jsonl, .ndjson, .json or .parquet file; text in UTF-8.

    Raises:
        DataError: no such file, an unknown extension, or a content that cannot be read.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"cannot read {path}: the extension {path.suffix or '(none)'} is not one of "
            f"{', '.join(_READERS)}; rename or convert the file"
        )
    return reader(path)


def read_csv(path: Path) -> list[Row]:
    """Read comma-separated rows under a header line; tab-separated if the file ends in .tsv.

    A row that is shorter than the header has None in the columns it lacks.

    Raises:
        DataError: the file cannot be read, or is not such a table.
    """
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    text = _read_text(path)
    with _field_size_limit(len(text)):
        # strict: a forgotten closing quote would otherwise swallow the rest of the file in silence.
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            return _csv_rows(path, lines, delimiter)
        except csv.Error as error:
            raise DataError(
                f"{path}, line {lines.line_num}: not valid CSV ({error}); put the field in double "
                'quotes and write a quote inside it as ""'
            ) from error


def read_jsonl(path: Path) -> list[Row]:
    """Read one JSON object per line; blank lines are skipped.

    Raises:
        DataError: the file cannot be read, or some line is not a JSON object.
    """
    rows = []
    # Not splitlines(): it also cuts at U+2028, which JSON strings may contain.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if line.strip():
            row = _parse_json(line, f"{path}, line {number}")
            rows.append(_require_object(row, f"{path}, line {number}"))
    return rows


def _read_json(path: Path) -> list[Row]:
    items = _parse_json(_read_text(path), str(path))
    if not isinstance(items, list):
        raise DataError(
            f"{path}: expected a JSON list of objects, found {_json_kind(items)}; "
            "write [{...}, {...}], or one object per line in a .jsonl file"
        )
    if not items:
        raise DataError(f"{path}: the list is empty; add examples")
    return [
        _require_object(item, f"{path}, item {number}")
        for number, item in enumerate(items, start=1)
    ]


def _read_parquet(path: Path) -> list[Row]:
    _require_file(path)
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f"cannot read {path}: pyarrow is not installed; run pip install 'stableprompt[parquet]'"
        ) from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            table = file.read()
        rows: list[Row] = table.to_pylist()
    # OverflowError: a moment beyond the year 9999; LookupError: an unknown time zone
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, LookupError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"{path}: not a readable Parquet file ({reason}); export it again"
        ) from error
    _require_distinct_columns(path, table.column_names)
    if not rows:
        raise DataError(f"{path}: the table has no rows; add examples")
    return rows


_READERS: Final[Mapping[str, Callable[[Path], list[Row]]]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
}


def _require_file(path: Path) -> None:
    # os.path, not pathlib: it answers False, and does not raise, for a name that cannot exist.
    if os.path.isdir(path):
        raise DataError(f"{path} is a folder: give the path of one file inside it")
    if not os.path.exists(path):
        raise DataError(f"no such file: {path}; check the path (now in {Path.cwd()})")


def _read_text(path: Path) -> str:
    _require_file(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); check its permissions") from error
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 text (byte {error.start} is 0x{data[error.start]:02x}); "
            "save the file as UTF-8"
        ) from error
    if b"\x00" in data:
        nul = data.index(b"\x00")
        raise DataError(f"{path}: a NUL byte at byte {nul}; save the file as plain UTF-8 text")
    if not text.strip():
        raise DataError(f"{path}: the file is empty; add examples")
    return text


@contextmanager
def _field_size_limit(size: int) -> Iterator[None]:
    """Let csv accept fields as long as the file; its limit is a global of the process."""
    before = csv.field_size_limit()
    csv.field_size_limit(min(max(before, size), _LARGEST_C_LONG))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _csv_rows(path: Path, lines: Any, delimiter: str) -> list[Row]:
    header = [name.strip() for name in next(fields for fields in lines if fields)]
    _require_delimiter(path, header, delimiter)
    _require_distinct_columns(path, header)
    rows: list[Row] = []
    for fields in lines:
        if not fields:
            continue  # a blank line
        if len(fields) > len(header):
            raise DataError(
                f"{path}, line {lines.line_num}: {len(fields)} fields, but the header has "
                f"{len(header)}; put a text that contains the separator in double quotes"
            )
        padding = [None] * (len(header) - len(fields))
        rows.append(dict(zip(header, [*fields, *padding], strict=True)))
    if not rows:
        raise DataError(
            f"{path}: only a header line ({listed(header)}) and no rows; add examples below it"
        )
    return rows


def _require_delimiter(path: Path, header: Sequence[str], delimiter: str) -> None:
    if len(header) != 1:
        return
    for other, name in ((";", "semicolons"), ("\t", "tabs"), (",", "commas")):
        if other in header[0] and other != delimiter:
            raise DataError(
                f"{path}: the columns seem to be separated by {name}; save the file with "
                "commas (.csv) or tabs (.tsv)"
            )


def _require_distinct_columns(path: Path, names: Sequence[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(f"{path}: two columns have the name {quoted(repeated[0])}; rename one")


def _parse_json(text: str, place: str) -> object:
    try:
        return json.loads(text)
    # ValueError: not JSON, or a number of thousands of digits; RecursionError: [[[[...
    except (ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{place}: not valid JSON ({reason}); correct it") from error


def _require_object(item: object, place: str) -> Row:
    if not isinstance(item, dict):
        raise DataError(
            f"{place}: expected a JSON object, found {_json_kind(item)}; "
            'write {"text": "...", "label": "..."}'
        )
    return item


def _json_kind(item: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "null" if item is None else kinds.get(type(item), "a number")
