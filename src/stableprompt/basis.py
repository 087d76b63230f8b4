"""What a run rests on: written down when it begins, compared before it is resumed.

A run that goes on with other settings, data, models or versions ends with figures that nobody can
repeat. Limits and the addresses of servers are no part of it: they may be changed.
"""

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from stableprompt.config import TuneConfig
from stableprompt.errors import RunError
from stableprompt.models.identity import fingerprint, identity_of
from stableprompt.models.targets.providers import FUNCTION_PREFIX, is_api
from stableprompt.runs.folder import BASIS, RunFolder
from stableprompt.setting import versions_of
from stableprompt.speakers import adapter_folder
from stableprompt.tasks.metrics.registry import JUDGE, METRICS
from stableprompt.tasks.task import Task

_MOST_TOLD: Final = 5
_TOLD_BY_OTHERS: Final = frozenset(
    {"task", "kind", "metric", "task_fingerprint", "notes", "agent", "target", "versions"}
)
_ADDRESSES: Final = frozenset({"target.api.base_url", "judge.api.base_url"})
"""A server may move, and replicas come and go: that there is one is what counts."""
_NO_MATTER: Final = frozenset({"target.api.ask_ahead", "judge.api.ask_ahead"})
"""Settings that no figure depends on; a run that began before there were such goes on."""
_ACTORS: Final = "target.ray."
"""Of these, too: which device they compute on is among what was found."""
_CHANGED: Final = "changed"
Rests = dict[str, dict[str, Any]]


def known_before_loading(
    task: Task,
    content: Mapping[str, Any],
    config: TuneConfig,
    function: Callable[..., Any] | None,
) -> Rests:
    """What a run rests on, as far as no model need be loaded to know it.

    Args:
        task: As it is used.
        content: As ``task.json`` has it.
        config: Every setting.
        function: The target, where it is a function.
    """
    settings = config.model_dump(mode="json", exclude={"limits", "keep_checkpoints"})
    functions = {} if function is None else {"target": qualified_name(function)}
    if task.metric.name not in METRICS:
        functions["metric"] = qualified_name(inspect.unwrap(task.metric.value))
    return {
        "setting": _flat(settings),
        "data": {name: _half_sum(json.dumps(part)) for name, part in _plain(content).items()},
        "function": functions,
        "model": _models(task, config),
        "version": dict(versions_of(config)),
    }


@dataclass(slots=True)
class Basis:
    """What one run rests on, against what it rested on when it began."""

    folder: RunFolder
    now: Rests
    before: Rests | None
    """None: it begins just now."""
    changed: list[str]
    """What has changed since it began, and was accepted."""
    changed_ok: bool
    tell: Callable[[str], None]
    _new: list[str] = field(default_factory=list)

    @classmethod
    def of_new(cls, folder: RunFolder, now: Rests) -> Self:
        """Of a run that begins."""
        return cls(folder, now, None, [], changed_ok=False, tell=lambda note: None)

    @classmethod
    def of_resumed(
        cls, folder: RunFolder, now: Rests, *, changed_ok: bool, tell: Callable[[str], None]
    ) -> Self:
        """Of a run that goes on.

        Raises:
            RunError: something changed, and that was not said to be right.
        """
        before: dict[str, Any] | None = None
        if (folder.path / BASIS).is_file():
            before = _read(folder)
        elif next(folder.checkpoints.iterdir(), None) is not None:
            # Of an earlier version, or lost: nobody knows what has changed.
            before = {"version": {"stableprompt": f"unknown, for lack of {BASIS}"}}
        changed = list((before or {}).pop(_CHANGED, []))
        basis = cls(folder, now, before, changed, changed_ok, tell)
        basis._compare(now)
        return basis

    def settle(self, task: Task, config: TuneConfig, setting: dict[str, Any]) -> dict[str, Any]:
        """Compare what is known since the models are loaded, and write all of it down.

        Args:
            task: As it is used.
            config: Every setting.
            setting: What goes into the result.

        Returns:
            The setting, and what has changed since the run began.

        Raises:
            RunError: something changed, and that was not said to be right.
        """
        told = {key: value for key, value in _plain(setting).items() if key not in _TOLD_BY_OTHERS}
        # The models once more: the hub may have given newer ones.
        after: Rests = {"model": _models(task, config), "found": _flat(told)}
        self._compare(after)
        if self.before is None or self._new:
            self.folder.write_json(BASIS, {**self.now, **after, _CHANGED: self.changed})
        return {**setting, "changed_when_resumed": self.changed} if self.changed else setting

    def _compare(self, now: Rests) -> None:
        if self.before is None:
            return
        found = [told for told in differences(self.before, now) if told not in self._new]
        if not found:
            return
        listed = "; ".join(found[:_MOST_TOLD])
        more = f"; and {len(found) - _MOST_TOLD} more" if len(found) > _MOST_TOLD else ""
        if not self.changed_ok:
            raise RunError(
                f"the run in {self.folder.path} is not resumed, since something changed after it "
                f"began: {listed}{more}. Put it back, start a new run, or accept it with "
                "--changed-ok (changed_ok=True)"
            )
        self._new += found
        self.changed += found
        self.tell(f"changed since the run began: {listed}{more}")


