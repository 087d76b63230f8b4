"""``stableprompt compare`` as a person calls it."""

import json
import shlex
from pathlib import Path

import pytest

from stableprompt.cli.compare import PEER_NAMES, _join_lists, _plan, command_of, parse_arm
from stableprompt.cli.data_options import DataOptions
from stableprompt.cli.plan_file import PlanFile, read_plan
from stableprompt.errors import ConfigError
from stableprompt.studies.peers.registry import PEERS
from stableprompt.tasks.bundled_tasks import load_bundled
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
    call[call.index("best-of-n") : call.index("--seeds")] = ["seed"]
    alone = invoke(*call, *small())  # what the folder has of other methods stays in the table
    assert alone.exit_code == 0, alone.output
    shown = json.loads(Path("out/comparison.json").read_text())["methods"]
    assert sorted(m["method"] for m in shown) == ["best-of-n", "seed"]


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
    assert "plan.toml has 'budgets'; a plan has budget, label_words, limit" in done.stderr


@pytest.mark.parametrize("plan", sorted(Path(__file__).parents[2].glob("studies/*.toml")))
def test_the_plans_of_the_project_are_plans(plan: Path) -> None:
    from stableprompt.studies.comparison import Plan
    from tests.fakes.word_agent import make_task

    told = read_plan(plan, {})
    arms = tuple(parse_arm(name) for name in told.methods)
    made = Plan((make_task(),), arms, tuple(told.seeds), told.budget, told.settings)
    assert len(list(made.cells())) == len(arms) * len(told.seeds)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seeds = 3", "seeds must be whole numbers, as in [0, 1, 2]"),
        ('seeds = "012"', "found '012'"),
        ('tasks = "sst2"', "tasks must be a list of files or names"),
        ("limit = 100", "limit must be numbers of examples by split"),
        ('budget = "many"', "budget must be a whole number of target calls, found 'many'"),
        ("budget = 0", "found 0"),
        ("methods = [1]", "methods must be a list of names"),
        ("settings = 1", "settings must be a table"),
        ("label_words = 1", "label_words must be the answer to each label"),
        ("label_words = {maybe = 'x'}", "no task takes a word for 'maybe'"),
        ("label_words = {account = 'a=b'}", "'a=b' holds the sign ="),
        ("ours = 1", "ours must be a text, found 1"),
    ],
)
def test_a_value_of_a_plan_that_cannot_be_is_one_line(
    invoke: Invoke, line: str, message: str
) -> None:
    tasks = "" if line.startswith("tasks") else 'tasks = ["support"]\n'
    Path("plan.toml").write_text(tasks + line, encoding="utf-8")
    done = invoke("compare", "--plan", "plan.toml")
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert message in done.stderr
    assert not Path("runs").exists()


def test_words_are_for_the_tasks_that_have_their_labels(invoke: Invoke) -> None:
    rows = [f"text {i},{'red' if i % 2 else 'green'}" for i in range(30)]
    Path("two.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    words = {"red": "stop", "green": "go"}
    told = PlanFile(tasks=["support", "two.csv"], label_words=words)
    untouched, answered = _plan(told, DataOptions(), []).tasks
    assert untouched == load_bundled("support")
    assert answered.verbalizer is not None
    assert answered.verbalizer.words == words
    assert answered.seed_prompt.endswith("stop, go.")
    half = PlanFile(tasks=["two.csv"], label_words=["red=stop"])
    with pytest.raises(ConfigError, match="no task takes a word for 'red'; a task takes words for"):
        _plan(half, DataOptions(), [])
    rows += [f"text {i},blue" for i in range(30, 45)]
    Path("three.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    some = PlanFile(tasks=["two.csv", "three.csv"], label_words=words)
    two, three = (task.verbalizer for task in _plan(some, DataOptions(), []).tasks)
    assert two is not None
    assert three is not None
    assert (two.words, set(three.label_words)) == (words, {"red", "green", "blue"})


def test_the_command_in_the_results_is_the_whole_comparison() -> None:
    told = PlanFile(
        tasks=["a b.csv"],
        seeds=[0, 2],
        limit={"test": 9},
        label_words={"a b": "no"},
        settings={"ppo": {"replay": 0}},
    )
    own = DataOptions(text=["body"], label="team", seed_prompt="Say it's so.")
    command = command_of(told, own, [{"ppo": {"max_update_kl": None}}])
    assert shlex.split(command) == [
        *("stableprompt", "compare", "a b.csv", "--methods", "appo", "best-of-n"),
        *("--seeds", "0", "2", "--budget", "2000", "--ours", "appo", "--limit", "test=9"),
        *("--label-words", "a b=no"),
        *("--text", "body", "--label", "team", "--seed-prompt", "Say it's so."),
        *("--set", "ppo.replay=0", "--set", "ppo.max_update_kl=null"),
    ]
