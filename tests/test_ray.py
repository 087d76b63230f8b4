"""A target in actors of Ray is the one in this process, and outlives the death of actors.

Opt-in, because Ray takes hundreds of megabytes: ``make test-ray`` sets it up and runs this. What is
refused before Ray is needed is tested everywhere.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from stableprompt import build, speakers
from stableprompt.basis import differences
from stableprompt.cli.target_options import LimitOptions, settings_of_ray, target_layers
from stableprompt.config import TuneConfig, make_config
from stableprompt.errors import ConfigError, ModelError, StablePromptError, TargetError
from stableprompt.llm_config import RayConfig
from stableprompt.models.loading import load_model
from stableprompt.models.ranks import Ranks
from stableprompt.models.targets import ray_cluster
from stableprompt.models.targets.local import LocalTarget
from stableprompt.models.targets.ray_actors import RayTarget
from stableprompt.place import require_shareable
from tests.cli.conftest import COLUMNS, SMALL, invoke_app, options, write_rows
from tests.fakes.tiny_model import save_tiny_model
from tests.several.actors import load_different, load_traced, questions
from tests.test_several_processes import assert_near, bare, environment, free_port, lines

needs_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="no Ray; `make test-ray` sets it up and runs this"
)
pytestmark = pytest.mark.timeout(600)  # a cluster and two processes that load torch


def on_ray(target: str | None = None, **ray: Any) -> TuneConfig:
    return make_config({"target": {"ray": ray} | ({"model": target} if target else {})})


# --- without Ray ---


def test_the_engine_is_a_setting() -> None:
    for engine, wanted in (("ray", RayConfig()), ("process", None), (None, None)):
        layers, _ = target_layers(None, None, LimitOptions(), engine)
        config = make_config(*layers)
        assert config.target.ray == wanted
        assert make_config(config.model_dump(mode="json")) == config
    layers, _ = target_layers(None, None, LimitOptions(), "ray")
    four = make_config({"target": {"ray": {"actors": 4}}}, *layers)  # as in a file, and the flag
    assert four.target.ray == RayConfig(actors=4)


@pytest.mark.parametrize(
    ("ray", "message"),
    [
        ({"actors": 0}, "target.ray.actors"),
        ({"gpus": 1.5}, "gpus must be whole above 1"),
        ({"cpus": 0.5}, "target.ray.cpus"),
        ({"address": ""}, "target.ray.address"),
        ({"replicas": 2}, "setting 'target.ray.replicas' does not exist"),
    ],
)
def test_what_actors_cannot_be_is_refused(ray: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        on_ray(**ray)


@pytest.fixture
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("something was loaded")

    monkeypatch.setattr(speakers, "load_model", load)


def test_without_the_package_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, nothing_is_loaded: None
) -> None:
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    for load in (speakers.load_models, speakers.load_target):
        with pytest.raises(ConfigError, match=r"not installed; pip install 'stableprompt\[ray\]'"):
            load(on_ray())


def test_what_is_no_checkpoint_is_refused(nothing_is_loaded: None) -> None:
    for target in ("openai/gpt-4o-mini", "function:answer"):
        with pytest.raises(ConfigError, match=f"hold a checkpoint, and the target '{target}'"):
            speakers.load_models(on_ray(target), lambda messages: "yes")
    served = {"model": "mine", "api": {"base_url": "http://localhost:1/v1"}, "ray": {}}
    with pytest.raises(ConfigError, match="leave --target-engine"):
        speakers.load_models(make_config({"target": served}))


def test_actors_of_several_processes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"target of one process, it was launched with 2"):
        require_shareable(on_ray(), Ranks(0, 2))
    require_shareable(on_ray(), Ranks())


def test_a_judge_is_loaded_in_this_process(tmp_path: Path) -> None:
    judge = str(save_tiny_model(tmp_path / "judge"))
    assert isinstance(speakers.load_target(on_ray(), judge), LocalTarget)


def test_what_actors_there_are_makes_no_difference_to_a_run() -> None:
    def rests(**ray: Any) -> dict[str, dict[str, Any]]:
        return {"setting": {f"target.ray.{name}": value for name, value in ray.items()}}

    before = rests(actors=2, address=None, gpus=None)
    assert differences(before, rests(actors=3, address="auto", gpus=1.0)) == []
    # A run that began before there were such settings has none of them.
    assert differences({"setting": {}}, {"setting": {"target.ray": None}}) == []
    here, there = ({"found": {"answers": f"probabilities{how}"}} for how in ("", ", in actors"))
    assert differences(here, there) != []  # rounding is not the same


def test_a_resumed_run_may_have_other_actors_and_nothing_else(tmp_path: Path) -> None:
    layers = [{"target": {"ray": {"actors": 1}}}, {"target": {"ray": {"address": "auto"}}}]
    assert settings_of_ray(layers) == {"actors": 1, "address": "auto"}
    assert settings_of_ray([]) == {}
    assert settings_of_ray([*layers, {"steps": 3}]) is None
    for target in ({"model": "other"}, {"ray": {"actors": 1}, "format": "plain"}, {}):
        with pytest.raises(ConfigError, match="a resumed run keeps its target"):
            build.resume(tmp_path, target=target)
    for more in (["--target-engine", "ray"], ["--set", "target.format=plain"]):
        done = invoke_app("tune", "--resume", str(tmp_path), *more)
        assert done.exit_code == 2
        assert "--resume takes data and settings from the run folder" in done.output


# --- with Ray ---


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def quiet(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Ray says nothing that we did not say."""
    yield
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def started(folder: Path, model: Path, load: Any = load_traced, **ray: Any) -> RayTarget:
    return RayTarget(partial(load, folder, model), RayConfig(gpus=0, **ray))


