"""One run of a comparison: a task, an arm, a seed; and what is kept of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stableprompt.runs.folder import CURVE, RESULT, TEST, WRITES, RunFolder

CELL = "cell.json"


@dataclass(frozen=True, slots=True)
class Arm:
    """A method with settings of its own."""

    name: str
    """Shown in tables, such as "appo" or "appo:anchor.kind=fixed"."""
    method: str
    """One of METHODS, or of PEERS."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Nested, over those that all arms share."""


@dataclass(frozen=True, slots=True)
class CellRecord:
    """What a comparison needs to know of one run; ``cell.json`` in its folder."""

    task: str
    arm: str
    seed: int
    metric: str
    score: float
    """On test, of the prompt chosen on validation."""
    values: tuple[float, ...]
    """What each test example is worth with it."""
    n: int
    """Test examples."""
    seed_score: float
    """On test, of the seed prompt."""
    validation: float
    calls: int
    """Target calls that count towards the budget."""
    prompt: str
    readable: bool
    surprise: float | None
    readable_prompt: str
    readable_score: float
    readable_values: tuple[float, ...]
    max_of_five: float | None
    """On test, the paper's protocol; None for an arm without candidates."""
    collapsed: bool
    alarms: dict[str, int]
    curve: tuple[tuple[float, float], ...]
    """Target calls, and validation score of what led by then."""
    seconds: float
    """Wall time; of the last attempt only, where the run was interrupted."""
    trivial_score: float | None = None
    """On test, of the best trivial answer; None where nobody computed it."""

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "CellRecord":
        """Take back what ``cell.json`` holds."""
        fixed = {
            "values": tuple(content["values"]),
            "readable_values": tuple(content["readable_values"]),
            "curve": tuple((calls, score) for calls, score in content["curve"]),
        }
        return cls(**{**content, **fixed})


def record_of(path: Path, task: str, arm: Arm, seed: int, seconds: float) -> CellRecord:
    """What a finished run left behind, as one record."""
    folder = RunFolder.open(path)
    result, tested = folder.read_json(RESULT), folder.read_json(TEST)
    values = {row["prompt"]: _whole(row) for row in tested["prompts"]}
    calls = result["cost"]["target_calls"]
    five = result["max_of_five"]
    record = CellRecord(
        task=task,
        arm=arm.name,
        seed=seed,
        metric=result["test"]["metric"],
        score=result["test"]["score"],
        values=values[result["prompt"]],
        n=result["test"]["n"],
        seed_score=result["seed_test"]["score"],
        validation=result["validation"]["score"],
        calls=calls["training"] + calls["validation"],
        prompt=result["prompt"],
        readable=result["readable"],
        surprise=result["readability"]["surprise"],
        readable_prompt=result["readable_prompt"],
        readable_score=result["readable_test"]["score"],
        readable_values=values[result["readable_prompt"]],
        max_of_five=five["score"] if five else None,
        collapsed=result["collapsed"],
        alarms=result["alarms"],
        curve=tuple((c, s) for c, s in folder.read_json(CURVE)["points"]),
        seconds=round(seconds, 1),
        trivial_score=result["trivial_score"],
    )
    written = result["per_input"]
    if written is None or not written["used"]:
        return record
    # A prompt for each input is what this run ships; each of them passed the guards.
    each = tuple(float(row["value"]) for row in folder.read_lines(WRITES))
    score = written["test"]["score"]
    return replace(
        record,
        score=score,
        values=each,
        readable_score=score,
        readable_values=each,
        validation=written["validation"]["score"],
        max_of_five=None,
    )


def _whole(row: Mapping[str, Any]) -> tuple[float, ...]:
    """A value for every test example, so that runs stay comparable one by one.

    An example that got no answer stands at the mean of the others, which leaves the score as it is.
    """
    known = [float(value) for value in row["values"]]
    mean = sum(known) / len(known)
    missing = set(row.get("left_out", ()))
    answered = iter(known)
    return tuple(
        mean if number in missing else next(answered) for number in range(len(known) + len(missing))
    )


def keep(path: Path, record: CellRecord) -> None:
    """Write ``cell.json``: from now on the run is done."""
    RunFolder(path).write_json(CELL, asdict(record))


def kept(path: Path) -> CellRecord | None:
    """The record of a run that is done."""
    if not (path / CELL).is_file():
        return None
    return CellRecord.from_dict(RunFolder(path).read_json(CELL))
