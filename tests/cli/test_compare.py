"""``stableprompt compare`` as a person calls it."""

import json
from pathlib import Path

import pytest

from stableprompt.cli.compare import PEER_NAMES, _join_lists, parse_arm
from stableprompt.errors import ConfigError
from stableprompt.studies.peers.registry import PEERS
from tests.cli.conftest import SMALL, Invoke, assert_fits, options

FILES = {"plan.json", "comparison.json", "comparison.md", "runs"}
DATA = ("rows.csv", "--text", "message", "--label", "team")


def small(*more: object) -> list[object]:
    # The budget ends the runs here, no number of steps.
    settings = [name for name in SMALL if not name.startswith("steps=")]
    return [*options(*settings), "--budget", 150, "--out", "out", *more]


@pytest.mark.parametrize(
    ("given", "joined"),
    [
        (["a", "--seeds", "0", "1", "2"], ["a", "--seeds", "0 1 2"]),
        (
            ["--methods", "appo", "seed", "--budget", "9"],
            ["--methods", "appo seed", "--budget", "9"],
        ),
        (
            ["a", "b", "--set", "x=1", "--seeds", "0,1"],
            ["a", "b", "--set", "x=1", "--seeds", "0,1"],
        ),
        (["--seeds", "3"], ["--seeds", "3"]),
    ],
)
def test_lists_may_be_written_with_spaces(given: list[str], joined: list[str]) -> None:
    assert _join_lists(given) == joined


def test_an_arm_is_a_method_with_settings_of_its_own() -> None:
    arm = parse_arm("appo:anchor.kind=fixed,ppo.learning_rate=3e-3")
    assert arm.method == "appo"
    assert arm.settings == {"anchor": {"kind": "fixed"}, "ppo": {"learning_rate": 0.003}}
    assert parse_arm("seed").settings == {}
    with pytest.raises(ConfigError, match="must look like"):
        parse_arm("appo:anchor.kind")


def test_help_names_the_peers_that_there_are() -> None:
    assert tuple(PEERS) == PEER_NAMES


def test_methods_are_compared_and_the_same_command_goes_on(invoke: Invoke, model: Path) -> None:
    models = ["--set", f"agent.model={model}", "--set", f"target.model={model}"]
    call = ["compare", *DATA, *models, "--methods", "best-of-n", "seed", "--seeds", "0", "1"]
    done = invoke(*call, *small())
    assert done.exit_code == 0, done.output
    assert_fits(done.stdout)
    assert {path.name for path in Path("out").iterdir()} >= FILES
    content = json.loads(Path("out/comparison.json").read_text())
    assert [m["method"] for m in content["methods"]] == ["best-of-n", "seed"]
    assert {(c["method"], c["seed"]) for c in content["cells"]} == {
        (method, seed) for method in ("best-of-n", "seed") for seed in (0, 1)
    }
    assert all(cell["calls"] <= 150 for cell in content["cells"])
    assert content["pairs"][0]["rival"] == "seed"
    again = invoke(*call, *small())
    assert again.exit_code == 0, again.output
    assert "[1/4]" not in again.stdout  # nothing was left to do
    assert json.loads(Path("out/comparison.json").read_text())["methods"] == content["methods"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "DATA is missing"),
        ([*DATA, "--methods", "dpo"], "method 'dpo' is unknown"),
        ([*DATA, "--seeds", "one"], "whole numbers"),
        ([*DATA, "--metric", "macro_f1"], "which is no mean over examples"),
        ([*DATA, "--methods", "appo", "appo"], "the method 'appo' is given twice"),
        ([*DATA, "--plan", "missing.toml"], "missing.toml cannot be read"),
    ],
)
def test_what_cannot_be_is_one_line(
    invoke: Invoke, arguments: list[str], message: str, model: Path
) -> None:
    done = invoke("compare", *arguments)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not Path("runs").exists()


def test_a_plan_is_a_file_and_unknown_names_in_it_are_refused(invoke: Invoke) -> None:
    Path("plan.toml").write_text('tasks = ["support"]\nbudgets = 3\n', encoding="utf-8")
    done = invoke("compare", "--plan", "plan.toml")
    assert done.exit_code == 2
    assert "plan.toml has 'budgets'; a plan has budget, limit, methods" in done.stderr


@pytest.mark.parametrize("plan", sorted(Path(__file__).parents[2].glob("studies/*.toml")))
def test_the_plans_of_the_project_are_plans(plan: Path) -> None:
    from stableprompt.cli.compare import _read
    from stableprompt.studies.comparison import Plan
    from tests.fakes.word_agent import make_task

    told = _read(plan)
    arms = tuple(parse_arm(name) for name in told["methods"])
    made = Plan(
        (make_task(),), arms, tuple(told["seeds"]), told["budget"], told.get("settings", {})
    )
    assert len(list(made.cells())) == len(arms) * len(told["seeds"])
