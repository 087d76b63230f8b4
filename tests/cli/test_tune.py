"""``tune`` and ``evaluate`` from a CSV file to the result, with a saved tiny model."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from stableprompt import build, evaluating
from stableprompt.cli.reporting import ConsoleObserver
from stableprompt.tuning.records import StepRecord
from tests.cli.conftest import COLUMNS, SMALL, Invoke, assert_fits, invoke_app, options, write_rows
from tests.fakes.api_server import ApiServer

SEED_PROMPT = "Say [bold]red[/bold] or [/x] green"
FILES = {
    "config.json",
    "task.json",
    "basis.json",
    ".run.lock",
    "steps.jsonl",
    "prompts.jsonl",
    "pairs.jsonl",
    "test.json",
    "checkpoints",
    "best_prompt.txt",
    "result.json",
    "timing.json",
    "report.html",
}


def arguments(model: Path, *more: object) -> list[object]:
    models = ("--agent", model, "--target", model)
    return ["tune", "rows.csv", *COLUMNS, *models, *options(*SMALL), *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one run is made that many tests look at: 90 rows with splits, two of them twice."""
    folder = tmp_path_factory.mktemp("whole")
    write_rows(folder / "rows.csv", 90, split=True)
    with (folder / "rows.csv").open("a", encoding="utf-8") as file:
        file.write("Colour  0 [BOLD]x[/bold] [/x],green,test\n")  # row 0 is in train
        file.write("colour 1 [bold]x[/bold] [/x],red,train\n")  # row 1 is in validation
    return folder


@pytest.fixture(scope="module")
def done(folder: Path, model: Path) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prompt = ("--seed-prompt", SEED_PROMPT)
        return invoke_app(*arguments(model, "--run-dir", "run", "--seed", 4, *prompt))


def result_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "result.json").read_text(encoding="utf-8")))


def said(output: str) -> str:
    """The output with table borders and line breaks gone."""
    return " ".join(output.replace("│", " ").split())


# --- the whole run ---


def test_it_succeeds_and_says_nothing_on_stderr(done: Result) -> None:
    assert done.exit_code == 0, done.output
    assert done.stderr == ""


def test_the_run_folder_holds_everything(done: Result, folder: Path) -> None:
    run = folder / "run"
    assert {path.name for path in run.iterdir()} == FILES
    assert len((run / "steps.jsonl").read_text().splitlines()) == 2
    rows = [json.loads(line) for line in (run / "prompts.jsonl").read_text().splitlines()]
    # 2 steps of 4 prompts, and 2 prompts each of policy and anchor for the decision.
    assert [row["scored_on"] for row in rows] == ["training"] * 8 + ["validation"] * 4
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == [
        "step-000001",
        "step-000002",
    ]
    assert (run / "best_prompt.txt").read_text() == result_of(run)["prompt"] + "\n"


def test_settings_of_the_command_line_are_in_the_run_folder(
    done: Result, folder: Path, model: Path
) -> None:
    config = json.loads((folder / "run" / "config.json").read_text())
    assert config["seed"] == 4
    assert config["agent"]["model"] == config["target"]["model"] == str(model)
    assert config["ppo"]["prompts_per_step"] == 4
    assert config["guards"]["max_surprise"] is None


def test_the_output_shows_both_prompts_as_they_are(done: Result) -> None:
    assert done.stdout.count(SEED_PROMPT) >= 1
    assert f"seed prompt {SEED_PROMPT}" in said(done.stdout)


def test_the_output_has_the_figures_of_the_result_file(done: Result, folder: Path) -> None:
    result, text = result_of(folder / "run"), said(done.stdout)
    for part in ("test", "seed_test"):
        figure = result[part]
        shown = f"{figure['score']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}], n = 31"
        assert f"test accuracy {shown}" in text
        assert figure["n"] == 31
    assert result["prompt"] == SEED_PROMPT  # random weights find nothing better
    assert "best prompt the seed prompt" in text
    timing = json.loads((folder / "run" / "timing.json").read_text())
    assert f"agent tokens written, {timing['seconds']:.0f} s" in text
    assert f"majority class {result['trivial_score']:.3f} on test" in text
    assert f"{result['target_calls']} target calls" in text
    assert "verdict no" in text  # no improvement, or not proven: random weights


def test_every_refused_prompt_is_counted(done: Result, folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "run/prompts.jsonl").read_text().splitlines()]
    refused = result_of(folder / "run")["candidates"]["refused"]
    faults = [row["fault"] for row in rows if row["fault"] is not None]
    assert refused == {fault: faults.count(fault) for fault in sorted(set(faults))}
    assert refused  # the tiny model writes control characters
    shown = ", ".join(f"{count} {why}" for why, count in refused.items())
    assert f"refused: {shown}" in said(done.stdout)


def test_the_output_names_the_run_folder_first_and_last(done: Result) -> None:
    lines = done.stdout.splitlines()
    assert "run folder: run" in lines
    assert [line for line in lines if "run folder" in line][-1].replace("│", " ").split() == [
        "run",
        "folder",
        "run",
    ]


