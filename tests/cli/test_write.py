"""From ``tune --per-input`` to ``write``, with saved tiny models; what a writer's folder holds."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from safetensors.torch import load_file

from stableprompt import PromptWriter, majority
from stableprompt.cli.tune import with_mode
from stableprompt.errors import ConfigError, ModelError
from stableprompt.prompt_writer import CARD
from tests.cli.conftest import COLUMNS, SMALL, Invoke, assert_fits, invoke_app, options, write_rows
from tests.fakes.tiny_model import make_model
from tests.fakes.word_agent import make_word_tokenizer

FIELDS = {"premise": "it rains", "hypothesis": "it is wet"}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An agent that writes whole words: what it writes is no markup."""
    folder = tmp_path_factory.mktemp("agents") / "words"
    tokenizer = make_word_tokenizer()
    tokenizer.save_pretrained(folder)
    make_model(len(tokenizer), seed=4).save_pretrained(folder)
    return folder


def tuned(agent: Path, model: Path, run: str, *more: object) -> Result:
    models = ("--agent", agent, "--target", model)
    settings = options(*SMALL, "per_input.prompts=2")
    return invoke_app("tune", "rows.csv", *COLUMNS, *models, *settings, "--run-dir", run, *more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, agent: Path) -> Path:
    """Where one writer was trained, in ``run``."""
    folder = tmp_path_factory.mktemp("writer")
    rows = [
        f"note {n} {'team' if n % 2 else 'name'},{'first' if n % 2 else 'best'}" for n in range(60)
    ]
    (folder / "rows.csv").write_text("\n".join(["message,team", *rows]), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = tuned(agent, agent, "run", "--per-input", "--seed", 3)
        assert done.exit_code == 0, done.output
        assert_fits(done.stdout)
        (folder / "said.txt").write_text(done.stdout, encoding="utf-8")
    return folder


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def result_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "result.json").read_text(encoding="utf-8")))


def written(run: Path) -> list[dict[str, Any]]:
    lines = (run / "writes.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_summary_says_what_a_prompt_for_each_input_brings(here: Path) -> None:
    said = " ".join((here / "said.txt").read_text(encoding="utf-8").replace("│", " ").split())
    found = result_of(here / "run")["per_input"]
    assert "a prompt for each input" in said
    assert found["reason"].split(":")[0] in said
    assert f"{found['test']['score']:.3f} [" in said
    assert "agent alone" in said and "tokens an input" in said and "seconds an input" in said


def test_the_folder_holds_an_adapter_a_card_and_no_code(here: Path) -> None:
    writer = here / "run" / "writer"
    assert {path.name for path in writer.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "writer.json",
        "README.md",
    }
    assert load_file(writer / "adapter_model.safetensors")
    card = json.loads((writer / CARD).read_text(encoding="utf-8"))
    assert card["fallback"] == result_of(here / "run")["prompt"]
    assert card["figures"]["test"] == result_of(here / "run")["per_input"]["test"]
    assert len(card["asking"]["pairs"]) == 2
    readme = (writer / "README.md").read_text(encoding="utf-8")
    assert f"| a prompt for each input | {card['figures']['test']['score']:.3f} |" in readme


def test_a_fresh_process_writes_the_same_prompts(here: Path) -> None:
    rows = written(here / "run")
    fallback = result_of(here / "run")["prompt"]
    expected = [row["prompt"] if row["fault"] is None else fallback for row in rows]
    assert any(row["fault"] is None for row in rows)
    program = (
        "import json, sys; from stableprompt import PromptWriter;"
        "w = PromptWriter.from_pretrained(sys.argv[1], device='cpu', dtype='float32');"
        "print(json.dumps(w.write(json.load(open(sys.argv[2], encoding='utf-8')))))"
    )
    Path("inputs.json").write_text(json.dumps([row["input"] for row in rows]), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", program, "run", "inputs.json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == expected


def test_one_input_gives_its_prompt_and_a_file_gives_lines(here: Path) -> None:
    texts = [row["input"] for row in written(here / "run")][:3]
    one = invoke_app("write", "run", "--input", texts[0])
    assert one.exit_code == 0, one.output
    Path("many.txt").write_text("\n".join(texts) + "\n\n", encoding="utf-8")
    many = invoke_app("write", "run/writer", "--file", "many.txt")
    assert many.exit_code == 0, many.output
    told = [json.loads(line) for line in many.stdout.splitlines()]
    assert [line["input"] for line in told] == texts
    assert one.stdout == told[0]["prompt"] + "\n"
    Path("many.csv").write_text("\n".join(["message", *texts]), encoding="utf-8")
    table = invoke_app("write", "run", "--file", "many.csv")
    assert table.stdout == many.stdout


def test_messages_are_what_the_target_is_to_be_sent(here: Path) -> None:
    text = written(here / "run")[0]["input"]
    prompt = invoke_app("write", "run", "--input", text).stdout.removesuffix("\n")
    shown = json.loads(invoke_app("write", "run", "--input", text, "--messages").stdout)
    assert shown["messages"] == [
        {"role": "system", "content": prompt},
        {"role": "user", "content": text},
    ]


def test_samples_are_drawn_by_the_seed(here: Path) -> None:
    call = ["write", "run", "--input", "colour 3", "--samples", "3", "--seed"]
    one, again, other = (json.loads(invoke_app(*call, seed).stdout) for seed in (1, 1, 2))
    assert len(one["prompts"]) == 3
    assert one == again != other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "give either --input TEXT or --file FILE"),
        (["run", "--input", "a", "--file", "b"], "give either"),
        (["run", "--input", "a", "--messages", "--samples", "2"], "leave --samples out"),
        (["run", "--file", "missing.txt"], "missing.txt cannot be read"),
        (["run", "--file", "empty.txt"], "empty.txt is empty"),
        (["no such thing", "--input", "a"], "there is no folder no such thing"),
        (["no/such", "--input", "a"], "there is no folder no/such"),
        (["elsewhere", "--input", "a"], "elsewhere holds no writer"),
    ],
)
def test_what_cannot_be_is_one_line(here: Path, arguments: list[str], message: str) -> None:
    Path("empty.txt").write_text("\n", encoding="utf-8")
    Path("elsewhere").mkdir(exist_ok=True)
    done = invoke_app("write", *arguments)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_second_run_starts_from_the_writer(here: Path, agent: Path) -> None:
    done = tuned(
        agent, agent, "second", "--per-input", "auto", "--agent-adapter", "run", "--seed", 3
    )
    assert done.exit_code == 0, done.output
    config = json.loads(Path("second/config.json").read_text(encoding="utf-8"))
    assert config["agent"]["adapter"] == "run"
    assert config["per_input"]["mode"] == "auto"
    first, second = (
        json.loads(Path(run, "prompts.jsonl").read_text(encoding="utf-8").splitlines()[0])
        for run in ("run", "second")
    )
    assert first["written_for"] == second["written_for"]  # the same draw, by another policy