def noted(folder: Path, what: str) -> list[str]:
    """The actors that did it, by their processes."""
    return [line.split()[0] for line in (folder / what).read_text(encoding="utf-8").splitlines()]


@needs_ray
def test_actors_give_the_answers_of_one_process(tmp_path: Path, model: Path, quiet: None) -> None:
    alone = LocalTarget(load_model(str(model), device="cpu", dtype="float32"))
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    target = started(tmp_path, model)
    try:
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
        asked, words = questions()
        found, wanted = (one.label_scores(asked, words) for one in (target, alone))
        torch.testing.assert_close(found.label_probs, wanted.label_probs, rtol=0, atol=1e-5)
        assert found.usage == wanted.usage  # what all share is counted once
        assert target.generate(asked, 5) == alone.generate(asked, 5)
        again = target.label_scores(asked, words)
        assert torch.equal(again.label_probs, found.label_probs)  # whoever had which portion
        [one] = target.label_scores(asked[:1], words[:1]).label_probs.tolist()
        assert one == pytest.approx(found.label_probs[0].tolist(), abs=1e-5)
        assert target.markup() == alone.markup()
        assert target.num_tokens("a red one") == alone.num_tokens("a red one")
        assert [target.fits(asked[0], room) for room in (0, 10_000)] == [True, False]
        loaded, answered = (noted(tmp_path, what) for what in ("loaded", "answered"))
        assert len(loaded) == len(set(loaded)) == 2  # each once
        assert set(answered) == set(loaded)  # and both worked
        assert target.how == "probabilities of the answers, in actors of Ray"
        held = {"target_dtype": "float32", "target_device": "cpu"}
        assert target.held.items() >= held.items()
        told = target.requests["actors"].values()
        assert all(one["done"] > 5 and one["lost"] == 0 for one in told)
    finally:
        target.close()


@needs_ray
def test_other_numbers_of_actors_give_the_same_figures(tmp_path: Path, model: Path) -> None:
    asked, words = questions()
    found = []
    for actors in (1, 2):
        target = started(tmp_path, model, actors=actors)
        try:
            found.append(target.label_scores(asked, words))
        finally:
            target.close()
    assert torch.equal(found[0].label_probs, found[1].label_probs)  # to the last bit
    assert found[0].usage == found[1].usage


@needs_ray
def test_what_one_that_dies_had_is_done_by_others(tmp_path: Path, model: Path, quiet: None) -> None:
    alone = LocalTarget(load_model(str(model), device="cpu", dtype="float32"))
    notes: list[str] = []
    target = started(tmp_path, model)
    target.tell = notes.append
    try:
        asked, words = questions("a dangerous one")
        found, wanted = (one.label_scores(asked, words) for one in (target, alone))
        torch.testing.assert_close(found.label_probs, wanted.label_probs, rtol=0, atol=1e-5)
        assert found.usage == wanted.usage
        assert sum(one["lost"] for one in target.requests["actors"].values()) == 1
        [note] = notes
        assert "is lost (" in note and note.endswith("another one is begun in its place")
        end = time.monotonic() + 120
        while not set(noted(tmp_path, "loaded")[2:]) & set(noted(tmp_path, "answered")):
            assert time.monotonic() < end  # the new one works, too
            target.label_scores(asked, words)
        with pytest.raises(TargetError, match=r"none of the 2 actors .* resume the run"):
            target.label_scores(*questions("a deadly one"))
    finally:
        target.close()


