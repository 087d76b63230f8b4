"""The loop as a whole: it learns, it repeats itself exactly, it can be killed and resumed."""

import json
from pathlib import Path
from typing import Any

import pytest

from stableprompt import build
from stableprompt.errors import DataError, RunError
from stableprompt.models.agent import AgentLLM
from stableprompt.models.targets.interface import LabelScores
from stableprompt.runs.checkpoints import Checkpoint, save_checkpoint
from stableprompt.tuning import tuner
from stableprompt.tuning.records import Silence, StepRecord, TuneResult
from tests.fakes.word_agent import LIKED, ScriptedTarget, make_task
from tests.tuning.conftest import Run, tiny_config

LEARN = {
    "steps": 25,
    "reward": {"softmax_weight": 1.0, "examples_per_step": 8},
    "ppo": {"prompts_per_step": 12, "minibatch_size": 12, "learning_rate": 2e-2, "kl_coef": 0.01},
    "anchor": {"update_period": 5, "prompts_per_decision": 4},
}


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def last_rewards(folder: Path, count: int = 6) -> list[float]:
    return [step["mean_reward"] for step in read_lines(folder / "steps.jsonl")][-count:]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_appo_raises_the_policys_mean_reward_over_the_frozen_policys(run: Run, seed: int) -> None:
    trained = run("trained", **LEARN, seed=seed)
    frozen = run("frozen", **LEARN, seed=seed, method="best-of-n")
    after, before = last_rewards(trained.run_dir), last_rewards(frozen.run_dir)
    # Six steps each: every one of the trained policy's last steps beats the frozen policy's
    # best, which under equal distributions has probability 6! 6! / 12! = 0.1 %.
    assert min(after) > max(before)


def test_what_is_learned_is_in_the_prompts(run: Run) -> None:
    trained = run("trained", **LEARN)
    rows = read_lines(trained.run_dir / "prompts.jsonl")
    words = " ".join(row["prompt"] for row in rows[-24:]).split()
    early = " ".join(row["prompt"] for row in rows[:24]).split()
    share = sum(word in LIKED for word in words) / len(words)
    assert share > 2 * sum(word in LIKED for word in early) / len(early)


def run_bytes(folder: Path) -> dict[str, bytes]:
    names = ("result.json", "prompts.jsonl", "pairs.jsonl")
    files = {name: (folder / name).read_bytes() for name in names}
    steps = read_lines(folder / "steps.jsonl")
    for step in steps:
        del step["seconds"]
    files["steps"] = json.dumps(steps).encode()
    return files


def test_same_seed_same_bytes(run: Run) -> None:
    assert run_bytes(run("one").run_dir) == run_bytes(run("two").run_dir)


def test_another_seed_writes_other_prompts(run: Run) -> None:
    one, two = run("one", seed=0), run("two", seed=1)
    assert run_bytes(one.run_dir)["prompts.jsonl"] != run_bytes(two.run_dir)["prompts.jsonl"]


class Killed(Exception):
    """Stands for a kill signal."""


class KillAfter(Silence):
    """Dies when a step has been written down, or when a phase begins."""

    def __init__(self, step: int | None = None, phase: str | None = None) -> None:
        self._step, self._phase = step, phase

    def on_step(self, record: StepRecord) -> None:
        if record.step == self._step:
            raise Killed

    def on_phase(self, phase: str) -> None:
        if self._phase and phase.startswith(self._phase):
            raise Killed


@pytest.mark.parametrize(
    "observer",
    [KillAfter(step=0), KillAfter(step=2), KillAfter(step=3), KillAfter(phase="reading")],
    ids=["after step 1", "after step 3", "after the last step", "before the test"],
)
@pytest.mark.parametrize("advantage", ["group", "gae"])
def test_killed_and_resumed_equals_uninterrupted(
    run: Run, tmp_path: Path, observer: Silence, advantage: str
) -> None:
    settings: dict[str, Any] = {"ppo": {"advantage": advantage}}
    whole = run("whole", **settings)
    with pytest.raises(Killed):
        build.start_run(make_task(), tiny_config(**settings), tmp_path / "cut", observer)
    resumed = build.resume(tmp_path / "cut")
    assert run_bytes(resumed.run_dir) == run_bytes(whole.run_dir)


