"""Whole runs on a disk that fails, beside another process, under a clock that jumps."""

import itertools
import os
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stableprompt import build
from stableprompt.errors import RunError
from stableprompt.runs.lock import alone
from stableprompt.tuning.records import Silence, StepRecord
from tests.fakes.word_agent import ScriptedTarget, make_task
from tests.tuning.conftest import scripted_models, tiny_config
from tests.tuning.test_loop import run_bytes


def start(folder: Path, observer: Silence | None = None, **settings: Any) -> Path:
    config = tiny_config(steps=2, **settings)
    build.start_run(make_task(), config, folder, observer or Silence())
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run leaves that nothing happens to."""
    with pytest.MonkeyPatch.context() as patch:
        scripted_models(patch)
        return run_bytes(start(tmp_path_factory.mktemp("whole") / "run"))


class AfterFirstStep(Silence):
    """Does something once, when the first step is written down."""

    def __init__(self, act: Any) -> None:
        self._act = act

    def on_step(self, record: StepRecord) -> None:
        if record.step == 0:
            self._act()


@pytest.fixture
def files_of_any_size() -> Iterator[tuple[int, int]]:
    """The limit as it was, and put back."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield before
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_stops_the_run_in_one_line_and_nothing_is_lost(
    target: ScriptedTarget,
    tmp_path: Path,
    whole: dict[str, bytes],
    files_of_any_size: tuple[int, int],
) -> None:
    folder, (_, hard) = tmp_path / "run", files_of_any_size

    def fill() -> None:
        tensors = folder / "checkpoints" / "step-000001" / "tensors.safetensors"
        full = tensors.stat().st_size // 2  # in the middle of the next one
        resource.setrlimit(resource.RLIMIT_FSIZE, (full, hard))

    with pytest.raises(RunError, match=r"step-000002 cannot be written .*resume the run") as caught:
        start(folder, AfterFirstStep(fill))
    assert "\n" not in str(caught.value)
    # It is still full: the run is refused again, and loses nothing by it.
    with pytest.raises(RunError, match="cannot be written"):
        build.resume(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, files_of_any_size)
    build.resume(folder)
    assert run_bytes(folder) == whole


def test_a_folder_that_is_moved_away_stops_the_run_and_goes_on_where_it_is(
    target: ScriptedTarget, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    with pytest.raises(RunError, match=r"run/steps\.jsonl cannot be written .*; put it back"):
        start(folder, AfterFirstStep(lambda: folder.rename(elsewhere)))
    assert not folder.exists()
    build.resume(elsewhere)
    assert run_bytes(elsewhere) == whole


def test_a_folder_that_is_deleted_stops_the_run_and_is_not_made_again(
    target: ScriptedTarget, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(RunError, match="cannot be written"):
        start(folder, AfterFirstStep(lambda: shutil.rmtree(folder)))
    assert not folder.exists()


def test_a_clock_that_jumps_changes_nothing(
    target: ScriptedTarget,
    tmp_path: Path,
    whole: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    years = itertools.cycle([-3e8, 3e8, 0.0])
    honest = time.time
    monkeypatch.setattr(time, "time", lambda: honest() + next(years))
    start(tmp_path / "run", limits={"max_seconds": 3600.0})
    assert run_bytes(tmp_path / "run") == whole


def test_ctrl_c_in_python_is_a_keyboard_interrupt_and_the_run_goes_on(
    target: ScriptedTarget, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def press() -> None:
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
        signal.raise_signal(signal.SIGINT)

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        start(folder, AfterFirstStep(press))
    # Another process would be at it now, and then in the same one again, as in a notebook.
    with (
        alone(folder, "it"),
        pytest.raises(RunError, match=rf"^process {os.getpid()} is at the run in .*run; wait"),
    ):
        build.resume(folder)
    build.resume(folder)
    assert run_bytes(folder) == whole
