"""What a run rests on must not change before it is resumed, unless that is said to be right."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stableprompt import basis, build
from stableprompt.basis import Rests, differences, qualified_name
from stableprompt.errors import ConfigError, RunError, RunStopped
from stableprompt.models import identity
from stableprompt.models.identity import fingerprint, identity_of
from stableprompt.tuning.records import Silence, StepRecord, TuneResult
from tests.fakes.word_agent import make_task
from tests.tuning.conftest import scripted_models, tiny_config

SHORT: dict[str, Any] = {"steps": 3, "method": "best-of-n"}


class Notes(Silence):
    """Remembers notes, and stops after a step."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.notes: list[str] = []
        self._last, self._stop = -1, stop_after

    def on_step(self, record: StepRecord) -> None:
        self._last = record.step

    def on_note(self, note: str) -> None:
        self.notes.append(note)

    def stop_asked(self) -> bool:
        return self._last == self._stop


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after its first step."""
    with pytest.MonkeyPatch.context() as patch:
        scripted_models(patch)
        folder = tmp_path_factory.mktemp("begun") / "run"
        with pytest.raises(RunStopped, match="stopped after step 1 of 3"):
            build.start_run(make_task(), tiny_config(**SHORT), folder, Notes(stop_after=0))
        return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TuneResult:
    """What it ends with where nothing happens to it."""
    with pytest.MonkeyPatch.context() as patch:
        scripted_models(patch)
        folder = tmp_path_factory.mktemp("whole") / "run"
        return build.start_run(make_task(), tiny_config(**SHORT), folder, Silence())


@pytest.fixture
def cut(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to change."""
    scripted_models(monkeypatch)
    return Path(shutil.copytree(begun, tmp_path / "cut"))


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def faster(content: dict[str, Any]) -> None:
    content["ppo"]["learning_rate"] = 0.5
    content["steps"] = 4


def other_text(content: dict[str, Any]) -> None:
    content["train"][3]["text"] += "!"


def other_order(content: dict[str, Any]) -> None:
    content["label_words"] = dict(reversed(content["label_words"].items()))


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        (
            "config.json",
            faster,
            "setting steps (was 3, is 4); setting ppo.learning_rate (was 0.01, is 0.5)",
        ),
        ("task.json", other_text, "train of the data"),
        ("task.json", other_order, "label_words of the data"),
        ("task.json", lambda c: c.update(seed_prompt="x"), "seed_prompt of the data"),
    ],
)
def test_changed_settings_and_data_are_refused_with_what_changed(
    cut: Path, name: str, change: Callable[[dict[str, Any]], None], told: str
) -> None:
    edit(cut / name, change)
    before = {path: path.read_bytes() for path in cut.rglob("*") if path.is_file()}
    with pytest.raises(RunError) as caught:
        build.resume(cut)
    assert str(caught.value) == (
        f"the run in {cut} is not resumed, since something changed after it began: {told}. Put it "
        "back, start a new run, or accept it with --changed-ok (changed_ok=True)"
    )
    assert {path: path.read_bytes() for path in cut.rglob("*") if path.is_file()} == before