@needs_ray
def test_errors_of_an_actor_come_out_as_they_are(tmp_path: Path, model: Path, quiet: None) -> None:
    target = started(tmp_path, model)
    try:
        with pytest.raises(TargetError, match=r"^this target refuses; resume the run$"):
            target.label_scores(*questions("refused"))
        asked, words = questions()
        with pytest.raises(ModelError, match="cannot tell the label words red, red apart"):
            target.label_scores(asked, [["red", "red"] for _ in words])
        assert len(target.label_scores(asked, words).label_probs) == len(asked)  # it goes on
    finally:
        target.close()
    config = make_config({"device": "cpu", "target": {"model": str(tmp_path), "ray": {}}})
    with pytest.raises(ModelError, match=r"model .* cannot be loaded|config.json"):
        speakers.load_target(config)


@needs_ray
@pytest.mark.parametrize(
    ("ray", "message"),
    [
        ({"actors": 500}, r"500 actors with 1 CPU each, and the cluster has \d+ CPU"),
        ({"gpus": 9.0}, r"1 CPU and 9 GPU each, and the cluster has \d+ CPU .* GPU \(\d+ free\)"),
        ({"address": "127.0.0.1:1"}, "no Ray cluster can be reached at '127.0.0.1:1'"),
        ({"address": "nowhere"}, "no Ray cluster can be reached at 'nowhere'"),
    ],
)
def test_a_cluster_without_room_or_none_at_all_is_said_at_once(
    tmp_path: Path, model: Path, quiet: None, ray: dict[str, Any], message: str
) -> None:
    begun = time.monotonic()
    with pytest.raises(StablePromptError, match=message):
        RayTarget(partial(load_traced, tmp_path, model), RayConfig(**({"gpus": 0} | ray)))
    assert time.monotonic() - begun < 120


@needs_ray
def test_actors_that_hold_different_targets_are_refused(tmp_path: Path, model: Path) -> None:
    with pytest.raises(TargetError, match="the actors do not hold the same target"):
        started(tmp_path, model, load_different)


