"""The audit of what is pinned: a finding fails, no network does not."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from checks import audit

FOUND = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"]}


def answering(monkeypatch: pytest.MonkeyPatch, told: Any, said: str = "") -> None:
    out = told if isinstance(told, str) else json.dumps({"dependencies": told, "fixes": []})

    def run(command: list[str], **_: object) -> Any:
        assert command[1:3] == ["-m", "pip_audit"] and "pins.txt" in command
        return SimpleNamespace(stdout=out, stderr=said, returncode=1)

    monkeypatch.setattr(subprocess, "run", run)


def test_a_finding_fails_and_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(monkeypatch, [{"name": "a", "version": "1", "vulns": [FOUND]}])
    assert audit.main(Path("pins.txt")) == 1
    assert "a 1: PYSEC-1, fixed in 2" in capsys.readouterr().out
    monkeypatch.setitem(audit.ACCEPTED, "CVE-1", "not reached")
    assert audit.main(Path("pins.txt")) == 0
    assert "accepted: a PYSEC-1: not reached" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("told", "said", "code", "line"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], "", 0, "1 packages looked up, 0 findings"),
        ("", "requests.exceptions.ConnectionError: Max retries exceeded", 0, "NOT MADE"),
        ([{"name": "a", "skip_reason": "not found"}], "", 0, "NOT MADE"),
        ("", "Traceback\nKeyError: 'x'", 1, "pip-audit failed: KeyError: 'x'"),
        ("", "", 1, "said nothing"),
    ],
)
def test_what_is_said_otherwise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    told: Any, said: str, code: int, line: str,
) -> None:  # fmt: skip
    answering(monkeypatch, told, said)
    assert audit.main(Path("pins.txt")) == code
    assert line in capsys.readouterr().out


def test_nothing_is_accepted_without_a_reason() -> None:
    assert all(reason.strip() for reason in audit.ACCEPTED.values())
