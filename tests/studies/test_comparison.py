"""A comparison: what is equal for all, that it goes on where it stopped, what comes out."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stableprompt import build
from stableprompt.config import TuneConfig
from stableprompt.errors import ConfigError, RunError, RunStopped
from stableprompt.models.targets.interface import LabelScores
from stableprompt.presets import METHODS
from stableprompt.runs.lock import alone
from stableprompt.studies import comparison
from stableprompt.studies.cell import Arm, CellRecord
from stableprompt.studies.comparison import Plan, run_comparison
from stableprompt.studies.table import content_of, markdown_of
from stableprompt.tasks.example import Example
from stableprompt.tasks.metrics.custom import custom_metric
from stableprompt.tuning.records import Silence
from tests.fakes.killers import Killed
from tests.fakes.word_agent import ScriptedTarget, make_agent, make_task
from tests.tuning.conftest import TINY

BUDGET = 240
SETTINGS = {key: value for key, value in TINY.items() if key != "steps"}


class CountingTarget(ScriptedTarget):
    """Counts what it is really asked, by the split of the text."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def label_scores(
        self, conversations: Sequence[Sequence[dict[str, str]]], words: Sequence[Sequence[str]]
    ) -> LabelScores:
        tested = {example.text for example in make_task().test}
        self.calls += sum(user["content"] not in tested for _, user in conversations)
        return super().label_scores(conversations, words)


@pytest.fixture
def targets(monkeypatch: pytest.MonkeyPatch) -> list[CountingTarget]:
    """The target of each run, in the order of the runs."""
    made: list[CountingTarget] = []

    def load_models(config: TuneConfig, function: Any = None, ranks: Any = None) -> tuple[Any, Any]:
        made.append(CountingTarget())
        return make_agent(seed=7, temperature=config.agent.temperature), made[-1]

    monkeypatch.setattr(build, "load_models", load_models)
    return made


def plan(*methods: str, seeds: tuple[int, ...] = (0,), budget: int = BUDGET) -> Plan:
    arms = tuple(Arm(method, method.partition(":")[0]) for method in methods)
    return Plan((make_task(),), arms, seeds, budget, SETTINGS)


def run(made: Plan, folder: Path) -> list[CellRecord]:
    return run_comparison(made, folder, workers=1, told=lambda *_: None)


def test_every_method_has_the_same_budget_and_none_exceeds_it(
    targets: list[CountingTarget], tmp_path: Path
) -> None:
    records = run(plan(*METHODS), tmp_path / "out")
    assert [record.arm for record in records] == [str(method) for method in METHODS]
    for record, target in zip(records, targets, strict=True):
        curve = len(dict(record.curve)) * len(make_task().validation)
        assert record.calls <= BUDGET
        # What the target was really asked, but for the curve that is drawn afterwards.
        assert target.calls - curve <= record.calls <= target.calls
    spent = {record.arm: record.calls for record in records}
    # A step of TINY costs 42 calls at most, a finalist 18: less than both is left where there are
    # prompts enough to spend it on.
    assert spent["best-of-n"] > BUDGET - 42 - 18, spent


def test_what_is_done_is_not_done_again_and_more_can_be_added(
    targets: list[CountingTarget], tmp_path: Path
) -> None:
    first = run(plan("appo"), tmp_path / "out")
    assert len(targets) == 1
    more = run(plan("appo", "seed", seeds=(0, 1)), tmp_path / "out")
    assert len(targets) == 4  # three runs more
    assert more[0] == first[0]
    saved = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert (sorted(saved["arms"]), saved["seeds"]) == (["appo", "seed"], [0, 1])


def test_two_at_once_on_one_folder_are_kept_apart(
    targets: list[CountingTarget], tmp_path: Path
) -> None:
    with alone(tmp_path, "it", lock=".out.lock", holder=".out.holder"):
        with pytest.raises(RunError, match=rf"process {os.getpid()} is at the comparison in"):
            run(plan("seed"), tmp_path / "out")
        run(plan("seed"), tmp_path / "other")
    assert len(run(plan("seed"), tmp_path / "out")) == 1


