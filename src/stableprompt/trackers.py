"""A run's figures to programs that draw them: TensorBoard, Weights & Biases, MLflow, Trackio.

Through the trackers of Accelerate. The names are those of ``steps.jsonl`` and ``result.json``, see
docs/metrics.md, with / between a table and its entry: ``update/anchor_kl``. Figures and settings
are sent, never an example or a prompt.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from stableprompt.errors import ConfigError
from stableprompt.runs.folder import CONFIG, RunFolder

if TYPE_CHECKING:
    from stableprompt.tuning.records import Observer, StepRecord, TuneResult

TRACKERS: Final = ("tensorboard", "wandb", "mlflow", "trackio")
PROJECT: Final = "stableprompt"
_OF_RESULT: Final = (
    "test",
    "seed_test",
    "paired",
    "validation",
    "seed_validation",
    "trivial_score",
    "target_calls",
    "cost",
)


class Trackers:
    """An observer that passes a run on to trackers, and to another observer.

    What goes wrong in a tracker never stops the run: it is told once, and the tracker gets nothing
    more. They are started with the loop and stopped by ``finish``, or at the end of a ``with``::

        with Trackers(["tensorboard"], "runs/mine") as trackers:
            result = tune(task, run_dir="runs/mine", observer=trackers)
            trackers.finish(result)

    Args:
        names: Of ``TRACKERS``.
        run_dir: Where the run is; TensorBoard's files go there, the run is named after it.
        observer: Who else is told, and reads the notes about trackers.

    Raises:
        ConfigError: there is no such tracker, or its package is not installed.
    """

    def __init__(
        self, names: Sequence[str], run_dir: str | Path, observer: "Observer | None" = None
    ) -> None:
        require_trackers(names)
        self._names = tuple(dict.fromkeys(names))
        self._folder = RunFolder(Path(run_dir))
        self._observer = observer
        self._running: dict[str, Any] = {}
        self._steps = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def on_start(self, first_step: int, steps: int) -> None:
        """Start the trackers, and give them the settings of the run."""
        if self._observer is not None:
            self._observer.on_start(first_step, steps)
        self._steps = first_step
        settings = _leaves(self._folder.read_json(CONFIG), ".")
        for name in self._names:
            self._running[name] = None
            self._try(name, partial(self._start, name, settings))

    def on_step(self, record: "StepRecord") -> None:
        """Pass the figures of a step on."""
        if self._observer is not None:
            self._observer.on_step(record)
        self._steps = record.step + 1
        figures = figures_of(asdict(record))
        self._log({n: v for n, v in figures.items() if n != "step"}, record.step)

    def on_phase(self, phase: str) -> None:
        """Pass it on."""
        if self._observer is not None:
            self._observer.on_phase(phase)

    def on_note(self, note: str) -> None:
        """Pass it on."""
        if self._observer is not None:
            self._observer.on_note(note)

    def on_calls(self, calls: int, dollars: float | None) -> None:
        """Pass it on; trackers have the figures of whole steps."""
        if self._observer is not None:
            self._observer.on_calls(calls, dollars)

    def stop_asked(self) -> bool:
        """Whether the other observer wants the run to stop."""
        return self._observer is not None and self._observer.stop_asked()

    def finish(self, result: "TuneResult | None" = None) -> None:
        """Pass the figures of the result on, if there is one, and stop the trackers."""
        if result is not None:
            content = result.to_dict()
            figures = figures_of({name: content[name] for name in _OF_RESULT})
            self._log(figures, self._steps)
        for name, tracker in list(self._running.items()):
            self._try(name, tracker.finish)
        self._running.clear()

    def _start(self, name: str, settings: dict[str, Any]) -> None:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # its log messages want to know which process this is
        run = self._folder.path.name
        options: dict[str, Any] = {"run_name": PROJECT, "name": run}
        if name == "tensorboard":
            options = {"run_name": "tensorboard", "logging_dir": str(self._folder.path)}
        elif name == "mlflow":
            options = {"experiment_name": PROJECT, "run_name": run}
        tracker = LOGGER_TYPE_TO_CLASS[name](**options)
        tracker.start()
        self._running[name] = tracker
        tracker.store_init_configuration(settings)

    def _log(self, figures: dict[str, float], step: int) -> None:
        for name, tracker in list(self._running.items()):
            self._try(name, partial(tracker.log, figures, step=step))

    def _try(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever it is, it is not worth a run
            del self._running[name]
            why = " ".join(str(error).split()) or type(error).__name__
            self.on_note(f"the tracker {name} failed and is told nothing more: {why}")


def require_trackers(names: Sequence[str]) -> None:
    """Check that the trackers can be used; none of them is loaded.

    Raises:
        ConfigError: there is no such tracker, or its package is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"the tracker {name!r} is unknown; use {', '.join(TRACKERS)}")
        if find_spec(name) is None:
            raise ConfigError(
                f"the package {name} is not installed, and is needed to report to it; install the "
                f'extra: pip install "stableprompt[{name}]"'
            )


def figures_of(content: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in a record by name, / between a table and its entry.

    What is true or false is 1 or 0; of names in a list, such as alarms, each that is there is 1.

    >>> figures_of({"mean_reward": 0.5, "update": {"anchor_kl": 0.1}, "anchor": None})
    {'mean_reward': 0.5, 'update/anchor_kl': 0.1}
    """
    leaves = _leaves(content, "/")
    return {name: float(v) for name, v in leaves.items() if isinstance(v, int | float)}


def _leaves(content: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """What is in nested tables, in one; lists are tables of what is in them."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, list | tuple):
            value = {str(item): 1 for item in value}
        if isinstance(value, Mapping):
            inner = _leaves(value, separator)
            found |= {f"{name}{separator}{key}": leaf for key, leaf in inner.items()}
        else:
            found[str(name)] = "none" if value is None else value
    return found
