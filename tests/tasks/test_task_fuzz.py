"""Whatever is in a file or in rows: a task, or an error on one line that says what to do."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stableprompt.errors import StablePromptError
from stableprompt.tasks.task import Task
from tests.tasks.test_answers import ANYTHING

ROWS = [
    {"text": f"t {i} {{x}}", "label": "ab"[i % 2], "choices": ["p", "q"], "answer": "pq"[i % 2]}
    for i in range(12)
]
JSON = json.dumps(ROWS)
LINES = "\n".join(map(json.dumps, ROWS))
TABLE = "text,label,__expected\n" + "".join(
    f't{i},{"ab"[i % 2]},"contains: a"\n' for i in range(12)
)
VALID = {".json": JSON, ".jsonl": LINES, ".csv": TABLE, ".tsv": TABLE.replace(",", "\t")}
COMMON = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def load(content: bytes, extension: str, **options: Any) -> None:
    handle, name = tempfile.mkstemp(suffix=extension)
    try:
        os.write(handle, content)
        os.close(handle)
        check(lambda: Task.from_file(Path(name), **options))
    finally:
        os.unlink(name)


def check(make: Any) -> None:
    try:
        task = make()
    except StablePromptError as error:
        assert str(error)
        assert "\n" not in str(error)
    else:
        assert task.train and task.validation and task.test
        assert len(task.fingerprint()) == 64
        for split in ("train", "validation", "test"):
            for example in task.splits.part(split):
                assert example.text.strip()
                assert all(answer.strip() for answer in example.answers)
                assert not task.answer_words(example) or task.shown_answer(
                    example
                ) in task.answer_words(example)


@given(st.binary(max_size=300), st.sampled_from([*VALID, ".parquet", ".ndjson"]))
@COMMON
def test_any_bytes(content: bytes, extension: str) -> None:
    load(content, extension)


@given(
    st.sampled_from(sorted(VALID)),
    st.lists(st.tuples(st.integers(0, 700), st.binary(max_size=3), st.integers(0, 9)), max_size=4),
    st.sampled_from([None, "classification", "multiple_choice", "generation"]),
)
@COMMON
def test_damaged_files(
    extension: str, damages: list[tuple[int, bytes, int]], kind: str | None
) -> None:
    content = VALID[extension].encode()
    for place, inserted, removed in damages:
        content = content[:place] + inserted + content[place + removed :]
    load(content, extension, kind=kind)


@given(
    st.lists(st.fixed_dictionaries({"text": ANYTHING | st.text(), "label": ANYTHING},
                                   optional={"choices": ANYTHING, "split": ANYTHING}), max_size=8),
    st.sampled_from([None, "classification", "multiple_choice", "generation"]),
)  # fmt: skip
@COMMON
def test_any_rows(rows: list[dict[str, Any]], kind: str | None) -> None:
    check(lambda: Task.from_records(rows, kind=kind))


PLACEHOLDERS = st.text('{} text"ab\n', max_size=20)


@given(PLACEHOLDERS, PLACEHOLDERS, st.integers(-2, 30), st.text(max_size=12))
@COMMON
def test_any_options(seed_prompt: str, layout: str, count: int, metric: str) -> None:
    options: Any = {
        "seed_prompt": seed_prompt,
        "input_format": layout,
        "limit": {"test": count},
        "metric": metric or None,
    }
    plain = [{"text": row["text"], "label": row["label"]} for row in ROWS]
    check(lambda: Task.from_records(plain, **options))
    del options["metric"], options["input_format"]
    check(lambda: Task.from_records(ROWS, text="text", label="answer", **options))