def test_an_agent_that_cannot_answer_alone_ruins_no_run(
    here: Path, agent: Path, model: Path
) -> None:
    write_rows(here / "colours.csv", 60)  # red and green are no words of the agent
    models = ("--agent", agent, "--target", model)
    settings = options(*SMALL, "per_input.prompts=2")
    call = ["tune", "colours.csv", *COLUMNS, *models, *settings, "--run-dir", "apart"]
    done = invoke_app(*call, "--per-input")
    assert done.exit_code == 0, done.output
    found = result_of(Path("apart"))["per_input"]
    assert found["agent_alone"] is found["over_agent_alone"] is None
    assert "cannot answer in the target's place" in " ".join(done.stdout.replace("│", " ").split())


def test_a_damaged_or_newer_card_is_told(here: Path, tmp_path: Path) -> None:
    card = json.loads(Path("run/writer/writer.json").read_text(encoding="utf-8"))
    for change, message in (
        ({"version": 2}, "version 2, known is 1"),
        ({"asking": {"style": "odd"}}, "writer.json is damaged: asking"),
        ({"max_prompt_tokens": "many"}, "max_prompt_tokens"),
    ):
        (tmp_path / CARD).write_text(json.dumps({**card, **change}), encoding="utf-8")
        with pytest.raises(ModelError, match=message):
            PromptWriter.from_pretrained(tmp_path)
    (tmp_path / CARD).write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be read"):
        PromptWriter.from_pretrained(tmp_path)


def test_what_was_written_is_remembered_and_a_single_text_is_no_list(here: Path) -> None:
    writer = PromptWriter.from_pretrained("run", device="cpu", dtype="float32")
    calls = []
    honest = writer._write

    def counting(examples: Any, rows: Any, *, greedy: bool) -> list[str]:
        calls.append(len(examples))
        return honest(examples, rows, greedy=greedy)

    writer._write = counting  # type: ignore[method-assign]
    once = writer.write(["colour 1", "colour 2", "colour 1"])
    assert once[0] == once[2]
    assert writer.write(["colour 2", "colour 3"])[0] == once[1]
    assert calls == [2, 1]
    with pytest.raises(ConfigError, match="takes a list of inputs"):
        writer.write("colour 1")
    with pytest.raises(ConfigError, match="at least one prompt"):
        writer.sample(["colour 1"], 0)
    with pytest.raises(ConfigError, match="no field 'message'"):
        writer.write([{"text": "colour 1"}])


@pytest.mark.parametrize(
    ("given", "whole"),
    [
        (["a", "--per-input"], ["a", "--per-input", "always"]),
        (["--per-input", "auto", "a"], ["--per-input", "auto", "a"]),
        (["--per-input", "a"], ["--per-input", "always", "a"]),
        (["--per-input", "aut"], ["--per-input", "aut"]),  # a slip, which the settings refuse
        (["--per-input=auto", "a"], ["--per-input=auto", "a"]),
    ],
)
def test_per_input_may_stand_alone(given: list[str], whole: list[str]) -> None:
    assert with_mode(given) == whole


def test_a_vote_takes_the_most_frequent_answer() -> None:
    assert majority(["a", "b", "b"]) == "b"
    assert majority(["b", "a"]) == "b"
    with pytest.raises(ConfigError, match="nothing to vote on"):
        majority([])


def test_help_offers_it(invoke: Invoke) -> None:
    shown = invoke("write", "--help")
    assert shown.exit_code == 0
    assert_fits(shown.stdout)
    assert "--samples" in shown.stdout
    assert "--per-input" in invoke("tune", "--help").stdout
