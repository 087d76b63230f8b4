"""What is said of a run before it, against the run itself; and that nobody is asked."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from stableprompt import build, estimating, speakers
from stableprompt.config import TuneConfig, make_config, merge
from stableprompt.errors import ConfigError, DataError
from stableprompt.estimating import RunEstimate, estimate_run
from stableprompt.models import embedded
from stableprompt.models.agent import AgentLLM
from stableprompt.models.chat import encode_answer, encode_chat
from stableprompt.models.targets.interface import TargetLLM
from stableprompt.models.targets.local import LocalTarget
from stableprompt.tasks.bundled_tasks import load_bundled
from stableprompt.tasks.splits import Splits
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import template_of
from stableprompt.tuning.records import Silence, TuneResult
from tests.fakes.agents import make_loaded
from tests.fakes.api_server import ApiServer
from tests.fakes.tiny_model import make_tokenizer, save_tiny_model
from tests.fakes.word_agent import ScriptedTarget, make_agent, make_task
from tests.tuning.conftest import TINY, scripted_models, tiny_config

TASK = make_task()  # 24 training examples, 18 of validation, 18 of test
GUARDED = {"max_surprise": 1e9, "require_instruction": True}  # on, and nothing is refused
LOCAL = {"device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> ScriptedTarget:
    """The target of all runs and estimates of a test, with the agent that speaks whole words."""
    scripted = scripted_models(monkeypatch)
    monkeypatch.setattr(estimating, "load_models", build.load_models)
    return scripted


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent that speaks whole words, and a real target with a tokenizer of its own."""

    def load_models(
        config: TuneConfig, function: Any = None, ranks: Any = None
    ) -> tuple[AgentLLM, TargetLLM]:
        return make_agent(seed=7), LocalTarget(make_loaded())

    for module in (build, estimating):
        monkeypatch.setattr(module, "load_models", load_models)


def estimate(config: TuneConfig, task: Task = TASK, **options: Any) -> RunEstimate:
    return estimate_run(task, config, Silence(), **options)


def config_of(checkpoint: str, target: Any = None, **settings: Any) -> TuneConfig:
    """The tiny settings, with models that are really loaded."""
    of_target = {"model": checkpoint, **(target or {})}
    models = {"agent": {"model": checkpoint}, "target": of_target}
    return make_config(merge(TINY, LOCAL, models, settings))


def run(config: TuneConfig, folder: Path, task: Task = TASK, **options: Any) -> TuneResult:
    return build.start_run(task, config, folder / "run", Silence(), **options)


def expected(found: RunEstimate) -> dict[str, int]:
    return {name: phase.calls for name, phase in found.phases.items()}


def first_step(result: TuneResult) -> list[dict[str, Any]]:
    lines = (result.run_dir / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["step"] == 0]


# --- calls ---


# Of six prompts of one word some are empty, which is refused, and some are equal.
SHORT: dict[str, Any] = {"agent": {"max_prompt_tokens": 1}}


@pytest.mark.parametrize("seed", [4, 11])
def test_the_step_that_is_tried_is_the_runs_first_step(
    target: ScriptedTarget, tmp_path: Path, seed: int
) -> None:
    config = tiny_config(method="best-of-n", steps=1, seed=seed, **SHORT)
    probe = estimate(config).probe
    rows = first_step(run(config, tmp_path))
    accepted = {row["prompt"] for row in rows if row["fault"] is None}
    assert probe.written == len(rows) == 6
    assert probe.refused == sum(row["fault"] is not None for row in rows) > 0
    assert probe.different == len(accepted) < 6 - probe.refused
    assert probe.writing_seconds > 0
    assert probe.update_seconds == 0.0


@pytest.mark.parametrize("seed", [4, 11])
def test_a_run_of_one_step_is_foreseen_whatever_is_refused_or_repeated(
    target: ScriptedTarget, tmp_path: Path, seed: int
) -> None:
    config = tiny_config(method="best-of-n", steps=1, seed=seed, **SHORT)
    found = estimate(config)
    made = run(config, tmp_path).cost["target_calls"]
    assert expected(found)["training"] == made["training"]
    assert expected(found)["selection"] == made["validation"]
    assert expected(found)["anchor decisions"] == 0


