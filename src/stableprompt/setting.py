"""What a reader needs to judge or repeat the figures of a run; nothing of this machine's paths."""

import platform
from importlib.metadata import version
from typing import Any

from stableprompt.config import TuneConfig
from stableprompt.models.agent import AgentLLM
from stableprompt.models.hardware import options_of, pick_hardware
from stableprompt.models.loading import public_name
from stableprompt.models.targets.interface import TargetLLM
from stableprompt.models.targets.ray_actors import RayTarget
from stableprompt.tasks.splits import SPLIT_NAMES
from stableprompt.tasks.task import Task
from stableprompt.tuning.room import answer_room
from stableprompt.version import __version__


def setting_of(
    task: Task, config: TuneConfig, agent: AgentLLM, target: TargetLLM
) -> dict[str, Any]:
    """Task, models, precision and versions, for ``result.json``."""
    return {
        "task": task.name,
        "kind": task.kind,
        "metric": task.metric.name,
        "task_fingerprint": task.fingerprint(),
        "examples": {name: len(task.splits.part(name)) for name in SPLIT_NAMES},
        "notes": list(task.notes),
        "agent": public_name(config.agent.model),
        "target": public_name(config.target.model),
        "answers": target.how,
        "max_answer_tokens": answer_room(task, config, target),
        **_how_it_ran(config, agent),
        **(target.held if isinstance(target, RayTarget) else {}),
        "versions": versions_of(config),
    }


def versions_of(config: TuneConfig) -> dict[str, str]:
    """Of the packages that figures depend on."""
    packages = ["torch", "transformers", "peft"]
    if "4bit" in (config.quantize, config.target.quantize):
        packages.append("bitsandbytes")
    return {
        "python": platform.python_version(),
        "stableprompt": __version__,
        **{name: version(name) for name in packages},
    }


def _how_it_ran(config: TuneConfig, agent: AgentLLM) -> dict[str, Any]:
    """Precision and device, with every "auto" decided; of the target only what differs."""
    own = pick_hardware(**options_of(config))
    other = pick_hardware(**options_of(config, config.target))
    found: dict[str, Any] = {
        "dtype": str(agent.loaded.model.dtype).removeprefix("torch."),
        "attention": agent.loaded.model.config._attn_implementation,
        "compile": own.compile,
        "quantize": own.quantize,
        "device": agent.loaded.device.type,
    }
    if other.dtype != own.dtype:
        found["target_dtype"] = str(other.dtype).removeprefix("torch.")
    if other.quantize != own.quantize:
        found["target_quantize"] = other.quantize
    return found
