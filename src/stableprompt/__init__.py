"""Find the best prompt for an LLM that you cannot retrain.

    import stableprompt

    task = stableprompt.Task.from_csv("tickets.csv", text="message", label="team")
    result = stableprompt.tune(task, agent="smollm2-135m", target="smollm2-135m", seed=0)
    print(result.prompt, result.test.score, result.test.low, result.test.high, result.test.n)

Names are imported when they are used, so that ``stableprompt --help`` answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stableprompt.version import __version__

if TYPE_CHECKING:
    from stableprompt.build import resume, tune
    from stableprompt.classifier import PromptClassifier
    from stableprompt.config import TuneConfig
    from stableprompt.errors import (
        ConfigError,
        DataError,
        ModelError,
        NumberError,
        RunError,
        RunStopped,
        StablePromptError,
        TargetError,
    )
    from stableprompt.evaluating import evaluate
    from stableprompt.exporting.formats import export
    from stableprompt.prompt_writer import PromptWriter, majority
    from stableprompt.tasks.bundled_tasks import load_bundled
    from stableprompt.tasks.example import Example, TaskKind
    from stableprompt.tasks.metrics.registry import metric_names
    from stableprompt.tasks.named import load_named
    from stableprompt.tasks.statistics import Estimate, PairedComparison
    from stableprompt.tasks.task import Task
    from stableprompt.trackers import Trackers
    from stableprompt.tuning.records import Observer, StepRecord, TuneResult

__all__ = [
    "ConfigError",
    "DataError",
    "Estimate",
    "Example",
    "ModelError",
    "NumberError",
    "Observer",
    "PairedComparison",
    "PromptClassifier",
    "PromptWriter",
    "RunError",
    "RunStopped",
    "StablePromptError",
    "StepRecord",
    "TargetError",
    "Task",
    "TaskKind",
    "Trackers",
    "TuneConfig",
    "TuneResult",
    "__version__",
    "evaluate",
    "export",
    "load_bundled",
    "load_named",
    "majority",
    "metric_names",
    "resume",
    "tune",
]

_HOMES = {
    "build": ("resume", "tune"),
    "classifier": ("PromptClassifier",),
    "config": ("TuneConfig",),
    "errors": (
        "ConfigError",
        "DataError",
        "ModelError",
        "NumberError",
        "RunError",
        "RunStopped",
        "StablePromptError",
        "TargetError",
    ),
    "evaluating": ("evaluate",),
    "exporting.formats": ("export",),
    "prompt_writer": ("PromptWriter", "majority"),
    "tasks.bundled_tasks": ("load_bundled",),
    "tasks.example": ("Example", "TaskKind"),
    "tasks.metrics.registry": ("metric_names",),
    "tasks.named": ("load_named",),
    "tasks.statistics": ("Estimate", "PairedComparison"),
    "tasks.task": ("Task",),
    "trackers": ("Trackers",),
    "tuning.records": ("Observer", "StepRecord", "TuneResult"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"stableprompt.{module}"), name)
    raise AttributeError(f"module 'stableprompt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
