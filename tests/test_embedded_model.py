"""The embedded model and its bundled writer, for real: a real instruct LLM, no download.

Skipped where the packages that carry and read it are not installed.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stableprompt.build import bundled_writer, load_models
from stableprompt.config import make_config
from stableprompt.models import embedded
from stableprompt.models.agent import AgentLLM
from stableprompt.models.targets.interface import TargetLLM
from stableprompt.tasks.bundled_tasks import load_bundled
from stableprompt.tasks.meta_prompts import MetaPrompt
from stableprompt.tasks.templates import TargetTemplate
from stableprompt.tuning.randomness import derive_uniforms

pytestmark = [
    pytest.mark.embedded,
    pytest.mark.skipif(
        not embedded.is_available(), reason=f"not installed: {embedded.INSTALL_HINT}"
    ),
]


@pytest.fixture(scope="module")
def models() -> tuple[AgentLLM, TargetLLM]:
    """Agent and target on one copy of the weights."""
    agent, target = load_models(make_config())
    return agent, target


def test_one_copy_of_the_weights_serves_agent_and_target(
    models: tuple[AgentLLM, TargetLLM],
) -> None:
    agent, _ = models
    base = sum(p.numel() for n, p in agent.model.named_parameters() if ".lora_" not in n)
    adapters = sum(p.numel() for n, p in agent.model.named_parameters() if ".lora_" in n)
    assert base == 134_515_008  # SmolLM2-135M, once
    assert adapters < 0.02 * base  # policy and anchor together


def test_the_bundled_writer_is_a_small_safetensors_adapter() -> None:
    files = {path.name: path.stat().st_size for path in bundled_writer().iterdir()}
    assert set(files) == {"adapter_config.json", "adapter_model.safetensors", "MODEL_CARD.md"}
    assert files["adapter_model.safetensors"] < 4_000_000


def test_the_writer_writes_finished_instructions_about_the_task(
    models: tuple[AgentLLM, TargetLLM],
) -> None:
    agent, _ = models
    shown = [
        ("Grill the fish four minutes a side", "dinner"),
        ("Porridge with honey and walnuts", "breakfast"),
        ("Poached eggs on toast", "breakfast"),
        ("Slow roast lamb with potatoes", "dinner"),
    ]
    messages = MetaPrompt().messages("Sort it.", ["breakfast", "dinner"], shown)
    query_ids = agent.query_ids(messages)
    responses = agent.sample(query_ids, derive_uniforms(0, "test", rows=8, length=40))
    # The plain model seldom ends within 40 tokens and seldom speaks of the task at all.
    assert sum(responses.truncated) <= 2
    about = ("meal", "dish", "food", "recipe", "breakfast", "dinner", "cook")
    assert sum(any(word in text.lower() for word in about) for text in responses.texts) >= 4


def test_the_target_ignores_the_adapters(models: tuple[AgentLLM, TargetLLM]) -> None:
    agent, target = models
    task = load_bundled("support")
    template = TargetTemplate("system", "prompt_first", "{text}")
    conversations = [template.messages(task.seed_prompt, e) for e in task.train[:8]]
    words = [task.answer_words(example) for example in task.train[:8]]
    before = target.label_scores(conversations, words).label_probs
    with torch.no_grad():
        for parameter in agent.adapted.parameters():
            parameter.add_(0.05)
    after = target.label_scores(conversations, words).label_probs
    assert torch.equal(before, after)


@pytest.mark.skipif(sys.platform != "linux", reason="reads resident memory from /proc")
def test_the_peak_of_a_step_is_bounded(tmp_path: Path) -> None:
    """Write 4 prompts, score them on 8 examples, learn: in a process of its own.

    What is not weights is mostly what the update keeps of each token for its backward pass.
    """
    model = {"model": embedded.EMBEDDED_NAME}
    settings = {"device": "cpu", "dtype": "float32", "agent": model, "target": model}
    workload = {"settings": settings, "num_prompts": 4, "num_examples": 8}
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"data_dir": None, "workload": workload}), encoding="utf-8")
    script = Path(__file__).parent.parent / "benchmarks" / "peak.py"
    done = subprocess.run(
        [sys.executable, str(script), "ours", str(request)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    weights = 4 * 134_515_008  # bytes, once, in float32
    # Three copies of the weights alone would be as much.
    assert weights < found["peak"] - found["before"] < 3 * weights