def test_duplicates_across_splits_are_reported(done: Result) -> None:
    assert "task rows: classification, accuracy; 29 train, 30 validation, 31 test" in done.stdout
    assert "labels: green, red" in done.stdout
    assert "note: 2 duplicate rows dropped (same text but for case and white space)" in done.stdout


def test_steps_and_decisions_are_shown_and_fit(done: Result) -> None:
    assert "step   1/2  reward" in done.stdout
    assert "step   2/2  reward" in done.stdout
    assert "anchor: " in done.stdout
    assert_fits(done.stdout)


# --- evaluate ---


@pytest.mark.parametrize("split", ["test", "validation"])
def test_evaluate_run_prints_the_figure_of_the_run(
    done: Result, folder: Path, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    monkeypatch.chdir(folder)
    again = invoke_app("evaluate", "rows.csv", *COLUMNS, "--run", "run", "--split", split)
    assert again.exit_code == 0, again.output
    figure = result_of(folder / "run")[split]
    interval = f"[{figure['low']:.3f}, {figure['high']:.3f}]"
    shown = f"accuracy on {split}: {figure['score']:.3f} {interval}, n = {figure['n']} "
    assert shown + "majority class: 0.5" in said(again.stdout)
    assert_fits(again.stdout)


def test_evaluate_prompt_prints_score_interval_and_n(invoke: Invoke, model: Path) -> None:
    prompt = ("--prompt", "[/x] [bold]")
    more = ("--target", model, *options("dtype=float32", "device=cpu"))
    done = invoke("evaluate", "rows.csv", *COLUMNS, *prompt, *more)
    assert done.exit_code == 0, done.output
    # 30 rows a label, 0.3 of each in test: always the same label gives 9 of 18.
    number = r"[01]\.\d{3}"
    pattern = rf"accuracy on test: {number} \[{number}, {number}\], n = 18 majority class: 0\.500.*"
    assert re.fullmatch(pattern, said(done.stdout))


def test_evaluate_run_takes_split_and_template_of_the_run(
    invoke: Invoke, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = "target.input_format='Text: {text}'"
    assert invoke(*arguments(model, "--seed", 5, "--run-dir", "run", "--set", form)).exit_code == 0
    seen: dict[str, Any] = {}
    honest = evaluating.evaluate

    def watched(task: Any, prompt: str, **settings: Any) -> Any:
        seen.update(task=task, prompt=prompt, **settings)
        return honest(task, prompt, **settings)

    monkeypatch.setattr(evaluating, "evaluate", watched)
    done = invoke("evaluate", "rows.csv", *COLUMNS, "--run", "run")
    assert done.exit_code == 0, done.output
    kept = json.loads(Path("run/task.json").read_text())["test"]
    assert [example.text for example in seen["task"].test] == [row["text"] for row in kept]
    assert seen["prompt"] == result_of(Path("run"))["prompt"]
    assert seen["target"]["input_format"] == "Text: {text}"
    words = invoke("evaluate", "rows.csv", *COLUMNS, "--run", "run", "--label-words", "red=stop")
    assert (words.exit_code, "by the label words of the run" in words.stderr) == (2, True)
    assert (seen["target"]["model"], seen["dtype"]) == (str(model), "float32")
    # Another way to split the same texts changes nothing: the run's own test split is judged.
    again = invoke("evaluate", "rows.csv", *COLUMNS, "--run", "run", "--set", "split_seed=6")
    assert again.exit_code == 0
    assert [example.text for example in seen["task"].test] == [row["text"] for row in kept]


def test_evaluate_run_on_other_data_leaves_out_what_the_run_has_seen(
    invoke: Invoke, model: Path
) -> None:
    assert invoke(*arguments(model, "--run-dir", "run")).exit_code == 0
    seen = json.loads(Path("run/task.json").read_text())
    rows = [f'"{row["text"]}",{row["label"]}' for row in seen["train"][:4]]
    rows += [f"never seen {i},{('red', 'green')[i % 2]}" for i in range(20)]
    Path("other.csv").write_text("message,team\n" + "\n".join(rows) + "\n")
    done = invoke("evaluate", "other.csv", *COLUMNS, "--run", "run")
    assert done.exit_code == 0, done.output
    assert "note: 1 of 7 test texts left out: the run was tuned on them" in done.stdout
    text = Path("other.csv").read_text()
    Path("other.csv").write_text(text.replace("message,", "body,", 1))
    renamed = invoke("evaluate", "other.csv", "--text", "body", "--label", "team", "--run", "run")
    assert renamed.exit_code == 2
    assert "--text names 'body', the run's inputs were in 'message'" in renamed.stderr


# --- other ways in ---


def test_flags_win_over_the_settings_file(invoke: Invoke, model: Path) -> None:
    Path("mine.toml").write_text('seed = 1\nmethod = "ppo-fixed"\nsteps = 1\n')
    more = ("--config", "mine.toml", "--seed", 2, "--run-dir", "run")
    small = [s for s in SMALL if not s.startswith("steps")]
    models = ("--agent", model, "--target", model)
    done = invoke("tune", "rows.csv", *COLUMNS, *models, *options(*small), *more)
    assert done.exit_code == 0, done.output
    config = json.loads(Path("run/config.json").read_text())
    assert (config["seed"], config["method"], config["steps"]) == (2, "ppo-fixed", 1)
    assert config["anchor"]["kind"] == "fixed"
    assert "anchor no decisions" in said(done.stdout)


def test_without_a_run_dir_the_folder_is_named_after_the_data(invoke: Invoke, model: Path) -> None:
    done = invoke(*arguments(model, *options("steps=0")))
    assert done.exit_code == 0, done.output
    [run] = Path("runs").iterdir()
    assert run.name.startswith("rows-")
    assert f"run folder: {run}" in done.stdout
    assert "1 different prompts, 1 compared on validation" in said(done.stdout)


def test_a_run_folder_with_markup_in_its_name_is_shown_as_it_is(
    invoke: Invoke, model: Path
) -> None:
    done = invoke(*arguments(model, *options("steps=0"), "--run-dir", "my [bold] [/x] run"))
    assert done.exit_code == 0, done.output
    assert done.stdout.count("my [bold] [/x] run") == 2


def test_interrupted_and_resumed_gives_the_result_of_a_run_in_one_piece(
    invoke: Invoke, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke(*arguments(model, "--run-dir", "whole")).exit_code == 0

    class Impatient(ConsoleObserver):
        def on_step(self, record: StepRecord) -> None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("stableprompt.cli.voices.ConsoleObserver", Impatient)
        cut = invoke(*arguments(model, "--run-dir", "cut"))
    assert cut.exit_code == 130
    assert cut.stderr == "interrupted; continue with: stableprompt tune --resume cut\n"
    resumed = invoke("tune", "--resume", "cut")
    assert resumed.exit_code == 0, resumed.output
    assert "resuming after step 1 of 2" in resumed.stdout
    assert "step   1/2" not in resumed.stdout
    for name in ("result.json", "prompts.jsonl", "best_prompt.txt"):
        assert Path("cut", name).read_bytes() == Path("whole", name).read_bytes()


def test_a_run_goes_on_where_its_servers_have_moved(
    invoke: Invoke, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Impatient(ConsoleObserver):
        def on_step(self, record: StepRecord) -> None:
            raise KeyboardInterrupt

    monkeypatch.setenv("STABLEPROMPT_CACHE", str(tmp_path / "cache"))
    here = "--target", "fake-model", "--run-dir", "cut"
    with ApiServer(lambda messages: "yes") as server, monkeypatch.context() as patch:
        patch.setattr("stableprompt.cli.voices.ConsoleObserver", Impatient)
        cut = invoke(*arguments(model, *here, "--base-url", server.base_url))
        assert cut.exit_code == 130, cut.output
    with ApiServer(lambda messages: "yes") as one, ApiServer(lambda messages: "yes") as other:
        moved = "--base-url", one.base_url, "--base-url", other.base_url
        resumed = invoke("tune", "--resume", "cut", *moved)
        assert resumed.exit_code == 0, resumed.output
        assert min(len(one.requests), len(other.requests)) > 3
        assert f"to {one.base_url}" in said(resumed.stdout)
    config = json.loads(Path("cut/config.json").read_text())
    assert config["target"]["api"]["base_url"] == [one.base_url, other.base_url]


def test_interrupted_before_there_is_a_folder_it_names_none(
    invoke: Invoke, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "load_models", interrupted)
    done = invoke(*arguments(model, "--run-dir", "run"))
    assert done.exit_code == 130
    assert not Path("run").exists()
    assert "--resume" not in done.stderr


def test_a_model_that_cannot_be_loaded_is_one_line_and_leaves_no_folder(invoke: Invoke) -> None:
    Path("hollow").mkdir()
    done = invoke(*arguments(Path("hollow"), "--run-dir", "run"))
    assert done.exit_code == 2
    assert done.stderr.startswith("stableprompt: model 'hollow' could not be loaded")
    assert len(done.stderr.splitlines()) == 1
    assert not Path("run").exists()


@pytest.mark.parametrize("device", ["quantum", "cuda:x"])
def test_an_unknown_device_is_one_line_and_leaves_no_folder(
    invoke: Invoke, model: Path, device: str
) -> None:
    done = invoke(*arguments(model, "--run-dir", "run", "--set", f"device={device}"))
    assert done.exit_code == 2
    assert done.stderr.startswith(f"stableprompt: device '{device}' is not known to torch")
    assert not Path("run").exists()


def test_texts_too_long_for_the_target_leave_enough_for_a_step_or_are_refused(
    invoke: Invoke, model: Path
) -> None:
    # The tiny model reads 2048 tokens. All but one train row of each label are longer.
    lines = ["message,team,split"]
    for split in ("train", "validation", "test"):
        for i in range(20):
            text = f"{split} {i} " + ("long " * 3000 if split == "train" and i > 1 else "")
            lines.append(f"{text},{'red' if i % 2 else 'green'},{split}")
    Path("rows.csv").write_text("\n".join(lines) + "\n")
    done = invoke(*arguments(model, "--run-dir", "run"))
    assert done.exit_code == 2, done.exception
    assert "the train split has 2 examples, a step needs 6" in done.stderr
