"""The soak of ``benchmarks/soak.py``, short: faults change neither the result nor the files."""

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks import soak

from stableprompt import speakers

CALM: dict[str, Any] = {
    "steps": 15,
    "prompts": 4,
    "seed": 2,
    "target_faults": 0.0,
    "disk_faults": 0.0,
    "killed": None,
}


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speakers, "load_agent", speakers.load_agent)  # ``live`` sets its own


def lived(folder: Path, **options: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The lines that a run left behind, and the faults that it met."""
    soak.live(folder, {**CALM, **options})
    lines = folder.with_name(f"{folder.name}-{soak.SAMPLES}").read_text().splitlines()
    faults = folder.with_name(f"{folder.name}-{soak.LIFE}").read_text()
    return [json.loads(line) for line in lines], json.loads(faults)


def names(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*")}


def test_faults_of_target_and_disk_change_neither_the_result_nor_the_files(tmp_path: Path) -> None:
    calm, none = lived(tmp_path / "calm")
    assert none == {}
    faulty, met = lived(tmp_path / "faulty", target_faults=0.05, disk_faults=0.05)
    assert met["target"] > 5
    assert met["disk"] == met["resumed"] > 1
    assert soak.digest(tmp_path / "faulty") == soak.digest(tmp_path / "calm")
    assert names(tmp_path / "faulty") == names(tmp_path / "calm")
    # Checkpoints are deleted: once there are two, no step adds a file.
    assert len({line["files"] for line in calm[2:]}) == 1
    assert max(line["files"] for line in faulty) <= calm[-1]["files"] + 2  # half a checkpoint


def test_a_summary_worked_by_hand() -> None:
    samples = [
        {
            "pid": 1 + (step >= 10),
            "step": step,
            "seconds": None if step in (0, 10) else 1.0 + (step >= 15),
            "rss": 2**20 * (100 + step),
            "files": 5,
            "log_bytes": 2**20,
            "other_bytes": 0,
            "faults": {},
        }
        for step in range(20)
    ]
    found = soak.summary(samples, 20)
    assert found["processes"] == 2
    assert found["first_quarter"]["rss_mib"] == 102
    assert found["last_quarter"]["rss_mib"] == 117
    assert (found["first_quarter"]["step_seconds"], found["last_quarter"]["step_seconds"]) == (1, 2)
    assert [part["rss_mib"] for part in found["bins"]] == [100.5 + 2 * n for n in range(10)]
