"""A prompt for each input: the same loop, an honest trial, and a writer to keep."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stableprompt import build
from stableprompt.errors import ConfigError, ModelError, TargetError
from stableprompt.llm_config import LimitsConfig
from stableprompt.models.adapters import Role
from stableprompt.models.agent import AgentLLM
from stableprompt.prompt_writer import CARD, PromptWriter, WriterCard
from stableprompt.scoring.ledger import Ledger
from stableprompt.scoring.limits import LimitReached, Limits
from stableprompt.scoring.scorer import PromptScore, Scorer
from stableprompt.tasks.example import Example
from stableprompt.tasks.metrics.registry import METRICS
from stableprompt.tasks.prompt_checks import PromptFault
from stableprompt.tasks.task import Task
from stableprompt.tuning.anchor import AnchorDecision
from stableprompt.tuning.collect import draw_examples, draw_for_use
from stableprompt.tuning.guards import Guards
from stableprompt.tuning.per_input import WriterTrial, thirds
from stableprompt.tuning.records import Silence, TuneResult
from stableprompt.tuning.tuner import Tuner
from tests.fakes.killers import Killed
from tests.fakes.word_agent import ScriptedTarget, make_agent, make_task
from tests.tuning.conftest import tiny_config

Run = Callable[..., TuneResult]
TASK = make_task()
PER_INPUT = {"ppo": {"prompts_per_step": 6}, "per_input": {"mode": "always", "prompts": 2}}


@pytest.fixture
def run(target: ScriptedTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Tune a writer; the agent alone is the scripted target, too."""
    monkeypatch.setattr(build, "target_of", lambda agent, config: ScriptedTarget())

    def tune(name: str = "run", task: Task = TASK, **settings: Any) -> TuneResult:
        config = tiny_config(**{**PER_INPUT, **settings})
        return build.start_run(task, config, tmp_path / name, Silence())

    return tune


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every meta-prompt that an agent is given, in order."""
    read: list[str] = []
    honest = AgentLLM.query_ids

    def query_ids(agent: AgentLLM, messages: Any) -> torch.Tensor:
        read.append(messages[0]["content"])
        return honest(agent, messages)

    monkeypatch.setattr(AgentLLM, "query_ids", query_ids)
    return read


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- the loop ---


def test_each_prompt_is_scored_on_the_input_that_it_was_written_for(
    run: Run, target: ScriptedTarget
) -> None:
    result = run(steps=2)
    written = [c for c in lines(result.run_dir / "prompts.jsonl") if c["scored_on"] == "training"]
    config = tiny_config(**PER_INPUT, steps=2)
    for step in range(2):
        shown = [c["written_for"] for c in written if c["step"] == step]
        inputs = [e.text for e in draw_examples(TASK, config, step).reward_examples]
        assert len(inputs) == 3
        assert shown == [text for text in inputs for _ in range(2)]
    asked = {pair for pair in target.seen if pair[1] in {e.text for e in TASK.train}}
    own = {(c["prompt"], c["written_for"]) for c in written}
    assert {prompt for prompt, _ in asked - own} == {TASK.seed_prompt}


def test_the_agent_reads_the_input_at_hand_and_no_answer_to_it(run: Run, read: list[str]) -> None:
    run(steps=1, anchor={"update_period": 1})
    draw = draw_examples(TASK, tiny_config(**PER_INPUT), 0)
    for content, example in zip(read, draw.reward_examples, strict=False):
        assert content.endswith(f"Next input: {example.text}")
        assert content.count(example.text) == 1  # it is none of the demonstrations


def test_advantages_are_relative_to_the_prompts_for_the_same_input(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    from stableprompt.tuning import tuner
    from stableprompt.tuning.update import advantages_of, learn

    def watched(trainable: Any, rollout: Any, config: Any, *, seed: int) -> Any:
        seen.append((rollout, advantages_of(rollout, config)[0]))
        return learn(trainable, rollout, config, seed=seed)

    monkeypatch.setattr(tuner, "learn", watched)
    run(steps=2)
    for rollout, advantages in seen:
        assert rollout.groups.tolist() == [0, 0, 1, 1, 2, 2]
        assert len(rollout.tails) == 6
        for group in range(3):
            rows = advantages[2 * group : 2 * group + 2, 0]
            assert float(rows.sum()) == pytest.approx(0, abs=1e-6)
            rewards = rollout.rewards[2 * group : 2 * group + 2]
            if rewards[0] != rewards[1]:  # of two, one is a standard deviation above the mean
                assert rows.abs().tolist() == pytest.approx([1, 1], abs=1e-3)


def test_the_anchor_is_judged_on_validation_inputs_one_by_one(
    run: Run, target: ScriptedTarget
) -> None:
    result = run(steps=2, anchor={"update_period": 1, "rounds": 1})
    records = lines(result.run_dir / "steps.jsonl")
    judged = [c for c in lines(result.run_dir / "prompts.jsonl") if c["scored_on"] == "validation"]
    texts = {e.text for e in TASK.validation}
    assert records[0]["anchor"]["n"] == len(texts)
    assert {c["written_for"] for c in judged} == texts
    assert {c["writer"] for c in judged} == {"policy", "anchor"}
    decisions = {record["anchor"]["decision"] for record in records}
    assert decisions <= {str(decision) for decision in AnchorDecision}


def test_a_writer_learns(run: Run) -> None:
    trained = run("trained", steps=30, seed=1)
    frozen = run("frozen", steps=30, seed=1, method="best-of-n")
    last, first = (
        [step["mean_reward"] for step in lines(r.run_dir / "steps.jsonl")[-8:]]
        for r in (trained, frozen)
    )
    assert sum(last) / 8 > sum(first) / 8 + 0.2
    assert trained.per_input is not None and frozen.per_input is not None
    assert trained.per_input.validation.score >= frozen.per_input.validation.score


@pytest.mark.parametrize("mode", ["always", "auto"])
def test_same_seed_same_bytes(run: Run, mode: str) -> None:
    folders = [
        run(name, per_input={"mode": mode, "prompts": 2}).run_dir for name in ("one", "other")
    ]
    names = ["result.json", "prompts.jsonl", "writes.jsonl"]
    names += [f"writer/{CARD}"] if mode == "always" else []
    for name in names:
        one, other = ((folder / name).read_bytes() for folder in folders)
        assert one == other


@pytest.mark.parametrize("after", [1, 3])
def test_killed_and_resumed_equals_uninterrupted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    whole = run("whole")
    honest = Tuner._write_down

    def killing(tuner: Tuner, record: Any, candidates: Any) -> None:
        honest(tuner, record, candidates)
        if record.step + 1 == after:
            raise Killed

    monkeypatch.setattr(Tuner, "_write_down", killing)
    with pytest.raises(Killed):
        run("killed")
    monkeypatch.setattr(Tuner, "_write_down", honest)
    build.resume(tmp_path / "killed")
    for name in ("result.json", "prompts.jsonl", "writes.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (whole.run_dir / name).read_bytes()


def test_killed_during_the_trial_and_resumed_equals_uninterrupted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run("whole")
    honest = Tuner._try

    def killed(*_: Any) -> Any:
        raise Killed

    monkeypatch.setattr(Tuner, "_try", killed)
    with pytest.raises(Killed):
        run("killed")
    monkeypatch.setattr(Tuner, "_try", honest)
    build.resume(tmp_path / "killed")
    for name in ("result.json", "writes.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (whole.run_dir / name).read_bytes()


def test_a_budget_holds_for_the_trial_on_validation_too(run: Run) -> None:
    result = run(steps=99, budget=200)
    calls = result.cost["target_calls"]
    assert 150 < calls["training"] + calls["validation"] <= 200


# --- the trial ---


def test_the_result_compares_three_on_the_same_test_examples(run: Run) -> None:
    found = run().per_input
    assert found is not None
    n = len(TASK.test)
    assert found.test.n == found.fixed_test.n == found.agent_alone.n == n
    assert found.over_fixed.difference == pytest.approx(found.test.score - found.fixed_test.score)
    assert found.over_agent_alone.difference == pytest.approx(
        found.test.score - found.agent_alone.score
    )
    assert found.writer in (Role.POLICY, Role.ANCHOR)
    names = [one.name for one in found.slices]
    assert names[:5] == [
        "input: short",
        "input: middle",
        "input: long",
        *(f"label: {label}" for label in TASK.labels),
    ]
    assert names[5:] == ["target: unsure", "target: fairly sure", "target: sure"]
    assert sum(one.n for one in found.slices[:3]) == n
    assert sum(one.n * one.per_input for one in found.slices[:3]) == pytest.approx(
        n * found.test.score
    )
    assert found.cost.agent_read > 0 and found.fixed_cost.agent_read == 0
    # The scripted target counts calls; of equal pairs one.
    assert found.fixed_cost.target == 1
    assert 0 < found.cost.target <= 1


def test_how_sure_the_target_was_is_no_slice_where_it_does_not_say(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScriptedTarget, "gives_probabilities", False)
    found = run().per_input
    assert found is not None
    assert not [one.name for one in found.slices if one.name.startswith("target: ")]


def test_a_limit_in_the_trial_leaves_the_one_prompt_for_all(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run("whole")

    def stop(trial: WriterTrial, fixed: str) -> Any:
        raise Limits(LimitsConfig(max_tokens=1)).reached(Ledger())

    monkeypatch.setattr(WriterTrial, "judge", stop)
    with pytest.raises(LimitReached, match="resume"):  # asked for, so it can be had later
        run("always")
    result = run("cut", per_input={"mode": "auto", "prompts": 2})
    assert result.per_input is None
    assert (result.prompt, result.test) == (whole.prompt, whole.test)
    assert not (result.run_dir / "writer").exists()


@pytest.mark.parametrize(
    ("error", "stops"), [(ModelError("cannot tell"), False), (TargetError("the judge"), True)]
)
def test_the_agent_alone_may_not_be_able_but_a_judge_that_fails_stops_the_run(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: ModelError, stops: bool
) -> None:
    class Failing(ScriptedTarget):
        def label_scores(self, *args: Any) -> Any:
            raise error

    monkeypatch.setattr(build, "target_of", lambda agent, config: Failing())
    with pytest.raises(TargetError, match="the judge") if stops else nullcontext():
        found = run().per_input
        assert found is not None
        assert found.agent_alone is None


def test_every_prompt_on_test_is_written_down(run: Run) -> None:
    result = run()
    written = lines(result.run_dir / "writes.jsonl")
    assert [row["input"] for row in written] == [e.text for e in TASK.test]
    assert result.per_input is not None
    assert sum(row["value"] for row in written) / len(written) == pytest.approx(
        result.per_input.test.score
    )


def test_the_one_prompt_for_all_stands_in_for_what_is_refused(
    run: Run, target: ScriptedTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Guards, "_fault_for", lambda *_: PromptFault.LEAK)
    result = run(steps=1, anchor={"update_period": 1})
    found = result.per_input
    assert found is not None
    assert found.refused == {"leak": len(TASK.test)}
    assert found.test == found.fixed_test
    assert found.lead == 0 and "not enough" in found.reason
    tested = {e.text for e in TASK.test}
    assert {p for p, text in target.seen if text in tested} <= {result.prompt, TASK.seed_prompt}


@pytest.mark.parametrize(("mode", "used"), [("always", True), ("auto", False)])
def test_auto_falls_back_where_validation_does_not_say_that_it_pays(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, used: bool
) -> None:
    monkeypatch.setattr(Guards, "_fault_for", lambda *_: PromptFault.LEAK)
    found = run(
        steps=1, anchor={"update_period": 1}, per_input={"mode": mode, "prompts": 2}
    ).per_input
    assert found is not None
    assert found.used is used
    assert (tmp_path / "run" / "writer").is_dir() is used
    assert found.reason.endswith("kept as asked for" if used else "not enough to pay for them")


def test_auto_keeps_what_leads_on_validation(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Scorer.score_each

    def generous(scorer: Scorer, asked: Any, purpose: Any) -> list[PromptScore]:
        """Right where the prompt is not the seed prompt, and for one input alone."""
        found = honest(scorer, asked, purpose)
        return [
            PromptScore(1.0, 0.5, 1.25, (1.0,), (1.25,), s.predictions)
            if len(examples) == 1 and prompt != TASK.seed_prompt
            else s
            for (prompt, examples), s in zip(asked, found, strict=True)
        ]

    monkeypatch.setattr(Scorer, "score_each", generous)
    found = run(
        steps=1, anchor={"update_period": 1}, per_input={"mode": "auto", "prompts": 2}
    ).per_input
    assert found is not None
    assert found.used
    assert found.reason.endswith("they pay")
    assert found.lead > found.lead_error


def test_thirds_are_nearly_equal_and_ordered() -> None:
    assert thirds("x", [3, 1, 2, 1], ("a", "b", "c")) == {
        "x: a": [1],
        "x: b": [3],
        "x: c": [2, 0],
    }
    assert thirds("x", [1], ("a", "b", "c")) == {"x: a": [], "x: b": [], "x: c": [0]}


# --- the writer ---


def test_the_writer_asks_in_use_as_it_was_asked_in_the_trial_byte_for_byte(
    run: Run, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[PromptWriter] = []
    save = build.save_writer

    def kept(agent: AgentLLM, card: WriterCard, folder: Path) -> None:
        made.append(PromptWriter(agent, card))
        save(agent, card, folder)

    monkeypatch.setattr(build, "save_writer", kept)
    result = run()
    [writer] = made
    in_trial = read[-len(TASK.test) :]
    assert in_trial == [writer.asked(e.text)[0]["content"] for e in TASK.test]
    assert writer.card == WriterCard.from_dict(
        json.loads((result.run_dir / "writer" / CARD).read_text(encoding="utf-8"))
    )
    # The same prompts as in the trial, too.
    written = lines(result.run_dir / "writes.jsonl")
    expected = [row["prompt"] if row["fault"] is None else result.prompt for row in written]
    assert writer.write([e.text for e in TASK.test]) == expected
    shown = draw_for_use(TASK, tiny_config(**PER_INPUT))
    assert [text for text, _ in writer.card.asking.pairs] == [e.text for e in shown]
    assert {e.text for e in shown} <= {e.text for e in TASK.train}


# --- what cannot be ---


def test_a_metric_that_is_no_mean_over_examples_is_refused(run: Run, tmp_path: Path) -> None:
    task = replace(TASK, metric=METRICS["macro_f1"])
    with pytest.raises(ConfigError, match="'macro_f1' is no mean over examples"):
        run(task=task)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ppo": {"prompts_per_step": 7}}, "must be a multiple of per_input.prompts"),
        ({"agent": {"shown_prompt": "leader"}}, "leave agent.shown_prompt out"),
        ({"per_input": {"mode": "on"}}, "'never', 'always' or 'auto'"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(**{**PER_INPUT, **settings})


def test_in_use_a_reference_is_not_known_so_the_trial_does_not_know_it_either(
    run: Run, target: ScriptedTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, tuple[str, ...]]] = []
    honest = Guards._fault_for

    def watched(guards: Guards, text: str, example: Example) -> PromptFault | None:
        seen.append((example.text, example.answers))
        return honest(guards, text, example)

    monkeypatch.setattr(Guards, "_fault_for", watched)
    run(steps=1, anchor={"update_period": 1})
    tested = {e.text for e in TASK.test}
    told = [answers for text, answers in seen if text in tested]
    assert len(told) == len(tested)
    assert set(told) == {("",)}


class FakeHub:
    """A hub with one repository."""

    private = True

    def __init__(self) -> None:
        self.uploaded: dict[str, str] = {}

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok

    def repo_info(self, repo_id: str) -> Any:
        return self

    def upload_folder(self, *, repo_id: str, folder_path: str) -> str:
        self.uploaded = {
            path.name: path.read_text(errors="replace") for path in Path(folder_path).iterdir()
        }
        return f"https://hub/{repo_id}"


def test_examples_go_to_no_public_place_unasked_and_no_path_goes_at_all(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    result = run(steps=1, anchor={"update_period": 1})
    content = json.loads((result.run_dir / "writer" / CARD).read_text(encoding="utf-8"))
    agent = make_agent(seed=7)
    own = tmp_path / "home" / "checkpoint"
    own.mkdir(parents=True)
    writer = PromptWriter(agent, replace(WriterCard.from_dict(content), model=str(own)))
    hub = FakeHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    assert writer.push_to_hub("me/it") == "https://hub/me/it"
    assert set(hub.uploaded) == {
        "adapter_config.json",
        "adapter_model.safetensors",
        CARD,
        "README.md",
    }
    assert not any(str(tmp_path) in text for text in hub.uploaded.values())
    assert json.loads(hub.uploaded[CARD])["model"] == "checkpoint"
    hub.private, hub.uploaded = False, {}
    with pytest.raises(ConfigError, match="me/it is public"):
        writer.push_to_hub("me/it")
    assert not hub.uploaded
    writer.push_to_hub("me/it", private=False)
    assert hub.uploaded