@pytest.mark.parametrize("budget", [None, 200])
def test_best_of_n_is_exact_where_nothing_is_refused_and_nothing_repeats(
    target: ScriptedTarget, tmp_path: Path, budget: int | None
) -> None:
    config = tiny_config(method="best-of-n", steps=4, budget=budget, seed=1)
    found = estimate(config)
    result = run(config, tmp_path)
    steps = len((result.run_dir / "steps.jsonl").read_text(encoding="utf-8").splitlines())
    assert result.candidates["refused"] == {}
    assert result.candidates["unique"] == 6 * steps + 1
    made = result.cost["target_calls"]
    assert found.steps == steps
    assert found.updates == 0
    assert expected(found)["training"] == made["training"]
    assert expected(found)["selection"] == made["validation"]
    assert found.at_most >= found.calls >= sum(made.values())


def test_few_shot_is_exact_where_demonstrations_help(
    target: ScriptedTarget, tmp_path: Path
) -> None:
    # The scripted target likes "please", and here every demonstration holds it.
    rows = [
        {"text": f"{word} please please {i}", "label": word}
        for i in range(30)
        for word in ("red", "green")
    ]
    task = Task.from_records(rows, name="polite", seed_prompt="sort one text")
    config = tiny_config(method="few-shot", steps=0)
    found = estimate(config, task)
    result = run(config, tmp_path, task)
    assert result.prompt != result.seed_prompt
    made = result.cost["target_calls"]
    assert expected(found) == {
        "training": made["training"],
        "anchor decisions": 0,
        "selection": made["validation"],
        "test": made["test"],
    }
    assert found.at_most == found.calls == sum(made.values())
    assert found.probe.written == 0


@pytest.mark.parametrize("method", ["appo", "appo-paper", "grpo"])
def test_training_stays_within_the_bound_and_near_what_is_expected(
    target: ScriptedTarget, tmp_path: Path, method: str
) -> None:
    config = tiny_config(method=method)
    found = estimate(config)
    made = run(config, tmp_path).cost["target_calls"]
    assert sum(made.values()) <= found.at_most
    assert found.phases["training"].calls == pytest.approx(made["training"], rel=0.15)
    assert found.updates == found.steps == 4
    assert found.probe.update_seconds > 0


def test_a_learning_curve_is_a_phase_where_it_is_drawn(target: ScriptedTarget) -> None:
    assert "learning curve" not in estimate(tiny_config()).phases
    drawn = estimate(tiny_config(selection={"learning_curve": True}))
    assert drawn.phases["learning curve"].at_most == 4 * 18


# --- tokens, in this process ---


USER = {"position": "user"}
PHASES = (
    (("training",), "training"),
    (("anchor decisions", "selection"), "validation"),
    (("test",), "test"),
)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "seed", "steps": 0},
        {"method": "few-shot", "steps": 0},
        {"method": "best-of-n"},
        {"method": "best-of-n", "target": {**USER, "order": "input_first"}},
        {"method": "best-of-n", "steps": 12},
        {"method": "appo"},
        {"method": "best-of-n", "steps": 3, "per_input": {"mode": "always", "prompts": 3}},
        {"method": "best-of-n", "budget": 300},
    ],
    ids=["seed", "few-shot", "best-of-n", "input first", "long", "appo", "per input", "budget"],
)
def test_tokens_are_within_a_tenth_of_a_real_runs(
    local: None, tmp_path: Path, settings: dict[str, Any]
) -> None:
    config = tiny_config(guards=GUARDED, **settings)
    found = estimate(config)
    cost = run(config, tmp_path).cost
    made, tokens = cost["target_calls"], cost["target_tokens"]
    assert sum(made.values()) <= found.at_most
    spent, foreseen = 0.0, 0.0
    for names, purpose in PHASES:
        calls = sum(found.phases[name].calls for name in names)
        read = sum(found.phases[name].read for name in names)
        # Where the seed prompt is chosen, which nobody knows before, test is read with it alone.
        alone = purpose == "test" and made[purpose] < calls
        if made[purpose] and not alone:
            assert read / calls == pytest.approx(tokens[purpose] / made[purpose], rel=0.15), purpose
            spent += tokens[purpose]
            foreseen += read * made[purpose] / calls
    assert foreseen == pytest.approx(spent, rel=0.1)
    assert found.written == 0


