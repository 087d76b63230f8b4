"""``stableprompt doctor``: a fix for everything that fails, and an exit code for scripts."""

import pytest

from stableprompt.cli import doctor
from stableprompt.models import embedded
from tests.cli.conftest import invoke_app


@pytest.fixture(autouse=True)
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """All is well, whatever is installed here; a test then takes one thing away."""
    monkeypatch.setattr(doctor, "_version", lambda package: "9.9")
    monkeypatch.setattr(embedded, "is_available", lambda: True)
    monkeypatch.setattr(doctor, "_writable", lambda folder: True)


def lose(monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == lost else "9.9")


def failures(output: str) -> list[str]:
    return [line.strip() for line in output.splitlines() if line.startswith("  FAIL")]


def test_where_all_is_well_it_exits_with_0() -> None:
    done = invoke_app("doctor")
    assert done.exit_code == 0
    assert failures(done.stdout) == []
    assert "  ok    torch 9.9" in done.stdout
    assert "embedded model smollm2-135m" in done.stdout
    assert "device c" in done.stdout  # cpu or cuda


@pytest.mark.parametrize("package", doctor.PACKAGES)
def test_a_missing_package_fails_with_its_fix(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    lose(monkeypatch, package)
    done = invoke_app("doctor")
    assert done.exit_code == 1
    assert failures(done.stdout) == [
        f"FAIL  {package} is not installed; fix: pip install {package}"
    ]


def test_a_missing_model_fails_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "is_available", lambda: False)
    done = invoke_app("doctor")
    assert done.exit_code == 1
    assert failures(done.stdout) == [
        f"FAIL  embedded model smollm2-135m; fix: {embedded.INSTALL_HINT}"
    ]


def test_a_cache_that_cannot_be_written_fails_with_its_fix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "_writable", lambda folder: False)
    done = invoke_app("doctor")
    assert done.exit_code == 1
    [line] = failures(done.stdout)
    assert "set STABLEPROMPT_CACHE" in line


@pytest.mark.parametrize("package", doctor.OPTIONAL)
def test_what_is_optional_may_be_missing(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    lose(monkeypatch, package)
    done = invoke_app("doctor")
    assert done.exit_code == 0
    assert f"  none  {package} (optional; {doctor.OPTIONAL[package]})" in done.stdout
