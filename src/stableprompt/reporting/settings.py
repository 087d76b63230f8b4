"""The settings of a run for a reader: what differs from the defaults, and how to run it again."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from stableprompt.config import make_config
from stableprompt.errors import ConfigError
from stableprompt.presets import flattened
from stableprompt.reporting.reading import Run
from stableprompt.runs.folder import CONFIG, TASK
from stableprompt.tasks.metrics.registry import METRICS

# An absolute path or one in a home folder; and what could be a key in an address.
_PATH: Final = re.compile(r"^(~|/|[A-Za-z]:[\\/])")
_FUNCTION: Final = "function:"  # as models/ writes it, which is above this floor
_LOGIN: Final = re.compile(r"(?<=//)[^/@\s]+@")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting by its dotted name."""

    name: str
    value: str
    default: str | None
    """What the method sets; None where this version does not know the setting."""

    @property
    def differs(self) -> bool:
        """Whether it was set to something else."""
        return self.value != self.default


def settings_of(run: Run) -> list[Setting]:
    """Every setting, beside what the run's method would have without any."""
    if run.config is None:
        return []
    flat = flattened(run.config)
    method = run.config.get("method")
    try:
        defaults = flattened(make_config({"method": method}).model_dump(mode="json"))
    except ConfigError:  # of a later version, or no method at all
        defaults = {}
    return [
        Setting(name, shareable(value), shareable(defaults[name]) if name in defaults else None)
        for name, value in flat.items()
    ]


def shareable(value: Any) -> str:
    """A setting as text, without the folders of a machine: pages are sent to others."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping | list):
        return str(value)
    text = _LOGIN.sub("", str(value))
    return re.split(r"[\\/]", text.rstrip("\\/"))[-1] if _PATH.match(text) else text


def command_of(run: Run) -> str | None:
    """The command that runs it again on its own examples, from the folder above the run folder.

    Functions of the user's own are named as they were; a module that no file tells is MODULE.
    """
    if run.config is None or run.task is None:
        return None
    command = ["stableprompt", "tune", f"{run.name}/{TASK}", "--config", f"{run.name}/{CONFIG}"]
    if run.task.metric not in METRICS:
        command += ["--metric", f"MODULE:{run.task.metric}"]
    target = run.config.get("target")
    model = str(target.get("model")) if isinstance(target, Mapping) else ""
    if model.startswith(_FUNCTION):
        name = model.removeprefix(_FUNCTION)
        command += ["--target", name if ":" in name else f"MODULE:{name}"]
    return shlex.join(command)
