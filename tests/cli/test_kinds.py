"""``tune`` on every kind of task, from a file to the result, with a saved tiny model."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from stableprompt import build
from stableprompt.cli.reporting import ConsoleObserver
from stableprompt.errors import ConfigError
from stableprompt.models.targets.local import LocalTarget
from stableprompt.tasks.task import Task
from stableprompt.tuning.records import StepRecord, TuneResult
from tests.cli.conftest import SMALL, assert_fits, invoke_app, options

Rows = list[dict[str, Any]]

GENERATION = [{"input": f"{i} + 1", "outputs": [f"{i + 1}", f"n{i + 1}"]} for i in range(40)]
CHOICES = [
    {"question": f"q {i}?", "options": [f"a{i}", f"b{i}", f"c {i}"], "answer": i % 3}
    for i in range(40)
]
PAIRS = [
    {"premise": f"p {i}", "hypothesis": f"h {i}", "label": "yes" if i % 2 else "no"}
    for i in range(40)
]
FIELDS = ("--text", "premise", "--text", "hypothesis")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, rows in (("generation", GENERATION), ("choices", CHOICES), ("pairs", PAIRS)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def tune(model: Path, data: str, *more: object, run: str = "run") -> Result:
    models = ("--agent", model, "--target", model)
    return invoke_app("tune", data, *models, *options(*SMALL), "--run-dir", run, *more)


def result_of(run: str = "run") -> dict[str, Any]:
    return dict(json.loads(Path(run, "result.json").read_text(encoding="utf-8")))


def prompts_of(run: str = "run") -> Rows:
    return [json.loads(line) for line in Path(run, "prompts.jsonl").read_text().splitlines()]


def test_generation(place: Path, model: Path) -> None:
    done = tune(model, "generation.jsonl", "--metric", "token_f1")
    assert done.exit_code == 0, done.output
    assert_fits(done.stdout)
    assert "task generation: generation, token_f1; 16 train, 12 validation, 12 test" in done.stdout
    result = result_of()
    assert result["test"]["metric"] == "token_f1"
    assert (result["setting"]["kind"], result["setting"]["metric"]) == ("generation", "token_f1")
    assert result["setting"]["max_answer_tokens"] == 64
    assert all(row["softmax_difference"] is None for row in prompts_of())
    again = invoke_app("evaluate", "generation.jsonl", "--run", "run")
    assert again.exit_code == 0, again.output
    figure = result["test"]
    assert f"token_f1 on test: {figure['score']:.3f} [{figure['low']:.3f}" in again.stdout
    assert "best trivial answer: " in again.stdout


def test_evaluate_says_what_is_wrong_with_a_prompt_before_a_model_is_loaded(place: Path) -> None:
    lost = invoke_app(
        "evaluate", "pairs.jsonl", *FIELDS, "--prompt", "Is {premise} so?", "--target", "nowhere"
    )
    assert lost.exit_code == 2
    assert "the prompt has no {hypothesis}" in lost.stderr
    odd = invoke_app(
        "evaluate",
        "pairs.jsonl",
        *FIELDS,
        "--prompt",
        "{premis}?",
        "--target",
        "nowhere/at-all",
        *options("device=quantum"),
    )
    assert "note: {premis} in the prompt is no field of the input" in odd.stdout.replace("\n", " ")


def test_a_file_name_is_no_task() -> None:
    task: Any = "tickets.csv"
    with pytest.raises(ConfigError, match=r"tune takes a task, found str; make one with Task\."):
        build.tune(task)


def test_multiple_choice(place: Path, model: Path) -> None:
    done = tune(model, "choices.jsonl")
    assert done.exit_code == 0, done.output
    assert "task choices: multiple choice, accuracy" in done.stdout
    assert "best trivial answer" in done.stdout
    result = result_of()
    assert result["messages"] == [
        {"role": "system", "content": result["prompt"]},
        {"role": "user", "content": "{text}"},
    ]
    assert result["layout"] == {"layout": "{question}\n{choices}", "choice_style": "letters"}
    assert any(row["softmax_difference"] is not None for row in prompts_of())


def test_several_fields_and_a_limit(place: Path, model: Path) -> None:
    done = tune(model, "pairs.jsonl", *FIELDS, "--limit", "test=6", "--metric", "macro_f1")
    assert done.exit_code == 0, done.output
    assert "note: 6 of 12 test examples drawn" in done.stdout
    result = result_of()
    assert (result["test"]["n"], result["test"]["metric"]) == (6, "macro_f1")
    assert result["paired"]["test"] == "randomisation"


def test_a_plain_template_for_a_target_without_a_chat_template(
    place: Path, model: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(model).save_pretrained(tmp_path / "base")
    plain = options("target.format=plain", "target.input_format='In: {text} Out:'")
    done = tune(model, "pairs.jsonl", *FIELDS, "--target", "base", *plain)
    assert done.exit_code == 0, done.output
    result = result_of()
    assert result["template"]["format"] == "plain"
    content = f"{result['prompt']}\n\nIn: {{text}} Out:"
    assert result["messages"] == [{"role": "user", "content": content}]
    refused = tune(model, "pairs.jsonl", *FIELDS, "--target", "base", run="other")
    assert refused.exit_code == 2
    assert "--set target.format=plain" in refused.stderr


def test_prompts_that_lose_the_placeholders_are_refused_and_counted(
    place: Path, model: Path
) -> None:
    prompt = "Is {hypothesis} so, given {premise}?"
    done = tune(model, "pairs.jsonl", *FIELDS, "--seed-prompt", prompt, *options("steps=8"))
    assert done.exit_code == 0, done.output
    result = result_of()
    # The tiny model writes noise: no prompt of its own keeps the two.
    assert set(result["candidates"]["refused"]) <= {"placeholder", "markup", "empty"}
    assert result["candidates"]["refused"]["placeholder"] > 0
    assert result["prompt"] == prompt
    assert result["messages"] == [{"role": "user", "content": prompt}]


def test_demonstrations_are_tried_and_counted(place: Path, model: Path) -> None:
    few = options("selection.num_demonstrations=3", "selection.demonstration_sets=5", "steps=0")
    done = tune(model, "pairs.jsonl", *FIELDS, *few)
    assert done.exit_code == 0, done.output
    result = result_of()
    # The seed prompt and five sets, on 12 validation examples each.
    assert result["candidates"]["compared_on_validation"] == 6
    assert result["cost"]["target_calls"]["validation"] == 6 * 12
    assert result["prompt"].startswith(result["instruction"])
    if result["prompt"] != result["instruction"]:
        assert result["prompt"].count("\nInput: Premise: p ") == 3


def test_a_judge_rates_the_answers(place: Path, model: Path) -> None:
    rubric = options("judge.rubric='It is {reference}.'")
    done = tune(
        model,
        "generation.jsonl",
        "--metric",
        "judge",
        *rubric,
        *options("target.max_answer_tokens=4"),
    )
    assert done.exit_code == 0, done.output
    result = result_of()
    assert result["test"]["metric"] == "judge"
    assert 0 < result["test"]["score"] < 1
    assert result["trivial_score"] is None
    assert result["cost"]["judge_calls"] > 0
    assert f"{result['cost']['judge_calls']} judge calls" in done.stdout.replace("\n", " ")


OWN = (
    "def mine(example, prediction):\n    return 1.0 if prediction[:1] == example.label[:1] else 0.5"
)


def test_a_metric_of_ones_own_and_resuming_with_it(
    place: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "own_metric.py").write_text(OWN)
    own = ("--metric", "own_metric:mine")
    assert tune(model, "generation.jsonl", *own, run="whole").exit_code == 0
    result = result_of("whole")
    assert result["test"]["metric"] == "mine"
    assert result["test"]["score"] >= 0.5

    class Impatient(ConsoleObserver):
        def on_step(self, record: StepRecord) -> None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("stableprompt.cli.voices.ConsoleObserver", Impatient)
        assert tune(model, "generation.jsonl", *own, run="cut").exit_code == 130
    lost = invoke_app("tune", "--resume", "cut")
    assert lost.exit_code == 2
    assert "mine" in lost.stderr
    named = invoke_app("tune", "--resume", "cut", "--metric", "token_f1")
    assert named.exit_code == 2
    resumed = invoke_app("tune", "--resume", "cut", *own)
    assert resumed.exit_code == 0, resumed.output
    assert Path("cut/result.json").read_bytes() == Path("whole/result.json").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generation.jsonl", "--metric", "bleurt"), "unknown metric 'bleurt'"),
        (("generation.jsonl", "--metric", "accuracy"), "scores"),
        (("generation.jsonl", "--kind", "poem"), "kind must be one of"),
        (("generation.jsonl", "--kind", "multiple_choice"), "--choices COLUMN"),
        (("choices.jsonl", "--text", "options"), "with no text in column 'options'"),
        (("pairs.jsonl", "--text", "premise", "--text", "claim"), "no column 'claim'"),
        (("pairs.jsonl", *FIELDS, "--seed-prompt", "{premise}?"), "has no {hypothesis}"),
        (("pairs.jsonl", *FIELDS, "--limit", "test"), "must look like test=200"),
        (("sst2", "--data-dir", "nowhere"), "no such data folder: nowhere"),
        (("hub:", "--label", "x"), "does not name a dataset"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_no_folder(
    place: Path, model: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = tune(model, *arguments)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not Path("run").exists()


# --- what is exported is what was scored ---


@pytest.mark.parametrize(
    ("rows", "given", "settings", "field"),
    [
        (PAIRS, {"text": ["premise", "hypothesis"]}, {}, True),
        (PAIRS, {"text": ["premise", "hypothesis"]}, {"position": "user"}, True),
        (PAIRS, {"text": ["premise", "hypothesis"]}, {"order": "input_first"}, True),
        (PAIRS, {"text": ["premise", "hypothesis"]}, {"format": "plain"}, True),
        (PAIRS, {"text": ["premise", "hypothesis"],
                 "seed_prompt": "{hypothesis} <- {{ premise }}?"}, {}, True),
        (CHOICES, {"choice_style": "text"}, {"position": "user"}, True),
        (GENERATION, {"seed_prompt": "Do {input} so."}, {}, False),
    ],
)  # fmt: skip
def test_messages_of_the_result_are_those_that_were_scored(
    place: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: Rows,
    given: Any,
    settings: Any,
    field: bool,
) -> None:
    task = Task.from_records(rows, **given)
    read: list[Any] = []
    for name in ("label_scores", "generate"):
        honest = getattr(LocalTarget, name)

        def watched(self: Any, conversations: Any, more: Any, honest: Any = honest) -> Any:
            read.extend(conversations)
            return honest(self, conversations, more)

        monkeypatch.setattr(LocalTarget, name, watched)
    result: TuneResult = build.tune(
        task,
        agent=str(model),
        target={"model": str(model), **settings},
        run_dir=place / "run",
        steps=0,
        dtype="float32",
        reward={"examples_per_step": 4},
        selection={"num_demonstrations": 2, "demonstration_sets": 2},
        guards={"max_surprise": None},
    )
    scored = read[-len(task.test) :]
    for example, messages in zip(task.test, scored, strict=True):
        inputs = dict(example.fields)
        if "choices" in inputs:
            inputs["choices"] = [line[2:] for line in inputs["choices"].splitlines()]  # type: ignore[assignment]
        assert result.messages_for(inputs) == messages
        if not field:
            assert result.messages_for(example.text) == messages
    exported = json.loads((place / "run" / "result.json").read_text())["messages"]
    assert exported == result.messages


def test_an_input_that_lacks_a_field_is_refused(place: Path, model: Path) -> None:
    task = Task.from_records(PAIRS, text=["premise", "hypothesis"], seed_prompt="{text}: so?")
    settings: Any = {"steps": 0, "dtype": "float32", "reward": {"examples_per_step": 4}}
    result = build.tune(task, agent=str(model), target=str(model), run_dir="run", **settings)
    with pytest.raises(ConfigError, match="the input has no field 'hypothesis'"):
        result.messages_for({"premise": "p"})
    assert result.messages_for("whole")[-1]["content"].startswith("whole")
