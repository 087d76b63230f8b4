"""The loop as a whole: it learns, it repeats itself exactly, it can be killed and resumed."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from stableprompt import build, setting
from stableprompt.config import METHODS
from stableprompt.errors import DataError, RunError
from stableprompt.models.agent import AgentLLM
from stableprompt.models.responses import Surprisal
from stableprompt.models.targets.interface import LabelScores
from stableprompt.parts import Parts
from stableprompt.runs.checkpoints import Checkpoint, save_checkpoint
from stableprompt.tasks.readability import plain_instructions
from stableprompt.tuning import keeping
from stableprompt.tuning.monitor import Action
from stableprompt.tuning.records import Silence, TuneResult
from tests.fakes.killers import KillAfter, Killed
from tests.fakes.word_agent import LIKED, ScriptedTarget, make_task
from tests.tuning.conftest import Run, scripted_models, tiny_config

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
    names = ("result.json", "prompts.jsonl", "pairs.jsonl", "test.json", "best_prompt.txt")
    files = {name: (folder / name).read_bytes() for name in names}
    steps = read_lines(folder / "steps.jsonl")
    for step in steps:
        del step["seconds"]
    files["steps"] = json.dumps(steps).encode()
    return files


def method_settings(method: str) -> dict[str, Any]:
    """A method as it is in earnest: everything that is added to the paper's is on in appo."""
    without = method in ("few-shot", "seed")
    return {"method": method, **({"steps": 0} if without else {})}


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_bytes(run: Run, method: str) -> None:
    settings = method_settings(method)
    one, two = run("one", **settings), run("two", **settings)
    assert run_bytes(one.run_dir) == run_bytes(two.run_dir)
    assert one == two
    assert one.method == method


def test_another_seed_writes_other_prompts(run: Run) -> None:
    one, two = run("one", seed=0), run("two", seed=1)
    assert run_bytes(one.run_dir)["prompts.jsonl"] != run_bytes(two.run_dir)["prompts.jsonl"]


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


