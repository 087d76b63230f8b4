"""What ``stableprompt estimate`` prints."""

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from stableprompt.cli.amounts import dollars, duration
from stableprompt.cli.estimate import print_estimate
from stableprompt.estimating import PhaseEstimate, RunEstimate
from stableprompt.tuning.probe import Probe
from tests.cli.conftest import assert_fits

FOUND = RunEstimate(
    phases={
        "training": PhaseEstimate(1351, 1207, 345_678, 0),
        "anchor decisions": PhaseEstimate(256, 200, 4321, 0),
        "selection": PhaseEstimate(540, 539, 12_794, 0),
        "test": PhaseEstimate(240, 238, 5617, 17),
    },
    at_most=2200,
    steps=10,
    updates=10,
    dollars=0.0,
    seconds=3725.0,
    target_elsewhere=False,
    target_seconds=65.0,
    device="cpu",
    weights=276_402_816,
    peak=2_347_655_168,
    probe=Probe(16, 2, 13, 9.7, 13.2),
    notes=(),
    warnings=(),
)


def printed(width: int = 80, **changes: Any) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, highlight=False, markup=False, emoji=False)
    print_estimate(console, replace(FOUND, **changes))
    output = stream.getvalue()
    assert_fits(output, width)
    return output


def row(output: str, name: str) -> list[str]:
    """The cells of a row, by its first one."""
    cells = [[c.strip() for c in line.strip("│┃").split("│")] for line in output.splitlines()]
    [found] = [line for line in cells if line[0] == name]
    return found[1:]


def told(output: str, name: str) -> str:
    """What stands beside a name, its lines joined."""
    lines, taken = [], False
    for line in output.splitlines():
        cells = [c.strip() for c in line.strip("│").split("│")]
        taken = cells[0] == name or (taken and cells[0] == "" and len(cells) == 2)
        lines += [cells[1]] if taken else []
    assert lines, name
    return " ".join(lines)


def test_calls_and_tokens_stand_in_a_row_for_each_phase_and_for_all() -> None:
    output = printed()
    assert row(output, "training") == ["1351", "1207", "345678", "0"]
    assert row(output, "anchor decisions") == ["256", "200", "4321", "0"]
    assert row(output, "selection") == ["540", "539", "12794", "0"]
    assert row(output, "test") == ["240", "238", "5617", "17"]
    # The bound of all is not the sum of the phases' bounds; the rest is added up.
    assert row(output, "in all") == ["2200", "2184", "368410", "17"]


def test_a_run_in_this_process() -> None:
    output = printed()
    assert told(output, "dollars") == "0"
    assert told(output, "time") == (
        "about 1 h 2 min on this machine (cpu), 1 min 5 s of it for the target"
    )
    assert told(output, "memory") == (
        "0.28 GB of weights; 2.3 GB used at most by this process so far"
    )
    assert told(output, "steps") == "10; 10 policy updates"
    assert told(output, "one step") == (
        "16 prompts written, 2 refused, 13 different ones left; 10 s to write, 13 s to learn"
    )
    assert "note" not in output
    assert "warning" not in output


def test_a_target_elsewhere_says_nothing_of_its_time_before_it_is_asked() -> None:
    output = printed(target_elsewhere=True, target_seconds=None, dollars=0.01234)
    assert told(output, "dollars") == "0.012"
    assert "how long the target takes on top is not known" in told(output, "time")
    paced = printed(target_elsewhere=True, target_seconds=7500.0, dollars=None)
    assert told(paced, "time").endswith("at its pace 2 h 5 min at least for the target")
    assert told(paced, "dollars").startswith("unknown")


def test_a_run_without_steps_or_without_learning() -> None:
    still = Probe(0, 0, 0, 0.0, 0.0)
    output = printed(steps=0, updates=0, probe=still)
    assert told(output, "steps") == "none"
    assert "one step" not in output
    frozen = printed(updates=0, probe=replace(FOUND.probe, update_seconds=0.0))
    assert told(frozen, "steps") == "10; nothing is learned"
    assert told(frozen, "one step").endswith("10 s to write")


def test_on_a_gpu_the_memory_is_that_of_tensors() -> None:
    output = printed(device="cuda")
    assert "by tensors on the GPU" in told(output, "memory")
    assert "(cuda)" in told(output, "time")


def test_notes_and_warnings_are_shown_whole_in_eighty_columns() -> None:
    notes = ("tokens are counted with the agent's tokenizer: the target was not asked", "n " * 90)
    warning = "the limits (max_target_calls 60) leave too little for selection and test [/x] " * 3
    output = printed(notes=notes, warnings=(warning.strip(),))
    joined = " ".join(output.replace("│", " ").split())
    for text in (*notes, warning):
        assert " ".join(text.split()) in joined


@pytest.mark.parametrize(
    ("amount", "shown"),
    [(0.0, "0"), (0.01234, "0.012"), (0.999, "1"), (1.005, "1.00"), (12.3456, "12.35")],
)
def test_dollars_have_cents_or_two_digits(amount: float, shown: str) -> None:
    assert dollars(amount) == shown
    assert dollars(None).startswith("unknown")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (7.6, "8 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599.0, "59 min 59 s"),
        (3600.0, "1 h 0 min"),
        (7530.0, "2 h 5 min"),
    ],
)
def test_durations_have_two_units(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
