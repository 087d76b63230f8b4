"""A run on two processes is that on one, and outlives the death of one. Real processes, on CPU."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from stableprompt import build
from stableprompt.cli.voices import Json, Nobody, choose_voice
from stableprompt.config import make_config
from stableprompt.errors import ConfigError
from stableprompt.models.ranks import ALONE, Ranks
from stableprompt.place import require_shareable
from stableprompt.speakers import share_of_calls
from tests.cli.conftest import COLUMNS, SMALL, invoke_app, options, write_rows
from tests.fakes.tiny_model import save_tiny_model
from tests.several.dying import answer
from tests.several.runs import cut_words, run_locally, run_words, run_writers

ROOT = Path(__file__).parent.parent
SPLIT = ("labels", "texts", "inputs")
RUNS = ("words", "writers", *SPLIT)
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
APART = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
APART += ["--dynamo_backend", "no"]
TOGETHER = ["--config_file", str(ROOT / "recipes" / "fsdp2.yaml")]
pytestmark = pytest.mark.timeout(900)  # two processes that load torch, on a busy machine
_CLOCKS = ("seconds", "target_seconds", "run_dir")
_TOLERANCE = 2e-3  # float32, and whatever an optimizer makes of its last digits


def environment(**more: object) -> dict[str, str]:
    """Two processes of one thread, without GPUs."""
    paths = [str(Path(build.__file__).parent.parent), str(ROOT)]
    fixed = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ":".join(paths)}
    return {**os.environ, **fixed, **{name: str(value) for name, value in more.items()}}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """The runs of one process in ``one``, those of two beside it."""
    folder = tmp_path_factory.mktemp("several")
    cut_words(folder / "cut", step=1)  # begun by one, ended by two
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": 2}
    worker = [sys.executable, "-m", "tests.several.worker", str(folder), str(model)]
    workers = [started(worker, **place, RANK=rank, LOCAL_RANK=rank) for rank in range(2)]
    try:
        run_words(folder / "one" / "words")
        run_writers(folder / "one" / "writers")
        for kind in SPLIT:
            run_locally(folder / "one" / kind, model, kind)
        told = [worker.communicate(timeout=600)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(told)
    return folder


@pytest.fixture(scope="module")
def split(folder: Path, model: Path) -> Path:
    """The runs of two processes that hold the agent together, in ``split``."""
    worker = ["-m", "tests.several.worker", str(folder / "split"), str(model), "split"]
    launched = started([*LAUNCH, *TOGETHER, "--main_process_port", str(free_port()), *worker])
    try:
        told, _ = launched.communicate(timeout=600)
    finally:
        launched.kill()
    assert launched.returncode == 0, told
    return folder


def started(command: list[str], **more: object) -> subprocess.Popen[str]:
    """Says everything on one stream."""
    into = subprocess.PIPE
    place = environment(**more)
    return subprocess.Popen(
        command, cwd=ROOT, env=place, stdout=into, stderr=subprocess.STDOUT, text=True
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def bare(found: Any) -> Any:
    """Without times."""
    if isinstance(found, dict):
        return {k: bare(v) for k, v in found.items() if k not in _CLOCKS}
    return [bare(item) for item in found] if isinstance(found, list) else found


def assert_near(found: Any, wanted: Any, where: str) -> None:
    """Numbers with a comma up to rounding, everything else as it is."""
    if isinstance(wanted, float) and isinstance(found, float):
        assert found == pytest.approx(wanted, rel=_TOLERANCE, abs=1e-4), where
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted), where
        for key in wanted:
            assert_near(found[key], wanted[key], f"{where}/{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
            assert_near(one, other, f"{where}/{number}")
    else:
        assert found == wanted, where


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_make_the_run_of_one(folder: Path, name: str) -> None:
    require_same_run(folder / "one" / name, folder / name)


@pytest.mark.parametrize("name", SPLIT)
def test_two_that_hold_the_agent_together_make_it_too(split: Path, name: str) -> None:
    require_same_run(split / "one" / name, split / "split" / name)


def require_same_run(one: Path, two: Path) -> None:
    """But for rounding, and for how many made it."""
    for file in ("steps.jsonl", "prompts.jsonl", "pairs.jsonl"):
        found, wanted = bare(lines(two / file)), bare(lines(one / file))
        assert wanted
        assert_near(found, wanted, file)
    found, wanted = (json.loads((at / "result.json").read_text()) for at in (two, one))
    assert_near(found, wanted, "result.json")
    assert [p["prompt"] for p in lines(two / "prompts.jsonl")] == [
        p["prompt"] for p in lines(one / "prompts.jsonl")
    ]
    assert found["cost"] == wanted["cost"]  # each call counted once, and each token
    counted = [json.loads((at / "timing.json").read_text())["processes"] for at in (one, two)]
    assert counted == [1, 2]


def test_the_runs_have_what_could_differ(folder: Path) -> None:
    steps = lines(folder / "one" / "words" / "steps.jsonl")
    assert any(step["update"]["undone"] for step in steps)
    assert any(step["anchor"] for step in steps)
    norms = [step["update"]["gradient_norm"] for step in steps if step["update"]]
    assert len(norms) == len(steps) and min(norms) > 0


def test_a_run_of_one_is_ended_by_two(folder: Path) -> None:
    found, wanted = (
        json.loads((at / "result.json").read_text())
        for at in (folder / "cut", folder / "one" / "words")
    )
    assert_near(found, wanted, "result.json")


def test_one_that_is_asked_stops_all_after_the_step(folder: Path) -> None:
    assert len(lines(folder / "stopped" / "steps.jsonl")) == 1
    assert not (folder / "stopped" / "result.json").exists()


@pytest.mark.parametrize("how", [APART, TOGETHER], ids=["apart", "together"])
def test_one_that_dies_ends_all_and_the_run_goes_on_alone(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, how: list[str]
) -> None:
    write_rows(tmp_path / "rows.csv", 60)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STABLEPROMPT_CACHE", str(tmp_path / "cache"))
    tune = ["tune", "rows.csv", *COLUMNS, *options(*SMALL, "steps=3")]
    tune += ["--agent", str(model), "--target", "tests.several.dying:answer", "--run-dir"]
    launch = [*LAUNCH, *how, "--main_process_port", str(free_port())]
    started = time.monotonic()
    launched = subprocess.Popen(
        [*launch, "-m", "stableprompt", *tune, "run"],
        env=environment(DIES_AFTER="run/steps.jsonl"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert invoke_app(*tune, "alone").exit_code == 0
        told, complained = launched.communicate(timeout=240)
    finally:
        launched.kill()
    assert launched.returncode != 0
    assert time.monotonic() - started < 200  # by far not the half hour of one that hangs
    assert told.count("run folder: run") == 1  # the first speaks for all
    assert "stableprompt: another process of the run has ended or hangs" in complained, complained
    assert 1 <= len(lines(tmp_path / "run" / "steps.jsonl")) < 3
    result = build.resume(tmp_path / "run", target=answer)  # as if nobody had died
    assert len(lines(result.run_dir / "steps.jsonl")) == 3
    found, wanted = (
        json.loads((tmp_path / name / "result.json").read_text()) for name in ("run", "alone")
    )
    for content in (found, wanted):  # of a function they are guessed, and rounded, by its process
        del content["cost"]["target_tokens"], content["cost"]["target_written"]
    assert_near(found, wanted, "result.json")


def test_all_processes_together_keep_the_pace_that_was_asked_for() -> None:
    asked = {"concurrency": 8, "requests_per_minute": 60.0}
    config = make_config({"target": {"model": "openai/gpt-4o-mini", "api": asked}})
    assert share_of_calls(config, 1) == config
    shared = share_of_calls(config, 4).target.api
    assert (shared.concurrency, shared.requests_per_minute) == (2, 15.0)
    assert share_of_calls(config, 9).target.api.concurrency == 1  # at least
    untold = make_config({"target": {"model": "openai/gpt-4o-mini"}})
    assert share_of_calls(untold, 2).target.api.concurrency == 4  # of 8, the usual


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_a_device_that_all_would_take_is_refused(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    two, config = Ranks(0, 2), make_config({"device": device})
    monkeypatch.setattr(Ranks, "device", torch.device("cuda", 0))
    if device == "auto":
        require_shareable(config, two)
        with pytest.raises(ConfigError, match="cannot be shared by 2 processes"):
            require_shareable(make_config({"device": "cuda:1"}), two)
        with pytest.raises(ConfigError, match="this way to find prompts works in one process"):
            require_shareable(config, two, searching=True)
    else:
        with pytest.raises(ConfigError, match=r"'cpu' cannot be shared by 2 .* launched for cuda"):
            require_shareable(config, two)
        require_shareable(config, ALONE)


def test_other_commands_are_refused_under_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    done = invoke_app("tasks")
    assert done.exit_code == 2
    assert "stableprompt, process 1: `stableprompt tasks` works in one process" in done.output
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert invoke_app("tasks").exit_code == 0


@pytest.mark.parametrize("kind", ["PMI", "OMPI_COMM_WORLD", "MV2_COMM_WORLD"])
def test_of_processes_that_mpi_started_the_first_speaks_for_all(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(f"{kind}_SIZE", "2")
    told = []
    for rank in "01":
        monkeypatch.setenv(f"{kind}_RANK", rank)
        told.append(type(choose_voice(quiet=False, as_json=True)))
    assert told == [Json, Nobody]
    done = invoke_app("tasks")
    assert "stableprompt, process 1: `stableprompt tasks` works in one process" in done.output


def test_without_a_launcher_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "MASTER_ADDR", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert Ranks.launched() == ALONE


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("FSDP", "launched with FSDP version 1; version 2 alone is supported"),
        ("DEEPSPEED", "launched with DeepSpeed, which is not supported"),
    ],
)
def test_other_ways_to_split_the_agent_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(ConfigError, match=message):
        Ranks.launched()


def test_one_process_alone_splits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="launched with FSDP, which splits the agent over"):
        Ranks.launched()


def test_one_process_where_several_were_asked_for_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What `accelerate launch --cpu --num_processes 2` leaves in the environment of the one process.
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    for name in ("WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="has started one; launch them with `torchrun"):
        Ranks.launched()