def differences(before: Mapping[str, Any], now: Rests) -> list[str]:
    """What is not as it was, in words; of parts that both have."""
    told = []
    for name, part in now.items():
        old = before.get(name)
        if old is None:
            continue
        # A function that is missing is asked for, in better words, by whoever calls it.
        for key in part if name == "function" else dict.fromkeys([*old, *part]):
            was, is_now = old.get(key), part.get(key)
            moved = key in _ADDRESSES and None not in (was, is_now)
            no_matter = key in _NO_MATTER or key.startswith(_ACTORS)
            if was != is_now and not moved and not no_matter:
                told.append(_told(name, key, was, is_now))
    return told


def qualified_name(function: Callable[..., Any]) -> str:
    """Module and name of a function; of a script that is run, by the script's name."""
    module = str(getattr(function, "__module__", ""))
    if module == "__main__":
        module = Path(str(getattr(sys.modules["__main__"], "__file__", "__main__"))).stem
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{module}.{name}"


def _read(folder: RunFolder) -> dict[str, Any]:
    """What was written down.

    Raises:
        RunError: it is damaged.
    """
    content = folder.read_json(BASIS)
    for name, part in content.items():
        wanted = list if name == _CHANGED else dict
        if not isinstance(part, wanted):
            raise RunError(
                f"{folder.path / BASIS} cannot be read ({name!r} is {type(part).__name__}, not "
                f"{wanted.__name__}); it is damaged: take it away, look at what may have changed, "
                "and resume with --changed-ok"
            )
    return content


def _models(task: Task, config: TuneConfig) -> dict[str, str]:
    """Which weights the names in the settings stand for; those of servers cannot be known."""
    found = {"agent": identity_of(config.agent.model)}
    target = config.target.model
    if not target.startswith(FUNCTION_PREFIX) and not is_api(config.target):
        found["target"] = identity_of(target)
    judge = config.judge.model
    own = config.target.model_copy(update={"api": config.judge.api or config.target.api})
    if task.metric.name == JUDGE and judge is not None and not is_api(own, judge):
        found["judge"] = identity_of(judge)
    folder = adapter_folder(config)
    if folder is not None and folder.is_dir():
        found["adapter"] = fingerprint(folder)
    return found


def _told(name: str, key: str, old: Any, new: Any) -> str:
    if name == "data":
        return f"{key} of the data"
    what = key if name == "found" else f"{name} {key}"
    return f"{what} (was {_shown(old)}, is {_shown(new)})"


def _shown(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """As it is read back from a file: no tuples, no enumerations."""
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return plain


def _flat(content: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{before}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat


def _half_sum(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
