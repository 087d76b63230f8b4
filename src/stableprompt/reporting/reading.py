"""From a run folder to what a page shows of it. Reads files, never models.

A folder may be of a run that goes on, was killed, or was damaged since: what can be read is read,
what cannot is said in ``problems``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from stableprompt.errors import RunError
from stableprompt.reporting.records import (
    Curve,
    OnTest,
    Record,
    Result,
    Step,
    Task,
    Timing,
    Write,
    Written,
)
from stableprompt.runs.folder import (
    CONFIG,
    CURVE,
    PROMPTS,
    RESULT,
    STEPS,
    TASK,
    TEST,
    TIMING,
    WRITES,
)

SHOWN_FILES: Final = (CONFIG, TASK, STEPS, PROMPTS, TEST, CURVE, WRITES, TIMING, RESULT)
"""What a page is made from; it changes only where one of these does."""

_Settings = TypeAdapter(dict[str, Any])
_R = TypeVar("_R", bound=Record)


@dataclass(frozen=True, slots=True)
class Run:
    """What could be read of a run folder."""

    name: str
    """The folder's own name."""
    config: dict[str, Any] | None = None
    task: Task | None = None
    steps: list[Step] = field(default_factory=list)
    prompts: list[Written] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    test: OnTest | None = None
    curve: Curve | None = None
    timing: Timing | None = None
    result: Result | None = None
    problems: list[str] = field(default_factory=list)
    """What could not be read, a sentence each."""

    @property
    def seed_prompt(self) -> str | None:
        """The prompt that the run started from."""
        if self.result is not None:
            return self.result.seed_prompt
        return self.task.seed_prompt if self.task is not None else None

    @property
    def leader(self) -> str | None:
        """The chosen prompt; of an unfinished run the one that led after its last step."""
        if self.result is not None:
            return self.result.prompt
        return self.steps[-1].best_prompt if self.steps else None

    @property
    def planned_steps(self) -> int | None:
        """How many steps were asked for."""
        steps = (self.config or {}).get("steps")
        return steps if isinstance(steps, int) and not isinstance(steps, bool) else None


def read_run(folder: Path) -> Run:
    """Read what a run folder holds.

    Raises:
        RunError: it is no folder, or none of its files is one of a run.
    """
    if not folder.is_dir():
        raise RunError(f"{folder} is not a folder; give the run folder that `stableprompt tune` "
                       "printed")  # fmt: skip
    if not any((folder / name).is_file() for name in (CONFIG, TASK, STEPS, RESULT)):
        raise RunError(
            f"{folder} is not a run folder (none of {CONFIG}, {TASK}, {STEPS} and {RESULT} in it); "
            "give the folder that `stableprompt tune` printed"
        )
    problems: list[str] = []

    def whole(name: str, kind: type[_R]) -> _R | None:
        return _read(folder / name, kind.model_validate_json, problems)

    def lines(name: str, kind: type[_R]) -> list[_R]:
        return _read_lines(folder / name, kind, problems)

    return Run(
        name=folder.resolve().name,
        config=_read(folder / CONFIG, _Settings.validate_json, problems),
        task=whole(TASK, Task),
        steps=lines(STEPS, Step),
        prompts=lines(PROMPTS, Written),
        writes=lines(WRITES, Write),
        test=whole(TEST, OnTest),
        curve=whole(CURVE, Curve),
        timing=whole(TIMING, Timing),
        result=whole(RESULT, Result),
        problems=problems,
    )


_T = TypeVar("_T")


def _read(path: Path, parse: Callable[[bytes], _T], problems: list[str]) -> _T | None:
    """A file in one piece; None where it is missing or cannot be read."""
    content = _bytes_of(path, problems)
    if content is None:
        return None
    try:
        return parse(content)
    except ValidationError as error:
        problems.append(f"{path.name} cannot be read: {_first(error)}")
        return None


def _read_lines(path: Path, kind: type[_R], problems: list[str]) -> list[_R]:
    """The records of a JSON Lines file, without those that cannot be read."""
    content = _bytes_of(path, problems)
    records: list[_R] = []
    damaged: list[tuple[int, str]] = []
    lines = (content or b"").split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(kind.model_validate_json(line))
        except ValidationError as error:
            # A run that goes on may be writing its last line just now.
            if number < len(lines) or not error.errors()[0]["type"].startswith("json"):
                damaged.append((number, _first(error)))
    if damaged:
        number, why = damaged[0]
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        problems.append(f"{path.name}: line {number}{more} cannot be read and is left out: {why}")
    return records


def _bytes_of(path: Path, problems: list[str]) -> bytes | None:
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            # A page is shown to others: it holds nothing from elsewhere, and waits for no pipe.
            problems.append(f"{path.name} is a link or no file, and is left out.")
            return None
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror}")
        return None


def _first(error: ValidationError) -> str:
    """The first thing that is wrong, with its place."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])