@pytest.mark.parametrize(("method", "steps"), [("seed", 0), ("best-of-n", 3)])
def test_so_are_those_of_free_answers(local: None, tmp_path: Path, method: str, steps: int) -> None:
    rows = [{"text": f"Say {i} and {i + 1}.", "label": f"{i} {i + 1}"} for i in range(60)]
    task = Task.from_records(rows, kind="generation", name="numbers", seed_prompt="Repeat.")
    config = tiny_config(method=method, steps=steps, target={"max_answer_tokens": 6})
    found = estimate(config, task)
    cost = run(config, tmp_path, task).cost
    calls = sum(cost["target_calls"].values())
    assert calls <= found.at_most
    written = sum(cost["target_written"].values())
    assert written > calls
    assert found.written / found.calls == pytest.approx(written / calls, rel=0.1)
    read = sum(cost["target_tokens"].values()) - written
    assert found.read / found.calls == pytest.approx(read / calls, rel=0.1)


def test_of_a_target_with_another_tokenizer_its_own_count_decides(
    target: ScriptedTarget,
) -> None:
    # The scripted target says that each call is one token, whatever the agent's tokenizer makes
    # of the conversation.
    found = estimate(tiny_config(method="seed", steps=0))
    assert found.read == pytest.approx(found.calls, rel=0.1)


# --- dollars, time, memory ---


def test_a_target_in_this_process_costs_no_dollars_but_time(checkpoint: str) -> None:
    found = estimate(config_of(checkpoint, steps=2))
    assert found.dollars == 0.0
    assert not found.target_elsewhere
    assert found.target_seconds is not None
    assert 0 < found.target_seconds < found.seconds
    assert found.seconds > 2 * (found.probe.writing_seconds + found.probe.update_seconds)
    assert found.device == "cpu"
    assert found.notes == ()


def test_twice_the_steps_take_twice_the_time(checkpoint: str) -> None:
    few = estimate(config_of(checkpoint, steps=10))
    many = estimate(config_of(checkpoint, steps=200))
    each = many.probe.writing_seconds + many.probe.update_seconds
    assert many.seconds > 200 * each
    assert many.seconds > 5 * few.seconds


def test_weights_are_counted_once_where_they_are_shared(checkpoint: str, tmp_path: Path) -> None:
    other = str(save_tiny_model(tmp_path / "other", seed=1))
    config = config_of(checkpoint, steps=0, method="seed")
    agent, _ = speakers.load_models(config)
    held = sum(p.numel() * 4 for p in agent.model.parameters())
    base = sum(p.numel() * 4 for n, p in agent.model.named_parameters() if ".lora_" not in n)
    shared = estimate(config)
    assert shared.weights == held
    apart = estimate(config_of(checkpoint, {"model": other}, steps=0, method="seed"))
    assert apart.weights == held + base
    # Python and torch alone take more than 100 MB, this test run less than 100 GB.
    assert 10**8 < shared.peak < 10**11


# --- nobody is asked ---


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing outside this process can be opened."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something outside was opened")

    for name in ("ApiTarget", "FunctionTarget"):
        monkeypatch.setattr(speakers, name, refuse)
    monkeypatch.setattr(openai, "AsyncOpenAI", refuse)


def never(messages: list[dict[str, str]]) -> str:
    raise AssertionError("the function was called")


OPENAI = {"model": "openai/gpt-4o-mini"}
FUNCTION = {"model": "function:never"}