def test_changed_versions_and_models_are_refused(
    cut: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = basis.versions_of
    monkeypatch.setattr(basis, "versions_of", lambda config: {**honest(config), "torch": "9.9"})
    monkeypatch.setattr(basis, "identity_of", lambda name: "other weights")
    with pytest.raises(
        RunError, match=r"model agent \(was smollm2-135m.*, is other weights\); "
    ) as e:
        build.resume(cut)
    assert "is 9.9)" in str(e.value)


def test_a_run_whose_basis_is_lost_is_refused(cut: Path) -> None:
    (cut / "basis.json").unlink()
    with pytest.raises(RunError, match=r"stableprompt \(was unknown, for lack of basis\.json"):
        build.resume(cut)


def test_limits_and_white_space_may_change(cut: Path) -> None:
    edit(cut / "config.json", lambda c: c["limits"].update(max_target_calls=100_000))
    result = build.resume(cut)
    assert "changed_when_resumed" not in result.setting


@pytest.mark.parametrize("older", [True, False])
def test_a_setting_that_no_figure_depends_on_may_come_and_change(cut: Path, older: bool) -> None:
    edit(cut / "config.json", lambda c: c["target"]["api"].update(ask_ahead=False))
    if older:  # of a version that did not have it
        edit(cut / "config.json", lambda c: c["target"]["api"].pop("ask_ahead"))
        edit(cut / "basis.json", lambda c: c["setting"].pop("target.api.ask_ahead"))
    assert "changed_when_resumed" not in build.resume(cut).setting


def test_a_target_is_closed_where_a_run_cannot_be_resumed(
    cut: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    scripted = scripted_models(monkeypatch)
    monkeypatch.setattr(scripted, "close", lambda: closed.append("target"))
    (cut / ".config.json.part").mkdir()  # what is written there first cannot be
    with pytest.raises(RunError, match=r"config\.json cannot be written"):
        build.resume(cut, limits={"max_target_calls": 100_000})
    assert closed == ["target"]


def test_a_run_that_is_not_in_actors_is_not_put_into_them(cut: Path) -> None:
    before = (cut / "config.json").read_bytes()
    with pytest.raises(ConfigError, match="is not in Ray actors"):
        build.resume(cut, target={"ray": {"actors": 2}}, changed_ok=True)
    assert (cut / "config.json").read_bytes() == before
    build.resume(cut)


def test_what_is_accepted_is_told_and_stands_in_the_result(cut: Path) -> None:
    edit(cut / "config.json", lambda c: c["reward"].update(fault_reward=-0.25))
    before = json.loads((cut / "basis.json").read_text())["setting"]["reward.fault_reward"]
    wanted = [f"setting reward.fault_reward (was {before}, is -0.25)"]
    notes = Notes(stop_after=1)
    with pytest.raises(RunStopped, match="stopped after step 2 of 3"):
        build.resume(cut, changed_ok=True, observer=notes)
    assert notes.notes == [f"changed since the run began: {wanted[0]}"]
    again = Notes()
    result = build.resume(cut, observer=again)  # it was accepted once
    assert again.notes == []
    assert result.setting["changed_when_resumed"] == wanted
    assert (
        json.loads((cut / "result.json").read_text())["setting"]["changed_when_resumed"] == wanted
    )


# --- a folder without a beginning ---


def test_a_run_that_was_killed_before_anything_was_done_begins(cut: Path) -> None:
    (cut / "basis.json").unlink()
    shutil.rmtree(cut / "checkpoints")
    (cut / "checkpoints").mkdir()
    assert build.resume(cut).target_calls > 0
    assert (cut / "basis.json").is_file()


# --- damaged ---


def test_a_damaged_checkpoint_is_told_and_the_run_ends_as_it_would(cut: Path) -> None:
    whole = build.resume(Path(shutil.copytree(cut, cut.with_name("whole"))))
    path = cut / "checkpoints" / "step-000001" / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    notes = Notes()
    build.resume(cut, observer=notes)
    assert notes.notes == [
        "checkpoint step-000001 is damaged (tensors.safetensors is not what was written); it is "
        "now damaged-step-000001 and not used",
        "no checkpoint is whole: the run begins anew",
    ]
    assert (cut / "result.json").read_bytes() == (whole.run_dir / "result.json").read_bytes()


def test_damaged_lines_of_a_step_are_as_bad_as_a_damaged_checkpoint(cut: Path) -> None:
    path = cut / "pairs.jsonl"
    path.write_bytes(path.read_bytes().replace(b"0.", b"1.", 1))
    notes = Notes()
    build.resume(cut, observer=notes)
    assert "pairs.jsonl is not what was written" in notes.notes[0]


# --- names and weights ---


def test_a_function_is_called_by_module_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def inner() -> None: ...

    class Called:
        def __call__(self) -> None: ...

    own = f"{__name__}.test_a_function_is_called_by_module_and_name.<locals>"
    assert qualified_name(inner) == f"{own}.inner"
    assert qualified_name(Called()) == f"{own}.Called"
    # The same file, run as a script and imported.
    inner.__module__ = "__main__"
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/somewhere/answers.py", raising=False)
    assert qualified_name(inner) == f"answers.{own.removeprefix(__name__ + '.')}.inner"


def test_a_missing_function_is_left_to_who_needs_it() -> None:
    before = {"function": {"target": "a.f"}}
    assert differences(before, {"function": {}}) == []
    assert differences(before, {"function": {"target": "b.f"}}) == [
        "function target (was a.f, is b.f)"
    ]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(3_000_000))
    (folder / "README.md").write_text("words")
    return folder


@pytest.mark.parametrize("place", [0, 65_535, 195_700, 2_934_464, 2_999_999])
def test_other_weights_of_the_same_size_are_other_weights(weights: Path, place: int) -> None:
    before = fingerprint(weights)
    with (weights / "model.safetensors").open("r+b") as file:
        file.seek(place)
        file.write(b"x")
    assert fingerprint(weights) != before


def test_size_and_name_count_times_and_words_do_not(weights: Path) -> None:
    before = fingerprint(weights)
    (weights / "README.md").write_text("other words")
    (weights / "config.json").touch()
    assert fingerprint(Path(shutil.copytree(weights, weights.with_name("copy")))) == before
    (weights / "config.json").rename(weights / "settings.json")
    renamed = fingerprint(weights)
    assert renamed != before
    (weights / "settings.json").write_text("{} ")
    assert fingerprint(weights) != renamed


def test_a_model_of_the_hub_is_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    cached = "/cache/models--org--name/snapshots/0123abc/config.json"
    monkeypatch.setattr(identity, "try_to_load_from_cache", lambda name, file: cached)
    assert identity_of("org/name") == "commit 0123abc"
    monkeypatch.setattr(identity, "try_to_load_from_cache", lambda name, file: None)
    assert identity_of("org/name") == "unknown"


def test_a_name_that_is_not_utf_8_is_a_name_like_others(weights: Path) -> None:
    before = fingerprint(weights)
    (weights / "\udcff.txt").touch()  # the byte ff
    assert fingerprint(weights) != before


@pytest.mark.parametrize("content", [{"changed": 5}, {"setting": None}, {"version": ["x"]}])
def test_a_basis_that_makes_no_sense_is_damaged(cut: Path, content: dict[str, Any]) -> None:
    (cut / "basis.json").write_text(json.dumps(content), encoding="utf-8")
    for changed_ok in (False, True):
        with pytest.raises(RunError, match=r"basis\.json cannot be read .* is damaged"):
            build.resume(cut, changed_ok=changed_ok)


@pytest.mark.parametrize("basis_too", [False, True])
def test_a_run_whose_checkpoints_were_lost_begins_anew(
    cut: Path, whole: TuneResult, basis_too: bool
) -> None:
    shutil.rmtree(cut / "checkpoints")  # git and object stores keep no empty folder
    if basis_too:
        (cut / "basis.json").unlink()
    assert build.resume(cut).to_dict() == whole.to_dict()


def test_servers_may_move_but_not_come_or_go() -> None:
    def resting(*urls: str, **more: Any) -> Rests:
        flat = {"target.api.base_url": list(urls) or None, "steps": 3, **more}
        return {"setting": flat}

    assert differences(resting("http://a/v1"), resting("http://b/v1", "http://c/v1")) == []
    [told] = differences(resting(), resting("http://b/v1"))
    assert told.startswith("setting target.api.base_url (was nothing, is ")
    [told] = differences(resting("http://b/v1"), resting())
    assert told.endswith("is nothing)")
    assert len(differences(resting("http://a/v1"), resting("http://b/v1", steps=4))) == 1
