"""Runs in which numbers are not finite: what is taken back, told, counted, and when it ends."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stableprompt import build
from stableprompt.errors import ModelError, NumberError
from stableprompt.models import agent
from stableprompt.models.agent import AgentLLM
from stableprompt.models.responses import Surprisal
from stableprompt.tuning import broken_numbers
from stableprompt.tuning.anchor_judge import AnchorJudge
from stableprompt.tuning.collect import Collector
from stableprompt.tuning.guards import Guards
from stableprompt.tuning.records import Silence, StepRecord, TuneResult
from tests.fakes.killers import KillAfter, Killed
from tests.fakes.word_agent import ScriptedTarget, make_task
from tests.tuning.conftest import Run, tiny_config
from tests.tuning.test_loop import read_lines, run_bytes

# Without an anchor decision in between, what a broken step leaves is what was before it.
PLAIN: dict[str, Any] = {
    "steps": 5,
    "keep_checkpoints": 99,
    "anchor": {"update_period": 5},
    "ppo": {"max_update_kl": None, "replay": 0},
}
ONE_BATCH = {**PLAIN, "ppo": {**PLAIN["ppo"], "minibatch_size": 6, "ppo_epochs": 1}}

Break = Callable[[pytest.MonkeyPatch, Callable[[], bool]], None]


def _forward(change: Callable[[Tensor], Tensor]) -> Break:
    def install(monkeypatch: pytest.MonkeyPatch, now: Callable[[], bool]) -> None:
        honest = AgentLLM.forward

        def forward(self: AgentLLM, *given: Any) -> Any:
            found = honest(self, *given)
            return replace(found, logprobs=change(found.logprobs)) if now() else found

        monkeypatch.setattr(AgentLLM, "forward", forward)

    return install


def _evaluate(field: str) -> Break:
    def install(monkeypatch: pytest.MonkeyPatch, now: Callable[[], bool]) -> None:
        honest = AgentLLM.evaluate

        def evaluate(self: AgentLLM, *given: Any, **options: Any) -> Any:
            found = honest(self, *given, **options)
            return replace(found, **{field: getattr(found, field) / 0}) if now() else found

        monkeypatch.setattr(AgentLLM, "evaluate", evaluate)

    return install


def _logits(monkeypatch: pytest.MonkeyPatch, now: Callable[[], bool]) -> None:
    honest = agent.next_token

    def next_token(logits: Tensor, *given: Any) -> Tensor:
        if now():
            logits[0, 3] = math.nan
        return honest(logits, *given)

    monkeypatch.setattr(agent, "next_token", next_token)


def _rewards(monkeypatch: pytest.MonkeyPatch, now: Callable[[], bool]) -> None:
    honest = Collector._rollout

    def rollout(self: Collector, query: Any, ids: Any, mask: Any, rewards: Any, num: int) -> Any:
        rewards = [math.inf, *rewards[1:]] if now() else rewards
        return honest(self, query, ids, mask, rewards, num)

    monkeypatch.setattr(Collector, "_rollout", rollout)


def _after_step(change: Callable[[Any, Any], None]) -> Break:
    """After each optimizer step; the next minibatch, if there is one, makes it worse."""

    def install(monkeypatch: pytest.MonkeyPatch, now: Callable[[], bool]) -> None:
        honest = torch.optim.AdamW.step

        def step(self: Any, closure: Any = None) -> None:
            honest(self, closure)
            if now():
                parameter = self.param_groups[0]["params"][2]
                change(self, parameter)

        monkeypatch.setattr(torch.optim.AdamW, "step", step)

    return install


def _infinite_weight(_optimizer: Any, parameter: Tensor) -> None:
    parameter.data.view(-1)[0] = math.inf


def _nan_moment(optimizer: Any, parameter: Tensor) -> None:
    optimizer.state[parameter]["exp_avg_sq"].view(-1)[0] = math.nan


BREAKS: dict[str, tuple[Break, str]] = {
    "loss": (_forward(lambda found: found * math.nan), "in minibatch 0 of the update, policy loss"),
    # The root of 0 is 0 and its gradient has no end: times 0 it is NaN.
    "gradient": (_forward(lambda x: x + (x * 0).sqrt() * 0), "gradient of "),
    "weights": (_after_step(_infinite_weight), "after the update, weights "),
    "moments": (_after_step(_nan_moment), "after the update, optimizer state exp_avg_sq of "),
    "log-probabilities": (_evaluate("logprobs"), "in the rollout, old_logprobs"),
    "values": (_evaluate("values"), "in the rollout, old_values"),
    "rewards": (_rewards, "in the rollout, rewards: infinity in 1 of 6"),
    "sampling": (_logits, "logits of the agent, which writes"),
}


def break_at(monkeypatch: pytest.MonkeyPatch, kind: str, *steps: int) -> None:
    """From now on a number is broken in these steps of every run."""
    begun, honest, at = Guards.__init__, Collector.collect, [-1]

    def begin(self: Guards, *given: Any) -> None:
        at[0] = -1
        begun(self, *given)

    def collect(self: Collector, step: int, *given: Any) -> Any:
        at[0] = step
        return honest(self, step, *given)

    monkeypatch.setattr(Guards, "__init__", begin)
    monkeypatch.setattr(Collector, "collect", collect)
    BREAKS[kind][0](monkeypatch, lambda: at[0] in steps)


def state_after(folder: Path, steps: int) -> dict[str, Tensor]:
    return load_file(folder / "checkpoints" / f"step-{steps:06d}" / "tensors.safetensors")


def assert_sound_checkpoints(folder: Path) -> None:
    files = sorted((folder / "checkpoints").glob("*/tensors.safetensors"))
    assert files
    for file in files:
        assert all(tensor.isfinite().all() for tensor in load_file(file).values()), file


class Notes(Silence):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def on_note(self, note: str) -> None:
        self.notes.append(note)


@pytest.mark.parametrize("kind", BREAKS)
def test_a_broken_step_is_taken_back_told_and_counted_and_the_run_goes_on(
    kind: str, target: ScriptedTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_at(monkeypatch, kind, 2)
    told = Notes()
    result = build.start_run(make_task(), tiny_config(**ONE_BATCH), tmp_path / "run", told)
    before, after, later = (state_after(result.run_dir, steps) for steps in (2, 3, 4))
    assert before.keys() == after.keys()
    assert any(name.startswith("optimizer/") for name in before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not all(torch.equal(after[name], later[name]) for name in after)
    assert_sound_checkpoints(result.run_dir)
    steps = read_lines(result.run_dir / "steps.jsonl")
    assert [step["monitor"]["broken"] is not None for step in steps] == [False, False, True] + [
        False
    ] * 2
    finding = steps[2]["monitor"]
    assert BREAKS[kind][1] in finding["broken"]
    assert "broken_numbers" in finding["alarms"]
    assert "roll_back" not in finding["actions"]
    assert result.alarms["broken_numbers"] == 1
    assert told.notes == [f"step 3 taught nothing, a number was not finite: {finding['broken']}"]
    # Half the rate in the next step, and then slowly back.
    rates = [step["update"]["learning_rate"] for step in steps if step["update"]]
    assert min(rates) < 1e-2
    assert (steps[2]["mean_reward"] is None) is (kind == "sampling")


@pytest.mark.parametrize(("kind", "last"), [("gradient", 1), ("gradient", 2), ("sampling", 1)])
def test_killed_around_a_broken_step_and_resumed_equals_uninterrupted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, last: int
) -> None:
    break_at(monkeypatch, kind, 1, 2)  # the second one goes back to the anchor
    settings = {"steps": 4, "anchor": {"update_period": 3}}
    whole = run("whole", **settings)
    with pytest.raises(Killed):
        build.start_run(make_task(), tiny_config(**settings), tmp_path / "cut", KillAfter(last))
    resumed = build.resume(tmp_path / "cut")
    assert run_bytes(resumed.run_dir) == run_bytes(whole.run_dir)
    assert whole.alarms["broken_numbers"] == 2


@pytest.mark.parametrize("kind", ["gradient", "log-probabilities"])
def test_the_second_broken_step_in_a_row_goes_back_to_the_anchor(
    run: Run, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    break_at(monkeypatch, kind, 2, 3)
    result = run(**PLAIN)
    steps = read_lines(result.run_dir / "steps.jsonl")
    assert [("roll_back" in step["monitor"]["actions"]) for step in steps] == [
        False,
        False,
        False,
        True,
        False,
    ]
    after = state_after(result.run_dir, 4)
    pairs = [(name, name.replace("policy/", "anchor/")) for name in after if "policy/" in name]
    assert pairs
    assert all(torch.equal(after[one], after[other]) for one, other in pairs)
    assert not any(name.startswith("optimizer/") for name in after)


def ended(tmp_path: Path, **settings: Any) -> NumberError:
    with pytest.raises(NumberError) as error:
        build.start_run(make_task(), tiny_config(**settings), tmp_path / "run", Silence())
    assert_sound_checkpoints(tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()
    return error.value


@pytest.mark.parametrize("kind", ["gradient", "sampling"])
def test_three_broken_steps_in_a_row_end_the_run_which_can_be_resumed(
    target: ScriptedTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with monkeypatch.context() as patch:
        break_at(patch, kind, 1, 3, 4, 5)  # one alone does not count
        error = ended(tmp_path, **{**PLAIN, "steps": 8})
    assert "3 steps in a row, at last in step 6" in str(error)
    assert BREAKS[kind][1] in str(error)
    for advice in ("resume", "ppo.learning_rate", "dtype=float32"):
        assert advice in str(error)
    result = build.resume(tmp_path / "run")
    assert result.alarms["broken_numbers"] == 4
    assert len(read_lines(tmp_path / "run" / "steps.jsonl")) == 8


def test_the_limit_is_a_setting(
    target: ScriptedTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_at(monkeypatch, "gradient", 1)
    assert "in step 2" in str(ended(tmp_path, monitor={"max_broken_steps": 1}))


@pytest.mark.parametrize("act", [True, False])
def test_without_acting_it_is_taken_back_and_ends_all_the_same(
    target: ScriptedTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: bool
) -> None:
    break_at(monkeypatch, "weights", *range(5))
    ended(tmp_path, **PLAIN, monitor={"act": act})
    steps = read_lines(tmp_path / "run" / "steps.jsonl")
    assert [bool(step["monitor"]["actions"]) for step in steps] == [act] * 3


@pytest.mark.parametrize("method", ["appo", "grpo", "ppo-previous"])
def test_an_absurd_learning_rate_ends_with_the_diagnosis(
    target: ScriptedTarget, tmp_path: Path, method: str
) -> None:
    error = ended(tmp_path, method=method, steps=9, ppo={"learning_rate": 1e30})
    assert "3 steps in a row" in str(error)  # those without a gradient left out
    assert "after the update, logprobs: NaN" in str(error) or "of the update, " in str(error)
    assert "ppo.learning_rate (now " in str(error)


def test_an_anchor_decision_that_cannot_be_written_for_decides_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    deciding = [False]
    honest = AnchorJudge.judge

    def judge(self: AnchorJudge, *given: Any) -> Any:
        deciding[0] = True
        try:
            return honest(self, *given)
        finally:
            deciding[0] = False

    monkeypatch.setattr(AnchorJudge, "judge", judge)
    _logits(monkeypatch, lambda: deciding[0])
    result = run(steps=4)
    steps = read_lines(result.run_dir / "steps.jsonl")
    assert [step["monitor"]["broken"] is not None for step in steps] == [False, True, False, True]
    assert [step["anchor"] for step in steps] == [None] * 4
    assert all(step["update"] for step in steps)
    assert result.alarms["broken_numbers"] == 2


def test_no_broken_number_reaches_a_checkpoint_whatever_made_it(
    target: ScriptedTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Flip(Silence):
        """Breaks the memory of the machine after the second step."""

        def on_step(self, record: StepRecord) -> None:
            if record.step == 1:
                trainable = seen[-1]
                trainable.agent.adapted._anchor[next(iter(trainable.agent.adapted._anchor))].fill_(
                    math.nan
                )

    seen: list[Any] = []
    honest = broken_numbers.training_tensors

    def tensors(trainable: Any) -> dict[str, Tensor]:
        seen.append(trainable)
        return honest(trainable)

    monkeypatch.setattr(broken_numbers, "training_tensors", tensors)
    with pytest.raises(NumberError, match=r"anchor/.*: NaN in .*resume"):
        build.start_run(make_task(), tiny_config(), tmp_path / "run", Flip())
    assert_sound_checkpoints(tmp_path / "run")
    monkeypatch.undo()


def test_an_agent_whose_model_gives_no_numbers_is_refused_at_once(
    target: ScriptedTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        AgentLLM, "surprisals", lambda self, texts: [Surprisal(math.nan, 3) for _ in texts]
    )
    with pytest.raises(ModelError, match=r"agent's model .*not finite; use --set dtype=float32"):
        build.start_run(make_task(), tiny_config(), tmp_path / "run", Silence())


def test_a_target_that_breaks_ends_the_run_which_can_be_resumed(
    run: Run, target: ScriptedTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: TuneResult = run("whole")
    honest, calls = ScriptedTarget.label_scores, [0]

    def label_scores(self: ScriptedTarget, *given: Any) -> Any:
        found = honest(self, *given)
        calls[0] += 1
        if calls[0] == 4:
            found.label_probs[0, 0] = math.nan
        return found

    monkeypatch.setattr(ScriptedTarget, "label_scores", label_scores)
    with pytest.raises(ModelError, match=r"'scripted' gave probabilities that are not finite"):
        run("cut")
    resumed = build.resume(tmp_path / "cut")
    assert run_bytes(resumed.run_dir) == run_bytes(whole.run_dir)


def test_a_run_that_does_not_fit_says_so_and_can_be_resumed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run("whole")
    honest, calls = AgentLLM.forward, [0]

    def forward(self: AgentLLM, *given: Any) -> Any:
        calls[0] += 1
        if calls[0] > 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return honest(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(AgentLLM, "forward", forward)
        with pytest.raises(ModelError, match=r"even with a batch of one row \(CUDA out of memory"):
            run("cut")
    resumed = build.resume(tmp_path / "cut")
    assert run_bytes(resumed.run_dir) == run_bytes(whole.run_dir)