@pytest.mark.parametrize("method", ["seed", "few-shot", "best-of-n", "appo"])
def test_no_api_is_asked_and_no_key_is_needed(
    checkpoint: str, deaf: None, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    steps = 0 if method in ("seed", "few-shot") else 2
    found = estimate(config_of(checkpoint, OPENAI, method=method, steps=steps))
    assert found.calls > 0
    assert found.target_elsewhere
    assert found.dollars
    assert found.target_seconds is None
    assert (found.probe.written, found.updates) == (steps * 3, steps * (method == "appo"))
    assert any("agent's tokenizer" in note for note in found.notes)


def test_a_server_gets_no_request_and_no_connection(checkpoint: str) -> None:
    with ApiServer(lambda messages: "red", model="tiny") as server:
        given = {"model": "tiny", "api": {"base_url": server.base_url}}
        found = estimate(config_of(checkpoint, given, steps=2))
        assert found.calls > 0
        assert server.requests == []
        assert server.connections == 0


def test_no_function_is_called(checkpoint: str, deaf: None) -> None:
    found = estimate(config_of(checkpoint, FUNCTION, steps=2), function=never)
    assert found.calls > 0
    assert found.dollars is None
    assert any("agent's tokenizer" in note for note in found.notes)


def test_no_judge_is_asked(checkpoint: str, deaf: None) -> None:
    rows = [{"text": f"Say {i}.", "label": f"{i}"} for i in range(60)]
    task = Task.from_records(rows, kind="generation", metric="judge", seed_prompt="Repeat.")
    config = config_of(
        checkpoint, {"max_answer_tokens": 4}, steps=2, judge={"model": "openai/gpt-4o-mini"}
    )
    found = estimate(config, task)
    assert any("judge" in note for note in found.notes)
    assert estimate(config_of(checkpoint, OPENAI, steps=2), task).calls > 0


def test_a_real_run_of_a_function_makes_as_many_calls(checkpoint: str, tmp_path: Path) -> None:
    def answer(messages: list[dict[str, str]]) -> str:
        return messages[-1]["content"].split()[0]

    config = config_of(checkpoint, FUNCTION, method="seed", steps=0)
    found = estimate(config, function=never)
    made = run(config, tmp_path, function=answer).cost["target_calls"]
    assert expected(found) == {
        "training": 0,
        "anchor decisions": 0,
        "selection": made["validation"],
        "test": made["test"],
    }


def lengths(config: TuneConfig, task: Task = TASK) -> Iterator[int]:
    """Of what a run of the seed prompt alone is made of, each conversation for itself."""
    tokenizer = make_tokenizer()
    for example in (*task.validation, *task.test):
        messages = template_of(config.target).messages(task.seed_prompt, example)
        yield len(encode_chat(tokenizer, messages))


@pytest.mark.parametrize(
    ("target", "function", "written"),
    [
        (OPENAI, None, None),  # probabilities: one token a call
        ({**OPENAI, "api": {"labels": "text"}}, None, "label"),
        (FUNCTION, never, "label"),
    ],
)
def test_tokens_of_a_target_elsewhere_are_counted_with_the_agents_tokenizer(
    checkpoint: str, deaf: None, target: dict[str, Any], function: Any, written: str | None
) -> None:
    config = config_of(checkpoint, target, method="seed", steps=0)
    found = estimate(config, function=function)
    assert found.read == sum(lengths(config))
    tokenizer = make_tokenizer()
    labels = [len(encode_answer(tokenizer, example.label)) for example in TASK.train]
    each = sum(labels) / len(labels) if written else 1.0
    assert each > 1.5 or not written
    assert found.written == pytest.approx(each * 36, abs=2)
    assert any("probabilities" in note for note in found.notes) is (written is None)


def test_free_answers_are_as_long_as_the_references(checkpoint: str, deaf: None) -> None:
    rows = [{"text": f"Say {i}.", "label": "yes " * (1 + i % 5)} for i in range(60)]
    task = Task.from_records(rows, kind="generation", seed_prompt="Repeat.")
    found = estimate(config_of(checkpoint, OPENAI, method="seed", steps=0), task)
    tokenizer = make_tokenizer()
    answers = [len(encode_answer(tokenizer, example.label)) for example in task.train]
    assert found.written == pytest.approx(sum(answers) / len(answers) * found.calls, abs=2)
    assert found.read == sum(lengths(config_of(checkpoint, OPENAI), task))


def test_dollars_follow_from_tokens_and_price(checkpoint: str, deaf: None) -> None:
    priced = {**OPENAI, "api": {"price_read": 2.0, "price_written": 8.0}}
    found = estimate(config_of(checkpoint, priced, steps=2))
    assert found.dollars == pytest.approx((2 * found.read + 8 * found.written) / 1e6)
    unknown = {"model": "some", "api": {"base_url": "https://models.example.org/v1"}}
    assert estimate(config_of(checkpoint, unknown, steps=2)).dollars is None
    # The price table: 0.15 dollars for a million tokens read, 0.60 for those written.
    listed = estimate(config_of(checkpoint, OPENAI, steps=2))
    assert listed.dollars == pytest.approx((0.15 * found.read + 0.6 * found.written) / 1e6)


def test_a_pace_says_how_long_the_target_takes_at_least(checkpoint: str, deaf: None) -> None:
    paced = {**OPENAI, "api": {"requests_per_minute": 30}}
    found = estimate(config_of(checkpoint, paced, steps=2))
    assert found.target_seconds == 2 * found.calls


# --- what is refused, and warnings ---


def test_what_the_run_would_refuse_is_refused(checkpoint: str, deaf: None) -> None:
    with pytest.raises(ConfigError, match="too small"):
        estimate(config_of(checkpoint, budget=50))
    with pytest.raises(DataError, match="the train split has"):
        estimate(config_of(checkpoint, reward={"examples_per_step": 40}))
    with pytest.raises(ConfigError, match="give it again"):
        estimate(config_of(checkpoint, FUNCTION))
    with pytest.raises(ConfigError, match="spoken to as a chat"):
        estimate(config_of(checkpoint, {**OPENAI, "format": "plain"}))
    with pytest.raises(ConfigError, match="price_read"):
        estimate(config_of(checkpoint, FUNCTION, limits={"max_cost": 1.0}), function=never)


TOO_FEW, CUT_SHORT = "too few to learn from", "do not pay for a step, selection and test"


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({"steps": 10}, []),
        ({"steps": 9}, [TOO_FEW]),
        ({"method": "grpo", "steps": 9}, [TOO_FEW]),
        ({"method": "best-of-n", "steps": 3}, []),
        ({"method": "seed", "steps": 0}, []),
        # A step asks 36 pairs and some of the seed prompt, and 63 are kept for the selection.
        ({"method": "grpo", "steps": 20, "budget": 1000}, []),
        ({"method": "grpo", "steps": 20, "budget": 300}, [TOO_FEW]),
        ({"method": "grpo", "steps": 20, "limits": {"max_target_calls": 300}}, [TOO_FEW]),
        ({"method": "best-of-n", "limits": {"max_target_calls": 1000}}, []),
        ({"method": "best-of-n", "limits": {"max_target_calls": 60}}, [CUT_SHORT]),
        ({"method": "best-of-n", "limits": {"max_tokens": 100}}, [CUT_SHORT]),
        ({"method": "best-of-n", "limits": {"max_tokens": 10**7}}, []),
        ({"method": "grpo", "limits": {"max_target_calls": 60}}, [TOO_FEW, CUT_SHORT]),
    ],
)
def test_warnings_come_where_they_should_and_not_otherwise(
    target: ScriptedTarget, settings: dict[str, Any], warned: list[str]
) -> None:
    warnings = estimate(tiny_config(**settings)).warnings
    assert len(warnings) == len(warned)
    for warning, part in zip(warnings, warned, strict=True):
        assert part in warning