# Every answer of the monitor is given (thresholds that nobody keeps), what leads is shown and
# replayed, updates are taken back, and the budget ends the run before its steps do.
BUDGET = 400
EVERYTHING: dict[str, Any] = {
    "steps": 12,
    "budget": BUDGET,
    "agent": {"shown_prompt": "leader"},
    "ppo": {"replay": 3, "max_update_kl": 0.005},
    "anchor": {"update_threshold": 0.0, "certainty": 0.2},
    "monitor": {
        "min_entropy_share": 1.5,
        "max_step_kl": 0.002,
        "max_anchor_kl": 0.002,
        "max_drop": 1e-6,
    },
    "selection": {"num_demonstrations": 2, "demonstration_sets": 2},
}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The uninterrupted run with everything that is kept from step to step."""
    with pytest.MonkeyPatch.context() as patch:
        scripted_models(patch)
        folder = tmp_path_factory.mktemp("everything") / "whole"
        result = build.start_run(make_task(), tiny_config(**EVERYTHING), folder, Silence())
        steps = read_lines(folder / "steps.jsonl")
        # That the tests below mean what they say:
        assert 6 <= len(steps) < 12
        assert {a for s in steps for a in s["monitor"]["actions"]} == set(Action)
        assert any(s["update"]["undone"] for s in steps)
        assert any(s["update"]["kl_coef"] > 0.05 for s in steps)
        assert sum(result.anchor_decisions.values()) >= 2
        calls = result.cost["target_calls"]
        assert calls["training"] + calls["validation"] <= BUDGET
        return run_bytes(folder)


@pytest.mark.parametrize("step", range(6))
def test_killed_after_any_step_and_resumed_with_monitor_budget_and_replay(
    target: ScriptedTarget, tmp_path: Path, everything: dict[str, bytes], step: int
) -> None:
    config = tiny_config(**EVERYTHING)
    with pytest.raises(Killed):
        build.start_run(make_task(), config, tmp_path / "cut", KillAfter(step=step))
    assert run_bytes(build.resume(tmp_path / "cut").run_dir) == everything


@pytest.mark.parametrize("phase", ["choosing", "reading"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_killed_at_the_end_and_resumed(
    run: Run, tmp_path: Path, method: str, phase: str
) -> None:
    settings = {**method_settings(method), "budget": 300}
    whole = run("whole", **settings)
    with pytest.raises(Killed):
        build.start_run(
            make_task(), tiny_config(**settings), tmp_path / "cut", KillAfter(phase=phase)
        )
    assert run_bytes(build.resume(tmp_path / "cut").run_dir) == run_bytes(whole.run_dir)


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
        return LabelScores(moved, scores.usage)

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
    honest = setting._how_it_ran
    monkeypatch.setattr(
        setting, "_how_it_ran", lambda *given: {**honest(*given), "dtype": "bfloat16"}
    )
    with pytest.raises(RunError, match=r"dtype \(was float32, is bfloat16\)\. Put it back"):
        build.resume(tmp_path / "cut")
    build.resume(tmp_path / "cut", changed_ok=True)
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
        patch.setattr(keeping, "save_checkpoint", dies)
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
    read = {result.seed_prompt, result.prompt, result.readable_prompt}
    assert len(asked) == len(set(asked)) == len(read) * len(test_texts)


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


def learned(folder: Path) -> tuple[bytes, list[Any]]:
    """What was written, and how each update went."""
    steps = read_lines(folder / "steps.jsonl")
    return (folder / "prompts.jsonl").read_bytes(), [step["update"] for step in steps]


def test_without_an_anchor_the_kl_coefficient_means_nothing(run: Run) -> None:
    folders = [
        run(f"run {kind} {coef}", anchor={"kind": kind}, ppo={"kl_coef": coef}).run_dir
        for kind in ("none", "fixed")
        for coef in (0.0, 5.0)
    ]
    none, still_none, pulled, pulled_hard = folders
    assert run_bytes(none) == run_bytes(still_none)
    assert learned(pulled)[0] != learned(pulled_hard)[0]  # it means something where there is one
    steps = read_lines(none / "steps.jsonl")
    assert [(s["update"]["kl_coef"], s["update"]["anchor_kl"]) for s in steps] == [(0, 0)] * 4
    assert [s["anchor"] for s in steps] == [None] * 4
    # And without coefficient the policy goes the way it goes without anchor.
    assert learned(none)[0] == learned(pulled)[0]


# --- the monitor ---


def test_after_a_roll_back_the_policy_is_the_anchor(run: Run) -> None:
    # Less entropy than at first, twice in a row, is a collapse here, and nothing else is wrong; the
    # anchor is the first policy.
    lax = ("max_step_kl", "max_gradient_ratio", "max_anchor_kl", "max_surprise_rise", "max_drop")
    alert = {"min_entropy_share": 1.0, "max_clip_fraction": 1.0, **dict.fromkeys(lax, 99.0)}
    result = run(method="ppo-fixed", steps=8, monitor={"act": True, **alert})
    steps = read_lines(result.run_dir / "steps.jsonl")
    rolled = ["roll_back" in step["monitor"]["actions"] for step in steps]
    assert {True, False} == set(rolled[1:-1])
    for before, step in zip(rolled, steps[1:], strict=False):
        # Before the update of the next step, the two say the same again.
        assert (step["update"]["anchor_kl"] == 0) is before
    assert result.alarms == {"collapse": sum(rolled)}
    # Each time the KL coefficient doubles; a healthy step takes half of that back, as a factor.
    scales = [1.0]
    for back in rolled[:-1]:
        scales.append(min(16, 2 * scales[-1]) if back else max(1, scales[-1] / 2**0.5))
    assert [step["update"]["kl_coef"] for step in steps] == pytest.approx(
        [0.05 * scale for scale in scales]
    )


def test_without_an_anchor_there_is_nowhere_to_roll_back_to(run: Run) -> None:
    alert = {"min_entropy_share": 99.0, "max_step_kl": 99.0, "max_clip_fraction": 1.0}
    free: dict[str, Any] = {"steps": 5, "anchor": {"kind": "none"}, "ppo": {"max_update_kl": None}}
    acted = run("acted", **free, monitor={"act": True, **alert})
    watched = run("watched", **free, monitor={"act": False, **alert})
    steps = read_lines(acted.run_dir / "steps.jsonl")
    assert any("roll_back" in step["monitor"]["actions"] for step in steps[:-1])
    assert learned(acted.run_dir) == learned(watched.run_dir)


def test_where_it_only_watches_the_run_is_as_if_nobody_did(run: Run) -> None:
    alert = {"min_entropy_share": 99.0, "max_step_kl": 1e-9, "max_anchor_kl": 1e-9}
    calm = {"min_entropy_share": 0.0, "max_step_kl": 1e9, "max_anchor_kl": 1e9}
    watched = run("watched", steps=6, monitor={"act": False, **alert})
    unseen = run("unseen", steps=6, monitor={"act": False, **calm, "max_refused_share": 1.0})
    acted = run("acted", steps=6, monitor={"act": True, **alert})
    assert watched.alarms.keys() >= {"collapse", "divergence", "drift"}
    assert learned(watched.run_dir) == learned(unseen.run_dir)
    assert learned(watched.run_dir) != learned(acted.run_dir)


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent's model can read no prompt but the seed prompt."""
    honest = AgentLLM.surprisals

    def surprisals(self: AgentLLM, texts: Sequence[str]) -> list[Surprisal]:
        found = honest(self, texts)
        mute = ("sort one text", *plain_instructions())
        return [
            cost if text in mute else Surprisal(math.inf, cost.num_tokens)
            for text, cost in zip(texts, found, strict=True)
        ]

    monkeypatch.setattr(AgentLLM, "surprisals", surprisals)


