"""A real server as the target, `transformers serve` with the embedded model, as a user would.

Skipped where its packages (``transformers[serving]``) or the embedded model are not installed.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from stableprompt import load_named
from stableprompt.llm_config import TargetConfig
from stableprompt.models import embedded
from stableprompt.models.loading import load_model
from stableprompt.models.targets.answer_cache import AnswerCache
from stableprompt.models.targets.api import ApiTarget
from stableprompt.models.targets.local import LocalTarget
from stableprompt.tasks.templates import TargetTemplate

MISSING = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
pytestmark = [
    pytest.mark.embedded,
    pytest.mark.skipif(
        bool(MISSING), reason=f"no {', '.join(MISSING)}: pip install transformers[serving]"
    ),
    pytest.mark.skipif(
        not embedded.is_available(), reason=f"not installed: {embedded.INSTALL_HINT}"
    ),
]
PATIENCE = 120.0  # seconds until it answers
ALONE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
# One step of two prompts, and the selection of one of them.
SMALL = (
    *("--limit=train=8", "--limit=validation=6", "--limit=test=6"),
    "--method=best-of-n",
    "--steps=1",
    "--max-target-calls=50",
    "--set=dtype=float32",
    "--set=device=cpu",
    "--set=agent.num_demonstrations=3",
    "--set=ppo.prompts_per_step=2",
    "--set=reward.examples_per_step=3",
    "--set=selection.num_finalists=2",
    "--set=target.max_answer_tokens=6",
    "--set=target.position=user",  # so that it names a label now and then
    "--set=target.api.concurrency=2",
)


@dataclass
class Server:
    """A running process; it can be ended before the tests are over."""

    url: str
    model: str
    process: subprocess.Popen[bytes]

    def end(self) -> None:
        """Kill it, as a crash would."""
        self.process.kill()
        self.process.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = str(embedded.ensure_converted())
    log = tmp_path_factory.mktemp("server") / "log"
    command = [str(Path(sys.executable).with_name("transformers")), "serve", model]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    with log.open("w") as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=said, env={**os.environ, **ALONE}, cwd=log.parent
        )
        started = Server(f"http://127.0.0.1:{port}", model, process)
        try:
            _wait(started, log)
            yield started
        finally:
            started.end()


def _wait(server: Server, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if server.process.poll() is not None:
            pytest.fail(f"the server ended: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"{server.url}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"the server did not answer: {log.read_text()[-2000:]}")


def target_of(server: Server) -> ApiTarget:
    api = {"base_url": f"{server.url}/v1", "concurrency": 2}
    config = TargetConfig.model_validate({"model": server.model, "api": api})
    return ApiTarget(config, AnswerCache(None))


def test_it_writes_what_the_model_in_this_process_writes(server: Server) -> None:
    task = load_named("support")
    template = TargetTemplate("system", "prompt_first", "{text}")
    conversations = [template.messages(task.seed_prompt, e) for e in task.train[:4]]
    local = LocalTarget(
        load_model(server.model, device="cpu", dtype="float32"), max_batch_tokens=512
    )
    here = local.generate(conversations, 6)
    target = target_of(server)
    there = target.generate(conversations, 6)
    target.close()
    assert there.texts == here.texts
    assert not there.failed
    # It counts each conversation as its chat template has it, and each token that it writes.
    tokenizer = local.loaded.tokenizer
    ids = [tokenizer.apply_chat_template(c, add_generation_prompt=True) for c in conversations]
    assert there.usage.read == sum(len(one["input_ids"]) for one in ids)
    assert there.usage.written == 4 * 6


def tune(server: Server, run: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stableprompt", "tune", "support"]
    command += [f"--target={server.model}", f"--base-url={server.url}/v1", f"--run-dir={run}"]
    own = {"STABLEPROMPT_CACHE": str(cache), "OPENAI_API_KEY": "", "COLUMNS": "100"}
    return subprocess.run(
        [*command, *SMALL],
        env={**os.environ, **ALONE, **own},
        cwd=run.parent,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def read(path: Path) -> Any:
    return json.loads(path.read_text())


# The last one: it ends the server.
def test_a_run_as_a_user_makes_it_and_a_second_one_without_the_server(
    server: Server, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    converted = embedded.ensure_converted()
    (cache / converted.name).symlink_to(converted)  # the agent's; only answers are kept anew

    first = tune(server, tmp_path / "one", cache)
    assert first.returncode == 0, first.stdout + first.stderr
    result, timing = read(tmp_path / "one" / "result.json"), read(tmp_path / "one" / "timing.json")
    assert "right or wrong" in result["setting"]["answers"]  # it gives no probabilities
    calls = sum(result["cost"]["target_calls"].values())
    # Three prompts on three examples in the step; then some on six of validation and of test.
    assert 9 + 6 + 6 <= calls == result["target_calls"] <= 50
    assert result["test"]["n"] == result["seed_test"]["n"] == 6
    # All that was sent is counted: the calls, and the few that found out what it can do.
    assert calls < timing["requests"]["sent"] - timing["requests"]["retries"] <= calls + 4
    cost = result["cost"]
    assert sum(cost["target_tokens"].values()) > 40 * calls  # a template, a prompt, a text each
    assert calls <= sum(cost["target_written"].values()) <= 6 * calls
    assert sum(cost["failed"].values()) == 0
    found = read(tmp_path / "one" / "test.json")["prompts"]
    for one in found:
        assert set(one["values"]) <= {0.0, 1.0}
        pairs = zip(one["predictions"], one["values"], strict=True)
        assert all(value == 0.0 for prediction, value in pairs if prediction == "")
    mute = sum(prediction == "" for one in found for prediction in one["predictions"])
    assert cost["unmatched"]["test"] == mute
    assert 0 < sum(cost["unmatched"].values()) < calls
    for line in (tmp_path / "one" / "prompts.jsonl").read_text().splitlines():
        prompt = json.loads(line)
        assert prompt["softmax_difference"] is None
        assert prompt["fault"] or prompt["reward"] == prompt["score"]  # hard: no softmax in it
    assert f"{timing['requests']['sent']} sent" in " ".join(first.stdout.split())

    server.end()
    second = tune(server, tmp_path / "two", cache)
    assert second.returncode == 0, second.stdout + second.stderr
    assert read(tmp_path / "two" / "timing.json")["requests"]["sent"] == 0
    for name in ("result.json", "prompts.jsonl", "test.json", "best_prompt.txt"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