# The target is called once for the rewards of a step, and once for a decision, after steps 2 and 4.
@pytest.mark.parametrize("call", [1, 3, 4], ids=["first step", "decision", "step after it"])
def test_killed_in_the_middle_of_a_step_repeats_it(
    run: Run, tmp_path: Path, target: ScriptedTarget, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    whole = run("whole")
    calls = 0
    honest = ScriptedTarget.label_scores

    def dies(self: ScriptedTarget, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed
        return honest(self, *arguments)

    monkeypatch.setattr(ScriptedTarget, "label_scores", dies)
    with pytest.raises(Killed):
        run("cut")
    resumed = build.resume(tmp_path / "cut")
    assert run_bytes(resumed.run_dir) == run_bytes(whole.run_dir)


# --- pairs that come again ---


def start_few(path: Path, observer: Silence | None = None) -> TuneResult:
    """A run on 8 training examples: each step shows 2 of them and scores on the other 6."""
    task = make_task(size=20)
    assert len(task.train) == 8
    return build.start_run(task, tiny_config(), path, observer or Silence())


def pairs_needed(folder: Path) -> int:
    """Pairs that the rewards of all steps needed: each text of a step once, the seed prompt too."""
    rows = [row for row in read_lines(folder / "prompts.jsonl") if row["scored_on"] == "training"]
    texts = {(row["step"], row["prompt"]) for row in rows if row["fault"] is None}
    seeds = {(row["step"], "sort one text") for row in rows}
    return 6 * len(texts | seeds)


def test_a_pair_that_comes_again_costs_nothing(target: ScriptedTarget, tmp_path: Path) -> None:
    result = start_few(tmp_path / "run")
    assert len(target.seen) == len(set(target.seen)) == result.target_calls
    calls = result.cost["target_calls"]
    # The seed prompt alone: 6 pairs in each of 4 steps, and only 8 different ones.
    assert calls["training"] <= pairs_needed(tmp_path / "run") - (4 * 6 - 8)
    # Selection and test come after the last checkpoint: no resumed step can need their answers.
    pairs = read_lines(tmp_path / "run" / "pairs.jsonl")
    assert len({row["pair"] for row in pairs}) == len(pairs)
    assert calls["training"] < len(pairs) <= calls["training"] + calls["validation"]


@pytest.mark.parametrize(
    "observer",
    [KillAfter(step=0), KillAfter(step=1), KillAfter(step=2), KillAfter(phase="choosing")],
    ids=["after step 1", "after step 2", "after step 3", "before selection"],
)
def test_a_resumed_run_remembers_what_the_uninterrupted_one_knew(
    target: ScriptedTarget,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    observer: Silence,
) -> None:
    honest = ScriptedTarget.label_scores

    def rounds(self: ScriptedTarget, conversations: Any, words: Any) -> LabelScores:
        # As on real hardware, what else is in the batch shows in the last digits: whoever asks
        # more, or the same in other company, gets other figures.
        scores = honest(self, conversations, words)
        moved = scores.label_probs + 1e-5 * len(conversations)
        return LabelScores(moved, scores.num_tokens)

    monkeypatch.setattr(ScriptedTarget, "label_scores", rounds)
    whole = start_few(tmp_path / "whole")
    asked = target.seen[:]
    target.seen.clear()
    with pytest.raises(Killed):
        start_few(tmp_path / "cut", observer)
    resumed = build.resume(tmp_path / "cut")
    assert target.seen == asked
    assert run_bytes(resumed.run_dir) == run_bytes(whole.run_dir)


def test_what_the_target_said_on_another_machine_is_asked_again(
    target: ScriptedTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Killed):
        start_few(tmp_path / "cut", KillAfter(step=1))
    known = {line["pair"] for line in read_lines(tmp_path / "cut" / "pairs.jsonl")}
    honest = build._how_it_ran
    monkeypatch.setattr(
        build, "_how_it_ran", lambda *given: {**honest(*given), "dtype": "bfloat16"}
    )
    build.resume(tmp_path / "cut")
    lines = [line["pair"] for line in read_lines(tmp_path / "cut" / "pairs.jsonl")]
    assert known & set(lines)  # asked again
    assert len(set(lines)) == len(lines)  # and the old answers are gone


def test_killed_between_the_lines_and_the_checkpoint_writes_no_line_twice(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run("whole")

    def dies(folder: Path, checkpoint: Checkpoint, *, keep: int) -> None:
        if checkpoint.next_step == 3:
            raise Killed
        save_checkpoint(folder, checkpoint, keep=keep)

    with monkeypatch.context() as patch:
        patch.setattr(tuner, "save_checkpoint", dies)
        with pytest.raises(Killed):
            run("cut")
    assert len(read_lines(tmp_path / "cut" / "steps.jsonl")) == 3  # one more than is saved
    assert run_bytes(build.resume(tmp_path / "cut").run_dir) == run_bytes(whole.run_dir)


def test_a_finished_run_is_not_run_again(run: Run) -> None:
    with pytest.raises(RunError, match="is finished"):
        build.resume(run().run_dir)


def test_an_occupied_folder_is_never_touched(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="never overwritten"):
        run("mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_task_too_small_for_a_step_is_refused(run: Run) -> None:
    with pytest.raises(DataError, match="a step needs 42"):
        run(reward={"examples_per_step": 40})


def test_the_test_split_is_read_once_and_last(run: Run, target: ScriptedTarget) -> None:
    result = run()
    test_texts = {example.text for example in make_task().test}
    first = next(i for i, (_, text) in enumerate(target.seen) if text in test_texts)
    # From the first test text on, nothing else is asked, and each prompt sees each text once.
    assert all(text in test_texts for _, text in target.seen[first:])
    asked = target.seen[first:]
    assert len(asked) == len(set(asked)) == (1 + result.improved) * len(test_texts)


def test_no_reward_comes_from_validation_or_test(run: Run, target: ScriptedTarget) -> None:
    result = run(method="ppo-fixed")  # no anchor decisions: rewards are the first calls
    rewards = result.cost["target_calls"]["training"]
    train = {example.text for example in make_task().train}
    assert rewards >= 4 * 6
    assert all(text in train for _, text in target.seen[:rewards])


def test_the_result_is_never_worse_than_the_seed_prompt_on_validation(run: Run) -> None:
    result = run(method="best-of-n", steps=1)
    assert result.validation.score >= result.seed_validation.score


def test_a_seed_prompt_that_cannot_be_beaten_stays(target: ScriptedTarget, tmp_path: Path) -> None:
    task = make_task(seed_prompt="please kindly please")
    result = build.start_run(task, tiny_config(), tmp_path / "run", Silence())
    assert result.prompt == "please kindly please"
    assert not result.improved


def test_best_of_n_never_asks_how_probable_its_prompts_were(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: AgentLLM, *arguments: Any, **more: Any) -> Any:
        raise AssertionError("nothing is learned from it")

    with monkeypatch.context() as patch:
        patch.setattr(AgentLLM, "evaluate", never)
        result = run("frozen", method="best-of-n")
        with pytest.raises(AssertionError, match="nothing is learned"):
            run("trained")
    steps = read_lines(result.run_dir / "steps.jsonl")
    assert [step["update"] for step in steps] == [None] * 4
    assert len(read_lines(result.run_dir / "prompts.jsonl")) == 4 * 6


def test_result_file_has_what_it_promises(run: Run) -> None:
    result = run()
    content = json.loads((result.run_dir / "result.json").read_text())
    for part in ("test", "seed_test", "validation"):
        assert set(content[part]) == {"score", "low", "high", "n", "metric"}
    assert set(content["paired"]) == {
        "difference",
        "low",
        "high",
        "p_value",
        "n",
        "test",
    }
    assert content["target_calls"] == sum(content["cost"]["target_calls"].values())
    assert content["prompt"] == (result.run_dir / "best_prompt.txt").read_text().rstrip("\n")
    assert content["method"] == "appo"
    assert content["seed"] == 0
    assert content["seed_prompt"] == "sort one text"


def test_every_call_is_in_the_ledger(run: Run, target: ScriptedTarget) -> None:
    assert run().target_calls == len(target.seen)


def test_messages_are_exactly_what_was_scored(run: Run, target: ScriptedTarget) -> None:
    result = run()
    text = make_task().test[0].text
    system, user = result.messages_for(text)
    assert (system["content"], user["content"]) in target.seen
    assert result.messages[1]["content"] == "{text}"