def test_a_warning_names_the_limits(target: ScriptedTarget) -> None:
    limits = {"max_target_calls": 60, "max_tokens": 5000}
    [warning] = estimate(tiny_config(method="best-of-n", limits=limits)).warnings
    assert "(max_target_calls 60, max_tokens 5000)" in warning


def test_of_a_limit_in_seconds_nothing_is_known_where_the_target_is_elsewhere(
    checkpoint: str, deaf: None
) -> None:
    limits = {"max_seconds": 1e6}
    told = estimate(config_of(checkpoint, OPENAI, steps=2, limits=limits)).notes
    assert any("max_seconds" in note for note in told)
    unlimited = estimate(config_of(checkpoint, OPENAI, steps=2)).notes
    assert not any("max_seconds" in note for note in unlimited)
    here = estimate(config_of(checkpoint, steps=2, limits=limits)).notes
    assert not any("max_seconds" in note for note in here)


def test_it_is_plain_data_and_leaves_nothing_behind(
    target: ScriptedTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = estimate(tiny_config())
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["calls"] == found.calls == sum(p["calls"] for p in plain["phases"].values())
    assert plain["read"] == found.read
    assert plain["phases"]["training"]["at_most"] == found.phases["training"].at_most
    assert plain["probe"]["written"] == 6
    assert list(tmp_path.iterdir()) == []


# --- the embedded model ---


@pytest.mark.embedded
@pytest.mark.skipif(not embedded.is_available(), reason=f"not installed: {embedded.INSTALL_HINT}")
def test_an_estimate_of_the_embedded_model_is_near_its_run(tmp_path: Path) -> None:
    task = load_bundled("support")
    parts = {name: task.splits.part(name)[:24] for name in ("train", "validation", "test")}
    task = Task.from_records(
        [
            {"text": e.text, "label": e.label, "split": name}
            for name, examples in parts.items()
            for e in examples
        ],
        seed_prompt=task.seed_prompt,
    )
    assert isinstance(task.splits, Splits)
    config = make_config(
        {
            "method": "best-of-n",
            "steps": 2,
            "ppo": {"prompts_per_step": 6},
            "selection": {"num_finalists": 4},
        }
    )
    found = estimate(config, task)
    cost = run(config, tmp_path, task).cost
    made = cost["target_calls"]
    assert sum(made.values()) <= found.at_most
    assert found.calls == pytest.approx(sum(made.values()), rel=0.15)
    each = sum(cost["target_tokens"].values()) / sum(made.values())
    assert found.read / found.calls == pytest.approx(each, rel=0.1)
