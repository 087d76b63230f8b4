"""What ``stableprompt estimate --on`` prints and refuses."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from stableprompt.cli import app
from tests.cli.conftest import assert_fits

ON = ["estimate", "support", "--on", "h100", "--agent-size", "llama-3-8b"]
SERVED = [*ON, "--target-on", "8xh200", "--target-size", "llama-3-405b", "--replicas", "2"]


def said(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "80"})
    assert result.exit_code == code, result.output
    return result.output


def test_a_plan_says_calls_time_memory_and_dollars_in_eighty_columns() -> None:
    output = said(*SERVED)
    assert_fits(output, 80)
    for part in ("target calls", "writing prompts", "bottleneck:", "memory of one h100"):
        assert part in output
    assert "memory of one h200 of a server" in output
    assert output.count("at the peak: fits") == 2
    assert output.count("driver, gaps between blocks") == 2
    assert "agent 8.03B, target 406B" in output
    assert "not loaded" not in output


def test_what_does_not_fit_is_said() -> None:
    output = said("estimate", "support", "--on", "rtx-4090", "--agent-size", "llama-3-70b")
    assert "DOES NOT FIT" in output
    assert "not even one prompt at a time fits" in output


def test_a_price_of_ones_own_replaces_the_assumed_rent() -> None:
    assert "assumed rent" in said(*SERVED)
    output = said(*SERVED, "--gpu-price", "0")
    assert "assumed rent" not in output
    assert "0 for machines" in output


@pytest.mark.parametrize(
    "more",
    [
        ["--target-on", "h100"],
        ["--replicas", "2"],
        ["--agent-size", "1b"],
        ["--target-size", "1b"],
        ["--gpu-price", "1"],
        ["--split-agent"],
    ],
)
def test_options_of_a_plan_need_the_machine(more: list[str]) -> None:
    output = said("estimate", "support", *more, code=2)
    assert "belong to a plan" in output


def test_an_unknown_machine_is_refused_on_one_line() -> None:
    output = said("estimate", "support", "--on", "abacus", code=2)
    assert "'abacus' is not known" in output
    assert "Traceback" not in output


def test_tune_has_no_options_of_a_plan() -> None:
    assert "--target-on" in said("estimate", "--help")
    assert "--target-on" not in said("tune", "--help")


def test_the_cost_model_needs_no_torch() -> None:
    code = (
        "import sys, stableprompt.cli.machine_options, stableprompt.scaling.roles\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'pydantic')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_program_gets_the_whole_plan_as_one_line() -> None:
    [line] = said(*SERVED, "--json").splitlines()
    told = json.loads(line)
    assert told["event"] == "plan"
    assert told["fits"] is True
    assert set(told["seconds"]) >= {"writing prompts", "learning", "the target"}
    assert [memory["device"] for memory in told["memory"]] == ["h100", "h200 of a server"]
    assert told["total_seconds"] == pytest.approx(
        sum(sum(part.values()) for part in told["seconds"].values())
    )
