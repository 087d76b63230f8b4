"""A real vLLM as the target: its probabilities are those of the same model in this process.

Opt-in, because vLLM takes gigabytes of packages: ``make test-vllm`` sets it up and runs this.
"""

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from stableprompt import load_named
from stableprompt.llm_config import TargetConfig
from stableprompt.models.embedded import ensure_converted
from stableprompt.models.loading import load_model
from stableprompt.models.targets.answer_cache import AnswerCache
from stableprompt.models.targets.api import ApiTarget
from stableprompt.models.targets.local import LocalTarget
from stableprompt.tasks.templates import TargetTemplate

PYTHON = os.environ.get("STABLEPROMPT_VLLM", "")
pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="no vLLM; `make test-vllm` sets it up and runs this"),
    pytest.mark.timeout(900),
]
PATIENCE = 600.0  # seconds until it answers


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "log"
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(ensure_converted()), "--served-model-name", "smollm2"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--max-model-len", "1024", "--max-num-seqs", "8", "--enforce-eager"]
    own = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=said, env={**os.environ, **own}, cwd=log.parent
        )
        try:
            _wait(process, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(60)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if process.poll() is not None:
            pytest.fail(f"vLLM ended: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(1)
    pytest.fail(f"vLLM did not answer: {log.read_text()[-2000:]}")


def test_choices_are_those_of_the_model_in_this_process(server: str) -> None:
    task = load_named("support")
    template = TargetTemplate()
    prompts = [task.seed_prompt, "What is the issue here?"]
    examples = task.validation[:12]
    asked = [template.messages(prompt, e) for prompt in prompts for e in examples]
    words = [task.answer_words(e) for _ in prompts for e in examples]
    # Of these the last two share their first token, and take several each.
    longer = [("payment", "delivery", "unaccountable", "unaccounted for")] * len(asked)

    local = LocalTarget(load_model("smollm2-135m", dtype="float32", device="cpu"))
    api = {"base_url": server, "timeout_seconds": 120}
    config = TargetConfig.model_validate({"model": "smollm2", "api": api})
    remote = ApiTarget(config, AnswerCache(None))
    try:
        assert remote.dialect.token_ids
        for own in (words, longer):
            here = local.label_scores(asked, own).label_probs
            there = remote.label_scores(asked, own)
            assert not there.failed
            torch.testing.assert_close(there.label_probs, here, atol=5e-4, rtol=0)
    finally:
        remote.close()


def test_written_answers_are_those_of_the_model_in_this_process(server: str) -> None:
    asked = [
        [{"role": "user", "content": f"What is the capital of {c}?"}] for c in ("France", "Spain")
    ]
    local = LocalTarget(load_model("smollm2-135m", dtype="float32", device="cpu"))
    config = TargetConfig.model_validate({"model": "smollm2", "api": {"base_url": server}})
    remote = ApiTarget(config, AnswerCache(None))
    try:
        assert remote.generate(asked, 12).texts == local.generate(asked, 12).texts
    finally:
        remote.close()
