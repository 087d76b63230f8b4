"""A whole run of the embedded model on one thread, beside what the planner says of it."""

import tempfile
import time
from pathlib import Path
from typing import Any, Final

from stableprompt.build import load_models, start_run
from stableprompt.config import make_config
from stableprompt.planning.plan import plan_run
from stableprompt.scaling.machines import CPU_THREAD, MachineOrder
from stableprompt.tasks.bundled_tasks import load_bundled
from stableprompt.tuning.records import Silence

SETTINGS: Final[dict[str, Any]] = {
    "steps": 3,
    "device": "cpu",
    "dtype": "float32",
    "ppo": {"prompts_per_step": 8, "replay": 4},
    "reward": {"examples_per_step": 4},
    "anchor": {"update_period": 3, "prompts_per_decision": 2, "max_examples": 8},
    "selection": {"num_finalists": 3},
}


def whole_run() -> dict[str, Any]:
    """Planned, then made; seconds are the processor's, loading left out."""
    task, config = load_bundled("support"), make_config(SETTINGS)
    plan = plan_run(task, config, MachineOrder(CPU_THREAD))
    load_models(config)  # once before: what is imported at the first model
    start = time.process_time()
    load_models(config)
    loading = time.process_time() - start
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        result = start_run(task, config, Path(folder) / "run", Silence())
        took = time.process_time() - start - loading
    made = result.cost["target_calls"]
    return {
        "settings": SETTINGS,
        "planned": {
            "seconds": plan.total_seconds,
            "calls": sum(plan.calls.values()),
            "read": sum(usage.read for usage in plan.tokens.values()),
            "parts": {name: sum(part.values()) for name, part in plan.seconds.items()},
        },
        "made": {
            "seconds": took,
            "calls": sum(made.values()),
            "read": sum(result.cost["target_tokens"].values()),
        },
    }