def test_a_function_of_the_users_own_stays_in_this_process(tmp_path: Path) -> None:
    def graded(example: Example, prediction: str) -> float:
        return float(prediction in example.answers)

    task = replace(make_task(), metric=custom_metric(graded))
    made = Plan((task,), (Arm("seed", "seed"),), (0,), 2000, {})
    with pytest.raises(ConfigError, match="use --workers 1"):
        comparison.run_comparison(made, tmp_path / "out", workers=2, told=lambda *_: None)
    assert not (tmp_path / "out").exists()


def test_a_run_that_was_killed_is_finished_like_one_that_was_not(
    targets: list[CountingTarget], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [whole] = run(plan("appo"), tmp_path / "whole")
    honest = comparison.record_of

    def killed(*_: Any) -> CellRecord:
        raise Killed

    monkeypatch.setattr(comparison, "record_of", killed)
    with pytest.raises(Killed):
        run(plan("appo"), tmp_path / "out")
    monkeypatch.setattr(comparison, "record_of", honest)
    [finished] = run(plan("appo"), tmp_path / "out")
    assert replace(finished, seconds=0) == replace(whole, seconds=0)


def test_a_comparison_that_is_asked_to_stop_goes_on_in_the_middle_of_a_run(
    targets: list[CountingTarget], tmp_path: Path
) -> None:
    class Impatient(Silence):
        def stop_asked(self) -> bool:
            return True

    [whole] = run(plan("appo"), tmp_path / "whole")
    with pytest.raises(RunStopped):
        run_comparison(
            plan("appo"), tmp_path / "out", workers=1, told=lambda *_: None, observer=Impatient()
        )
    cell = tmp_path / "out" / "runs" / "colours" / "appo" / "0"
    assert len((cell / "steps.jsonl").read_text().splitlines()) == 1
    [finished] = run(plan("appo"), tmp_path / "out")
    assert replace(finished, seconds=0) == replace(whole, seconds=0)
    # Two are kept while it runs; of many finished runs one each is enough.
    assert len(list((cell / "checkpoints").glob("step-*"))) == 1


def test_another_budget_or_other_data_need_another_folder(
    targets: list[CountingTarget], tmp_path: Path
) -> None:
    run(plan("seed"), tmp_path / "out")
    with pytest.raises(RunError, match="has budget 240, now it is 250"):
        run(plan("seed", budget=250), tmp_path / "out")
    other = replace(plan("seed"), tasks=(make_task(size=90),))
    with pytest.raises(RunError, match="'colours' is not what it was"):
        run(other, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"holds no plan\.json"):
        run(plan("seed"), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"arms": ()}, "at least one method"),
        ({"seeds": ()}, "at least one seed"),
        ({"seeds": (0, 0)}, "seed '0' is given twice"),
        ({"arms": (Arm("dpo", "dpo"),)}, "method 'dpo' is unknown; use one of appo,"),
        ({"budget": 20}, "a budget of 20 target calls is too small"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(given: dict[str, Any], message: str) -> None:
    made = plan("appo")
    parts = {name: getattr(made, name) for name in made.__dataclass_fields__}
    with pytest.raises(ConfigError, match=message):
        Plan(**{**parts, **given})


def test_the_settings_of_an_arm_are_its_own() -> None:
    fixed = Arm("appo:anchor.kind=fixed", "appo", {"anchor": {"kind": "fixed"}})
    made = replace(plan("appo"), arms=(plan("appo").arms[0], fixed))
    one, other = (made.config(arm, 3) for arm in made.arms)
    assert (one.anchor.kind, other.anchor.kind) == ("adaptive", "fixed")
    assert one.model_copy(update={"anchor": other.anchor}) == other
    assert (one.seed, one.budget) == (3, BUDGET)


def test_the_table_holds_every_figure_and_keeps_the_protocols_apart(
    targets: list[CountingTarget], tmp_path: Path
) -> None:
    made = plan("appo", "best-of-n", "seed", seeds=(0, 1))
    records = run(made, tmp_path / "out")
    content = content_of(
        records, ours="appo", plan=made.to_dict(), setting={}, command="stableprompt compare"
    )
    methods = {m["method"]: m for m in content["methods"]}
    for name, found in methods.items():
        own = [record for record in records if record.arm == name]
        assert found["mean"] == pytest.approx(sum(r.score for r in own) / 2)
        assert found["target_calls"] == sum(r.calls for r in own) / 2
    appo = methods["appo"]
    five = [r.max_of_five for r in records if r.arm == "appo"]
    assert appo["max_of_five_mean"] == pytest.approx(sum(filter(None, five)) / 2)
    assert methods["seed"]["max_of_five_mean"] is None  # it has no candidates
    assert methods["seed"]["seed_sd"] == 0
    [pair] = [p for p in content["pairs"] if p["rival"] == "seed"]
    assert pair["difference"] == pytest.approx(appo["mean"] - methods["seed"]["mean"])
    assert len(content["cells"]) == 6
    json.dumps(content, allow_nan=False)
    assert "max of 5 on test (optimistic)" in markdown_of(content)
    [task] = made.tasks
    trivial = task.trivial_score("test")
    assert trivial is not None
    assert content["tasks"][task.name]["trivial_score"] == trivial
    *_, heads, _, told = markdown_of(content).splitlines()
    assert heads.endswith("| trivial answer |")
    assert told.endswith(f"| {trivial:.3f} |")
    assert heads.count("|") == told.count("|")
    # A run of an earlier version says nothing of it; the others do, wherever it stands.
    old = [*records[:-1], replace(records[-1], trivial_score=None)]
    again = content_of(old, ours="appo", plan=made.to_dict(), setting={}, command="")
    assert again["tasks"] == content["tasks"]


def test_methods_are_compared_on_the_runs_that_both_have(
    targets: list[CountingTarget], tmp_path: Path
) -> None:
    made = plan("appo", "seed", seeds=(0, 1))
    records = run(made, tmp_path / "out")[:3]  # seed 1 of "seed" is missing
    content = content_of(records, ours="appo", plan=made.to_dict(), setting={}, command="")
    [pair] = content["pairs"]
    assert (pair["same_runs"], pair["num_runs"]) == (False, 1)
    assert content["wins"] == []
    assert "1 runs that both have" in markdown_of(content)


def test_methods_that_learn_nothing_in_steps_train_no_writer() -> None:
    settings = {**SETTINGS, "per_input": {"mode": "auto", "prompts": 2}}
    made = replace(plan("appo", "seed", "few-shot"), settings=settings)
    modes = {arm.name: made.config(arm, 0).per_input.mode for arm in made.arms}
    assert modes == {"appo": "auto", "seed": "never", "few-shot": "never"}


def test_a_run_that_ships_a_writer_is_scored_by_its_prompts_for_each_input(
    targets: list[CountingTarget], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "target_of", lambda agent, config: ScriptedTarget())
    arm = Arm("writer", "appo", {"per_input": {"mode": "always", "prompts": 2}})
    [record] = run(replace(plan("appo"), arms=(arm,)), tmp_path / "out")
    folder = tmp_path / "out/runs/colours/writer/0"
    written = [json.loads(line) for line in (folder / "writes.jsonl").read_text().splitlines()]
    assert record.values == record.readable_values == tuple(row["value"] for row in written)
    found = json.loads((folder / "result.json").read_text())["per_input"]
    assert (record.score, record.validation) == (
        found["test"]["score"],
        found["validation"]["score"],
    )
    assert record.calls <= BUDGET


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(RunError, match="cannot be made"):
        run(plan("seed"), tmp_path / "file" / "out")
