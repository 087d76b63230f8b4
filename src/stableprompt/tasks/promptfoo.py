"""Test tables of promptfoo: variables, and what to expect of the output, in one row a test.

The columns ``__expected``, ``__expected1``, ... hold assertions such as
``contains: Paris``; other columns that begin with two underscores are settings
of promptfoo; all others are variables. Assertions are read as promptfoo 0.122
reads them; those that no metric of this package measures are refused.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from stableprompt.errors import DataError
from stableprompt.tasks.columns import SPLIT_COLUMN
from stableprompt.tasks.table import Row
from stableprompt.tasks.wording import listed, quoted, rows_listed

REFERENCES: Final = "references"
"""The column of the answers that are correct for a row."""

_EXPECTED: Final = "__expected"
_SETTING: Final = "__"  # what the names of promptfoo's own columns begin with
_PROMPT_PARTS: Final = ("__prefix", "__suffix")

_METRICS: Final[Mapping[str, str]] = {
    "equals": "exact_match_strict",
    "contains": "contains_strict",
    "contains-any": "contains_strict",
    "icontains": "contains_any_case",
    "icontains-any": "contains_any_case",
    "llm-rubric": "judge",
}
_LISTS: Final = ("contains-any", "icontains-any")
# What promptfoo takes for an assertion and not for a text, with or without a value ...
_OTHER_TYPES: Final = (
    "answer-relevance", "bleu", "classifier", "contains-all", "contains-html", "contains-json",
    "contains-sql", "contains-xml", "context-faithfulness", "context-recall", "context-relevance",
    "conversation-relevance", "cost", "factuality", "finish-reason", "g-eval", "gleu", "guardrails",
    "icontains-all", "is-html", "is-json", "is-refusal", "is-sql", "is-valid-function-call",
    "is-valid-openai-function-call", "is-valid-openai-tools-call", "is-xml", "javascript",
    "latency", "levenshtein", "meteor", "model-graded-closedqa", "model-graded-factuality",
    "moderation", "perplexity", "perplexity-score", "pi", "python", "regex", "rouge-n", "ruby",
    "search-rubric", "similar", "skill-used", "starts-with", "tool-call-f1", "trace-error-spans",
    "trace-span-count", "trace-span-duration", "trajectory:goal-success", "trajectory:step-count",
    "trajectory:tool-args-match", "trajectory:tool-sequence", "trajectory:tool-used", "webhook",
    "word-count",
)  # fmt: skip
# ... and its older names, which are plain texts without one.
_OLDER_NAMES: Final = ("eval", "fn", "grade")
_TYPES: Final = "|".join((*_METRICS, *_OTHER_TYPES, *(rf"{name}(?=:)" for name in _OLDER_NAMES)))
_ASSERTION: Final = re.compile(rf"((?:not-)?({_TYPES})(?:\(\d+(?:\.\d+)?\))?)(?::(.*))?", re.DOTALL)
# One alternative of contains-any: in double quotes if it has a comma; nothing between two commas.
_ALTERNATIVE: Final = re.compile(r'\s*(?:"((?:[^"\\]|"")*)"|([^",][^,]*))?\s*(?:,|\Z)')
_SUPPORTED: Final = (
    "supported is one assertion a row: the answer itself or equals, contains, icontains, "
    "contains-any, icontains-any or llm-rubric"
)


@dataclass(frozen=True, slots=True)
class PromptfooTable:
    """What a test table of promptfoo became.

    Attributes:
        rows: The variables of each row (and its split, if there is such a column), and under
            ``references`` the list of its correct answers; for the judge, its rubric.
        fields: The names of the variables, in the order of the columns.
        metric: What the assertions measure.
        notes: One line for each thing that was left out.
    """

    rows: tuple[Row, ...]
    fields: tuple[str, ...]
    metric: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Assertion:
    kind: str
    references: list[str]

    @property
    def metric(self) -> str:
        return _METRICS[self.kind]


def is_promptfoo(columns: Iterable[str]) -> bool:
    """Whether the columns are those of a test table with expectations."""
    return any(name.strip().startswith(_EXPECTED) for name in columns)


def from_promptfoo(rows: Sequence[Row], place: str) -> PromptfooTable:
    """Turn the rows of a test table into rows with references, and name their metric.

    Args:
        rows: The rows as they were read.
        place: Where they come from, for messages.

    Raises:
        DataError: a row has no assertion, several, or one that is not supported; rows differ in
            what they measure or in their prefix or suffix; or there is no variable.
    """
    if not rows:
        raise DataError(f"{place}: there are no rows; add tests")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    variables = _variables(columns, place)
    assertions = [
        _assertion(row, f"{place}, row {number}") for number, row in enumerate(rows, start=1)
    ]
    metric = _one_metric(assertions, place)
    notes = _notes(rows, columns, variables, place)
    plain = tuple(
        {**{name: row.get(name) for name in variables}, REFERENCES: assertion.references}
        for row, assertion in zip(rows, assertions, strict=True)
    )
    fields = tuple(name for name in variables if name.strip().casefold() != SPLIT_COLUMN)
    return PromptfooTable(plain, fields, metric, notes)


def _variables(columns: Sequence[str], place: str) -> list[str]:
    variables = [name for name in columns if not name.strip().startswith(_SETTING)]
    if all(name.strip().casefold() == SPLIT_COLUMN for name in variables):
        raise DataError(
            f"{place}: no column with a variable, found {listed(columns)}; add one with what the "
            "target reads, for example 'input'"
        )
    if REFERENCES in variables:
        raise DataError(
            f"{place}: the variable {quoted(REFERENCES)} has the name under which the expectations "
            "are kept; rename this column"
        )
    return variables


def _assertion(row: Row, place: str) -> _Assertion:
    """The one assertion of a row."""
    cells = {
        name: value
        for name, value in row.items()
        if name.strip().startswith(_EXPECTED)
        and value is not None
        and not (isinstance(value, str) and not value.strip())
    }
    if not cells:
        raise DataError(f"{place}: nothing in {_EXPECTED}; write what is correct: {_SUPPORTED}")
    if len(cells) > 1:
        raise DataError(f"{place}: assertions in {listed(cells)}; keep one of them: {_SUPPORTED}")
    [(name, value)] = cells.items()
    if not isinstance(value, str):
        raise DataError(
            f"{place}: {quoted(value)} ({type(value).__name__}) in {quoted(name)} is not a text; "
            f"write it as one: {_SUPPORTED}"
        )
    return _parse(value.strip(), place)


def _parse(text: str, place: str) -> _Assertion:
    match = _ASSERTION.fullmatch(text)
    written, kind, value = match.groups() if match else (None, "equals", text)
    if written == "grade":
        written = kind = "llm-rubric"
    if written is not None and (written != kind or kind not in _METRICS):
        raise DataError(
            f"{place}: the assertion {quoted(written)} is not supported; {_SUPPORTED} (before a "
            "text that is meant literally, write 'equals: ')"
        )
    value = (value or "").strip()
    if "{{" in value or "{%" in value or value.startswith("file://"):
        raise DataError(
            f"{place}: {quoted(value)} would be filled in or read from a file by promptfoo; write "
            "out what is expected"
        )
    references = _alternatives(value, place) if kind in _LISTS else [value]
    if not all(references) or not references:
        raise DataError(f"{place}: nothing is expected by {quoted(text)}; write it after the colon")
    return _Assertion(kind, references)


def _alternatives(value: str, place: str) -> list[str]:
    found = []
    position = 0
    while position < len(value):
        match = _ALTERNATIVE.match(value, position)
        if match is None:
            raise DataError(
                f"{place}: the quotes in {quoted(value)} do not enclose whole alternatives; write "
                'for example "a, b", c (a quote inside them as "")'
            )
        position = match.end()
        in_quotes, plain = match.groups()
        if in_quotes is not None:
            found.append(in_quotes.replace('""', '"').strip())
        elif plain is not None:
            found.append(plain.strip())
    return found


def _one_metric(assertions: Sequence[_Assertion], place: str) -> str:
    first = assertions[0]
    for number, assertion in enumerate(assertions, start=1):
        if assertion.metric != first.metric:
            raise DataError(
                f"{place}, row {number}: the assertion is {assertion.kind}, but {first.kind} in "
                "row 1; a task has one metric: use the same type in all rows, or make two files"
            )
    return first.metric


def _notes(
    rows: Sequence[Row], columns: Sequence[str], variables: Sequence[str], place: str
) -> tuple[str, ...]:
    notes = list(_prompt_part_notes(rows, columns, place))
    left_out = [
        name
        for name in columns
        if name.strip().startswith(_SETTING)
        and not name.strip().startswith((_EXPECTED, *_PROMPT_PARTS))
        and any(_shown(row.get(name)) for row in rows)
    ]
    if left_out:
        notes.append(f"left out, as settings of promptfoo: {listed(left_out)}")
    for name in variables:
        files = [n for n, row in enumerate(rows, 1) if _shown(row.get(name)).startswith("file://")]
        if files:
            notes.append(
                f"{rows_listed(files)} with file://... in {quoted(name)}: taken as text, where "
                "promptfoo would read the file"
            )
    return tuple(notes)


def _prompt_part_notes(rows: Sequence[Row], columns: Sequence[str], place: str) -> Iterator[str]:
    for name in columns:
        if name.strip() not in _PROMPT_PARTS:
            continue
        parts = list(dict.fromkeys(_shown(row.get(name)) for row in rows))
        if len(parts) > 1:
            raise DataError(
                f"{place}: rows differ in {quoted(name)} ({listed(parts)}), which is part of the "
                "prompt, and one prompt is tuned for all rows; make it a variable, or several files"
            )
        if parts[0]:
            yield (
                f"left out: {quoted(name)} {quoted(parts[0])} is part of the prompt; where it "
                "matters, write it into the seed prompt"
            )


def _shown(value: object) -> str:
    return "" if value is None else str(value).strip()