@needs_ray
def test_a_program_that_is_on_a_cluster_keeps_it(tmp_path: Path, model: Path) -> None:
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        target = started(tmp_path, model, actors=1)
        target.close()
        assert ray.is_initialized()
        # The places of others are not free: it says so, and does not wait for ever.
        other = started(tmp_path, model)
        try:
            with pytest.raises(ConfigError, match=r"the cluster has 2 CPU \(0 free\)"):
                started(tmp_path, model, start_seconds=1)
        finally:
            other.close()
    finally:
        ray.shutdown()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A folder with the same run in this process, ``here``, and in actors, ``there``."""
    folder = tmp_path_factory.mktemp("runs")
    write_rows(folder / "rows.csv", 60)
    for name, more in (("here", []), ("there", ["--target-engine", "ray"])):
        done = launch(folder, model, name, *more)
        out, complained = done.communicate(timeout=300)
        assert (done.returncode, complained) == (0, NOTHING_BETTER.format(name))
        assert out.strip() == (folder / name / "best_prompt.txt").read_text().strip()
        assert left_over(done.pid) == []
    return folder


NOTHING_BETTER = "{}: no improvement found: nothing that was seen is better than the seed prompt\n"


def launch(
    folder: Path, model: Path, name: str, *more: str, env: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """The program in a session of its own, so that what it leaves behind can be seen."""
    command = [sys.executable, "-m", "stableprompt", "tune", "--quiet"]
    if name:
        command += ["rows.csv", *COLUMNS, *options(*SMALL, "steps=3"), "--run-dir", name]
        command += ["--agent", str(model), "--target", str(model)]
    return subprocess.Popen(
        [*command, *more],
        cwd=folder,
        env=env or environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def left_over(session: int, *, besides: tuple[str, ...] = ()) -> list[str]:
    """Processes of a session that are still there after a while."""
    for _ in range(300):
        found = []
        for place in Path("/proc").glob("[0-9]*/stat"):
            try:
                name, fields = place.read_text().rsplit(")", 1)
            except OSError:  # it has just ended
                continue
            mine = fields.split()[3] == str(session) and fields.split()[0] != "Z"
            if mine and not name.endswith(besides):
                found.append(name)
        if not found:
            return []
        time.sleep(0.1)
    return found


@needs_ray
def test_a_run_in_actors_is_the_run_in_this_process(runs: Path) -> None:
    here, there = runs / "here", runs / "there"
    for file in ("steps.jsonl", "prompts.jsonl", "pairs.jsonl"):
        found, wanted = bare(lines(there / file)), bare(lines(here / file))
        assert wanted
        assert_near(found, wanted, file)
    found, wanted = (json.loads((at / "result.json").read_text()) for at in (there, here))
    assert found["setting"].pop("answers") == "probabilities of the answers, in actors of Ray"
    assert wanted["setting"].pop("answers") == "probabilities of the answers, in this process"
    for name in ("target_device", "target_identity", "target_dtype"):
        found["setting"].pop(name)
    assert_near(found, wanted, "result.json")
    assert found["cost"] == wanted["cost"]  # each call, and each token
    told = json.loads((there / "timing.json").read_text())["requests"]["actors"]
    assert set(told) == {"0", "1"}
    assert min(one["done"] for one in told.values()) > 0


@needs_ray
def test_a_run_that_is_stopped_goes_on_with_other_actors(runs: Path, model: Path) -> None:
    process = launch(runs, model, "stopped", "--target-engine", "ray")
    try:
        wait_for(runs / "stopped" / "steps.jsonl", process)
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C: Ray's processes get it, too
        out, told = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, told
    assert out == ""
    assert "continue with: stableprompt tune --resume stopped" in told
    assert left_over(process.pid) == []
    again = launch(runs, model, "", "--resume", "stopped", "--set", "target.ray.actors=1")
    _, told = again.communicate(timeout=300)
    assert (again.returncode, told) == (0, NOTHING_BETTER.format("stopped"))
    found, wanted = (
        json.loads((runs / name / "result.json").read_text()) for name in ("stopped", "there")
    )
    assert bare(found) == bare(wanted)  # to the last bit
    timing = json.loads((runs / "stopped" / "timing.json").read_text())
    assert set(timing["requests"]["actors"]) == {"0"}


@needs_ray
def test_a_program_that_is_killed_takes_its_cluster_with_it(runs: Path, model: Path) -> None:
    process = launch(runs, model, "killed", "--target-engine", "ray")
    try:
        wait_for(runs / "killed" / "steps.jsonl", process)
    finally:
        process.kill()
    process.communicate()
    # These two look only once a minute whether the others are still there.
    assert left_over(process.pid, besides=("(ray::DashboardA", "(ray::RuntimeEnv")) == []


def wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    """Until something stands in a file of a run."""
    end = time.monotonic() + 240
    while not (file.is_file() and file.stat().st_size):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@needs_ray
def test_an_estimate_and_an_evaluation_take_the_engine_as_well(
    runs: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    actors = ["--target", str(model), "--target-engine", "ray", *options("target.ray.actors=1")]
    small = [*options(*SMALL), "--agent", str(model)]
    done = invoke_app("estimate", "rows.csv", *COLUMNS, *small, *actors)
    assert done.exit_code == 0, done.output
    assert "1 Ray actors" in " ".join(done.output.split())
    scored = []
    for more in (actors, ["--target", str(model)]):
        held = options("dtype=float32", "device=cpu")
        prompt = ["--prompt", "Which colour is it?"]
        done = invoke_app("evaluate", "rows.csv", *COLUMNS, *prompt, *held, *more)
        assert done.exit_code == 0, done.output
        scored.append(done.output)
    assert scored[0] == scored[1]


def wait_until_open(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"no cluster: {log.read_text()[-2000:]}")


@needs_ray
def test_a_cluster_that_is_there_is_used_and_left(runs: Path, model: Path) -> None:
    port = free_port()
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "of-this-test-alone-" + "0" * 24}
    own = environment(**secret, RAY_USAGE_STATS_ENABLED=0)
    head = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    head += ["--port", str(port), "--num-cpus", "2", "--include-dashboard", "false"]
    with (runs / "head.log").open("w") as log:
        cluster = subprocess.Popen(head, env=own, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until_open(port, cluster, runs / "head.log")
        more = ["--target-engine", "ray", "--set", f"target.ray.address=127.0.0.1:{port}"]
        for name in ("first", "second"):
            process = launch(runs, model, name, *more, env=own)
            _, told = process.communicate(timeout=300)
            assert (process.returncode, told) == (0, NOTHING_BETTER.format(name))
            assert cluster.poll() is None
        found, wanted = (
            json.loads((runs / name / "result.json").read_text()) for name in ("second", "there")
        )
        assert bare(found) == bare(wanted)
    finally:
        cluster.terminate()
        cluster.wait(60)
    assert left_over(cluster.pid) == []