@pytest.mark.usefixtures("unreadable")
def test_a_text_that_the_agents_model_cannot_read_stops_no_run(run: Run) -> None:
    result = run(guards={"max_surprise": 1.5})
    assert result.prompt == "sort one text"
    assert result.candidates["refused"]["babble"] > 0


@pytest.mark.usefixtures("unreadable", "target")
@pytest.mark.parametrize("act", [True, False])
def test_a_policy_whose_prompts_are_all_refused_is_left_for_the_selection(
    tmp_path: Path, act: bool
) -> None:
    class Notes(Silence):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def on_note(self, text: str) -> None:
            self.notes.append(text)

    config = tiny_config(
        steps=9,
        guards={"max_surprise": 1.5},
        monitor={"act": act, "max_refused_steps": 3},
        limits={"max_target_calls": 10_000},  # not a call of which is made for refused prompts
    )
    told = Notes()
    result = build.start_run(make_task(), config, tmp_path / "whole", told)
    steps = read_lines(result.run_dir / "steps.jsonl")
    assert [sum(step["faults"].values()) for step in steps] == [6, 6, 6]
    assert "3 of 9 steps: every prompt of the last ones was refused" in " ".join(told.notes)
    assert result.prompt == "sort one text"
    with pytest.raises(Killed):
        build.start_run(make_task(), config, tmp_path / "cut", KillAfter(1))
    resumed = build.resume(tmp_path / "cut")  # two of them are counted already
    assert len(read_lines(resumed.run_dir / "steps.jsonl")) == 3


# --- methods end to end ---


