"""Real processes, really killed; ``benchmarks/kills.py`` has many more points."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_killed_runs_end_as_those_that_were_not() -> None:
    few = ["--clock", "0", "--events", "3", "--steps", "3", "--seed", "3"]
    runs = ["--runs", "rolled back"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kills", *few, *runs],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == 3
    assert all(row.endswith("| yes |") for row in rows)
    # They were killed where they were meant to be, not when all was over.
    assert "the run was over" not in rows[0] + rows[1]