def test_few_shot_is_the_seed_prompt_with_examples_of_train(
    target: ScriptedTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = ScriptedTarget.label_scores

    def likes_examples(self: ScriptedTarget, conversations: Any, words: Any) -> LabelScores:
        # Nothing is right without examples; with the set that shows this text, all is.
        scores = honest(self, conversations, words)
        shown = torch.tensor([[system["content"].count("Input:")] for system, _ in conversations])
        right = scores.label_probs.max(dim=1, keepdim=True).values.eq(scores.label_probs)
        probs = torch.where(right == (shown > 0), 0.1, 0.9)
        return LabelScores(probs, scores.usage)

    monkeypatch.setattr(ScriptedTarget, "label_scores", likes_examples)
    config = tiny_config(
        method="few-shot",
        steps=0,
        selection={"num_demonstrations": 3, "demonstration_sets": 4, "rounds": 1},
    )
    task = make_task()
    result = build.start_run(task, config, tmp_path / "run", Silence())
    assert result.instruction == result.seed_prompt == "sort one text"
    assert result.prompt.startswith("sort one text\n\nInput: ")
    train = {f"Input: {e.text}\nOutput: {e.label}" for e in task.train}
    assert set(result.prompt.split("\n\n")[1:]) <= train
    assert result.prompt.count("Input: ") == 3
    assert (result.test.score, result.seed_test.score) == (1, 0)
    assert result.readable
    assert result.readable_prompt == result.prompt
    assert result.improved
    # Seed prompt and four sets on 18 examples, then two prompts on the test split.
    calls = result.cost["target_calls"]
    assert (calls["training"], calls["validation"], calls["test"]) == (0, 5 * 18, 2 * 18)
    assert read_lines(tmp_path / "run" / "steps.jsonl") == []


def test_seed_is_the_seed_prompt_as_it_is(run: Run) -> None:
    result = run(method="seed", steps=0)
    assert result.prompt == result.instruction == result.readable_prompt == "sort one text"
    assert result.test == result.seed_test == result.readable_test
    assert not result.improved
    assert result.max_of_five is None
    calls = result.cost["target_calls"]
    assert (calls["training"], calls["validation"], calls["test"]) == (0, 18, 18)
    assert (result.alarms, result.collapsed, result.anchor_decisions) == ({}, False, {})


def test_the_papers_protocol_reads_the_test_split_in_one_call(
    run: Run, target: ScriptedTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = {example.text for example in make_task().test}
    honest, calls = ScriptedTarget.label_scores, []

    def label_scores(self: ScriptedTarget, conversations: Any, words: Any) -> LabelScores:
        calls.append({user["content"] for _, user in conversations} <= test)
        return honest(self, conversations, words)

    monkeypatch.setattr(ScriptedTarget, "label_scores", label_scores)
    settings: dict[str, Any] = {"method": "best-of-n", "steps": 3}
    plain = run("plain", **settings)
    calls.clear()
    paper = run("paper", **settings, selection={"paper_protocol": True})
    assert calls.count(True) == 1
    assert calls[-1]
    assert paper.max_of_five is not None
    found = json.loads((paper.run_dir / "test.json").read_text())["prompts"]
    scores = {one["prompt"]: sum(one["values"]) / len(one["values"]) for one in found}
    assert len(scores) >= 5 + 1
    assert paper.max_of_five.score == max(
        score for prompt, score in scores.items() if prompt != "sort one text"
    )
    assert scores[paper.prompt] == paper.test.score
    # It chooses nothing: all else is as it was.
    assert (paper.prompt, paper.test, paper.paired) == (plain.prompt, plain.test, plain.paired)


def test_a_learning_curve_is_drawn_when_the_result_stands(run: Run, target: ScriptedTarget) -> None:
    plain = run("plain", seed=1)
    asked = len(target.seen)
    target.seen.clear()
    drawn = run("drawn", seed=1, selection={"learning_curve": True})
    with_curve, without = run_bytes(drawn.run_dir), run_bytes(plain.run_dir)
    del with_curve["result.json"], without["result.json"]
    assert with_curve == without  # it changes nothing
    before, after = (json.loads((r.run_dir / "result.json").read_text()) for r in (plain, drawn))
    assert {k: v for k, v in after.items() if k not in ("cost", "target_calls")} == {
        k: v for k, v in before.items() if k not in ("cost", "target_calls")
    }
    assert after["target_calls"] - before["target_calls"] == after["cost"]["target_calls"]["curve"]
    assert after["cost"]["target_calls"]["curve"] == len(target.seen) - asked > 0
    assert not (plain.run_dir / "curve.json").exists()
    points = json.loads((drawn.run_dir / "curve.json").read_text())["points"]
    steps = read_lines(drawn.run_dir / "steps.jsonl")
    calls = drawn.cost["target_calls"]
    spent = calls["training"] + calls["validation"]
    assert [cost for cost, _ in points] == [0, *(s["target_calls"] for s in steps), spent]
    # By hand: a prompt gets all right where more than 3/7 of its words are liked, see the target.
    leaders = ["sort one text", *(step["best_prompt"] for step in steps), drawn.prompt]
    shares = [sum(w in LIKED for w in leader.split()) / len(leader.split()) for leader in leaders]
    assert [score for _, score in points] == [float(share > 3 / 7) for share in shares]
    # What it asks comes last, about validation alone.
    validation = {example.text for example in make_task().validation}
    assert all(text in validation for _, text in target.seen[asked:])


def test_prompts_that_were_found_elsewhere_compete_in_the_selection(
    target: ScriptedTarget, tmp_path: Path
) -> None:
    config = tiny_config(method="best-of-n", steps=0)
    found = ["read kindly please", "note note"]

    def search(parts: Parts) -> list[str]:
        assert parts.task == make_task()
        return found

    result = build.start_run(make_task(), config, tmp_path / "run", Silence(), search=search)
    assert result.prompt == "read kindly please"
    assert result.candidates["compared_on_validation"] == 3
    assert result.cost["target_calls"]["validation"] == 3 * 18


def test_with_guards_off_an_odd_winner_is_told_and_a_readable_prompt_is_given_beside_it(
    run: Run,
) -> None:
    # The tiny agent writes words at random: nothing that anybody would ship.
    result = run(method="ppo-fixed", steps=6)
    assert result.improved
    assert not result.readable
    assert result.readability.surprise > 1.5 or not result.readability.instruction
    assert result.readable_prompt != result.prompt
    assert result.readable_test.n == result.test.n
    told = json.loads((result.run_dir / "result.json").read_text())
    assert told["readable"] is False
    assert told["readability"].keys() == {"surprise", "num_words", "instruction"}


def test_result_file_has_what_it_promises(run: Run) -> None:
    result = run()
    content = json.loads((result.run_dir / "result.json").read_text())
    for part in ("test", "seed_test", "readable_test", "validation", "seed_validation"):
        assert set(content[part]) == {"score", "low", "high", "n", "metric"}
    assert content["max_of_five"] is None
    assert content["collapsed"] is result.collapsed is False
    assert content["alarms"] == result.alarms
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
