"""Several methods on the same tasks at the same budget: plan, run, resume.

A comparison is a folder: ``plan.json`` says what is compared, ``runs/TASK/ARM/SEED`` is a run
folder each. What is done is not done again; what was interrupted goes on where it stopped.
Everything but the arms' own settings is the same for all: data, splits, templates, target,
starting adapter, seeds, selection on validation, and the number of target calls.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, Final

from stableprompt.build import resume, start_run
from stableprompt.config import TuneConfig, make_config, merge
from stableprompt.errors import ConfigError, RunError
from stableprompt.models.memory import free_memory, settle_worker
from stableprompt.presets import METHODS, Method
from stableprompt.runs.checkpoints import keep_last
from stableprompt.runs.folder import CHECKPOINTS, RESULT, RunFolder
from stableprompt.runs.lock import alone
from stableprompt.runs.names import folder_name
from stableprompt.studies.cell import Arm, CellRecord, keep, kept, record_of
from stableprompt.studies.peers.registry import PEERS
from stableprompt.tasks.archive import task_from_dict, task_to_dict
from stableprompt.tasks.metrics.registry import METRICS
from stableprompt.tasks.task import Task
from stableprompt.tuning.budget import require_enough_budget
from stableprompt.tuning.records import Observer, Silence

PLAN: Final = "plan.json"
_RUNS_OF_A_PROCESS: Final = 5
_OF_THE_PLAN: Final = frozenset({"method", "seed", "budget", "keep_checkpoints"})
MOST_STEPS: Final = 1000  # where a budget decides: of a policy that asks nothing new any more


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared."""

    tasks: tuple[Task, ...]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    budget: int
    """Target calls of each run: training, anchor decisions and selection."""
    settings: Mapping[str, Any]
    """Nested settings that all arms share."""

    def __post_init__(self) -> None:
        for name, given in (
            ("task", [task.name for task in self.tasks]),
            ("method", [arm.name for arm in self.arms]),
            ("seed", [str(seed) for seed in self.seeds]),
        ):
            if not given:
                raise ConfigError(f"a comparison needs at least one {name}, found none")
            twice = sorted({one for one in given if given.count(one) > 1})
            if twice:
                raise ConfigError(f"the {name} {twice[0]!r} is given twice; give it once")
        for layer in (self.settings, *(arm.settings for arm in self.arms)):
            taken = sorted(_OF_THE_PLAN & layer.keys())
            if taken:
                raise ConfigError(
                    f"{taken[0]} is the comparison's own; use --methods, --seeds and --budget"
                )
        _require_distinct_folders("methods", [arm.name for arm in self.arms])
        _require_distinct_folders("tasks", [task.name for task in self.tasks])
        for task in self.tasks:
            if task.metric.together is not None:
                raise ConfigError(
                    f"task {task.name!r} is scored by {task.metric.name!r}, which is no mean over "
                    "examples: runs cannot be compared example by example; choose another --metric"
                )
            for arm in self.arms:
                require_enough_budget(task, self.config(arm, self.seeds[0]))

    def config(self, arm: Arm, seed: int) -> TuneConfig:
        """The settings of one run.

        Raises:
            ConfigError: an unknown method, or a setting that does not exist or is out of range.
        """
        if arm.method not in METHODS and arm.method not in PEERS:
            raise ConfigError(
                f"method {arm.method!r} is unknown; use one of {', '.join([*METHODS, *PEERS])}"
            )
        # A peer writes with the frozen agent: of our settings it needs the models' alone.
        method = arm.method if arm.method in METHODS else "best-of-n"
        fixed: dict[str, Any] = {
            "method": method,
            "seed": seed,
            "budget": self.budget,
            "selection": {"learning_curve": True, "paper_protocol": True},
        }
        own = METHODS[method]
        steps = {} if "steps" in own else {"steps": MOST_STEPS}
        if "steps" in own:  # a method without a loop gets none by a setting for all
            fixed["steps"] = own["steps"]
        if "steps" in own or arm.method in PEERS:  # and trains no writer
            fixed["per_input"] = {"mode": "never"}
        if arm.method == Method.SEED:
            fixed["selection"] |= {"num_demonstrations": 0}
        if "demonstration_sets" in own.get("selection", {}):  # as many as the budget pays for
            fixed["selection"] |= {"demonstration_sets": self.budget}
        return make_config(steps, dict(self.settings), dict(arm.settings), fixed)

    def cells(self) -> Iterator["Cell"]:
        """Every run, seed by seed, so that an interrupted comparison has whole seeds."""
        for seed in self.seeds:
            for task in self.tasks:
                for arm in self.arms:
                    yield Cell(task.name, arm, seed)

    def task(self, name: str) -> Task:
        """The task with a name."""
        return next(task for task in self.tasks if task.name == name)

    def to_dict(self) -> dict[str, Any]:
        """For ``plan.json``: all that a figure depends on but the code."""
        return {
            "budget": self.budget,
            "settings": dict(self.settings),
            "tasks": {task.name: task.fingerprint() for task in self.tasks},
            "arms": {arm.name: {"method": arm.method, **arm.settings} for arm in self.arms},
            "seeds": list(self.seeds),
        }


def _require_distinct_folders(what: str, names: Sequence[str]) -> None:
    if len({folder_name(name) for name in names}) < len(names):
        raise ConfigError(f"two {what} have names that differ in punctuation alone")


@dataclass(frozen=True, slots=True)
class Cell:
    """One run that is to be made."""

    task: str
    arm: Arm
    seed: int

    def path(self, folder: Path) -> Path:
        """Its run folder."""
        task, arm = folder_name(self.task), folder_name(self.arm.name)
        return folder / "runs" / task / arm / str(self.seed)


Listener = Callable[[CellRecord, int, int], None]
"""Is told of each run that is done: its record, how many are done, and of how many."""


def run_comparison(
    plan: Plan, folder: Path, *, workers: int, told: Listener, observer: Observer | None = None
) -> list[CellRecord]:
    """Make every run of a plan that is not done yet.

    Args:
        plan: What is compared.
        folder: Where it is written down; a folder of the same plan is continued, and may get more
            tasks, arms and seeds.
        workers: Processes, each with its share of the processor's cores.
        told: Hears of each run.
        observer: Told how each run goes, and asked whether to stop, where one process does it all.

    Raises:
        RunStopped: the observer asked for it; the same call goes on.
        RunError: the folder holds something else, was made with another budget or settings, or
            another process is at it.
        ConfigError: processes of their own cannot be given a metric of the user's own.
    """
    for task in plan.tasks if workers > 1 else ():
        if task.metric.name not in METRICS:
            raise ConfigError(
                f"the metric {task.metric.name!r} is a function of your own, which cannot be "
                "handed to other processes; use --workers 1"
            )
    # Two at once would delete each other's runs. Beside the folder, which may be there or not.
    names = {"lock": f".{folder.name}.lock", "holder": f".{folder.name}.holder"}
    with alone(folder.parent, f"the comparison in {folder}", **names):
        _claim(plan, folder)
        paths = [cell.path(folder) for cell in plan.cells()]
        done = {path: record for path in paths if (record := kept(path)) is not None}
        left = [cell for cell in plan.cells() if cell.path(folder) not in done]
        for cell, record in _run_all(plan, left, folder, workers, observer or Silence()):
            done[cell.path(folder)] = record
            told(record, len(done), len(paths))
    return [done[path] for path in paths]


def finished(plan: Plan, folder: Path) -> list[CellRecord]:
    """What the folder has on a plan's tasks and seeds, by methods of earlier calls too."""
    arms = {arm.name: arm for arm in plan.arms}
    for name, own in RunFolder(folder).read_json(PLAN)["arms"].items():
        settings = {key: value for key, value in own.items() if key != "method"}
        arms.setdefault(name, Arm(name, own["method"], settings))
    cells = [
        Cell(task.name, arm, seed)
        for seed in plan.seeds
        for task in plan.tasks
        for arm in arms.values()
    ]
    return [record for cell in cells if (record := kept(cell.path(folder))) is not None]


def _run_all(
    plan: Plan, cells: Sequence[Cell], folder: Path, workers: int, observer: Observer
) -> Iterator[tuple[Cell, CellRecord]]:
    if workers == 1:
        for cell in cells:
            task, config = plan.task(cell.task), plan.config(cell.arm, cell.seed)
            yield cell, run_cell(cell, task, config, cell.path(folder), observer)
        return
    # Fresh processes now and then: what memory a run does not give back goes with its process.
    # (``max_tasks_per_child`` would say it, but can hang: python/cpython#115634.)
    size = workers * _RUNS_OF_A_PROCESS
    for start in range(0, len(cells), size):
        yield from _run_some(plan, cells[start : start + size], folder, workers)


def _run_some(
    plan: Plan, cells: Sequence[Cell], folder: Path, workers: int
) -> Iterator[tuple[Cell, CellRecord]]:
    threads = max(1, (os.cpu_count() or 1) // workers)
    others = set(active_children())
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_settle, initargs=(threads,)
    ) as pool:
        waiting = {
            pool.submit(
                _run_apart,
                cell,
                task_to_dict(plan.task(cell.task)),
                plan.config(cell.arm, cell.seed).model_dump(mode="json"),
                cell.path(folder),
            ): cell
            for cell in cells
        }
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except KeyboardInterrupt:  # at once: each run goes on from its last step
            for worker in set(active_children()) - others:
                worker.terminate()
            raise
        finally:  # an error or an interrupt: what has not begun does not begin
            pool.shutdown(wait=False, cancel_futures=True)


def _settle(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, meant for all: we are told
    settle_worker(threads)


def _run_apart(cell: Cell, task: dict[str, Any], config: dict[str, Any], path: Path) -> CellRecord:
    return run_cell(cell, task_from_dict(task), make_config(config), path)


def run_cell(
    cell: Cell, task: Task, config: TuneConfig, path: Path, observer: Observer | None = None
) -> CellRecord:
    """Make one run, or finish it, and keep its record.

    Args:
        cell: What it is called.
        task: Its data.
        config: Its settings.
        path: Its run folder.
        observer: Told how it goes.
    """
    observer = observer or Silence()
    started = time.perf_counter()
    if cell.arm.method in PEERS:
        from stableprompt.studies.peer_run import run_peer

        _clear(path)  # a peer's search cannot be continued
        run_peer(cell.arm.method, task, config, path)
    elif not (path / RESULT).is_file():
        # A run that was killed before its settings were written has nothing to continue, and a
        # function of the user's own cannot be read back.
        started_before = (path / "config.json").is_file() and (path / "task.json").is_file()
        if started_before and task.metric.name in METRICS:
            resume(path, observer=observer)
        else:
            _clear(path)
            start_run(task, config, path, observer)
    free_memory()  # the next run of this process begins with what this one began with
    record = record_of(path, cell.task, cell.arm, cell.seed, time.perf_counter() - started)
    keep(path, record)
    keep_last(path / CHECKPOINTS, 1)  # nothing goes back to them any more, and runs are many
    return record


def _clear(path: Path) -> None:
    with alone(path, f"the run in {path}"):  # a comparison that was killed may have left workers
        shutil.rmtree(path, ignore_errors=True)


def _claim(plan: Plan, folder: Path) -> None:
    """Make the folder this plan's, or find that it is."""
    content = plan.to_dict()
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; choose another --out")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / PLAN).is_file():
            raise RunError(f"{folder} is not empty and holds no {PLAN}; choose another --out")
        before = RunFolder(folder).read_json(PLAN)
        _require_same(before, content, folder)
        content = _joined(before, content)
    folder.mkdir(parents=True, exist_ok=True)
    RunFolder(folder).write_json(PLAN, content)


def _require_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    for key in ("budget", "settings"):
        if before.get(key) != now[key]:
            raise RunError(
                f"the comparison in {folder} has {key} {before.get(key)!r}, now it is "
                f"{now[key]!r}; give the same, or choose another --out"
            )
    for key in ("tasks", "arms"):
        changed = [n for n, one in now[key].items() if before[key].get(n, one) != one]
        if changed:
            raise RunError(
                f"{changed[0]!r} is not what it was when the comparison in {folder} began (other "
                "data or settings); choose another --out"
            )


def _joined(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    joined = merge(dict(before), {key: now[key] for key in ("tasks", "arms")})
    return {**joined, "seeds": sorted({*before["seeds"], *now["seeds"]})}


def shared_setting(plan: Plan, folder: Path) -> dict[str, Any]:
    """Models, precision and versions, from the first run of our own methods."""
    for cell in plan.cells():
        path = cell.path(folder)
        if cell.arm.method in METHODS and (path / RESULT).is_file():
            setting: dict[str, Any] = RunFolder(path).read_json(RESULT)["setting"]
            wanted = ("agent", "target", "dtype", "device", "attention", "versions")
            return {key: setting[key] for key in wanted}
    return {}
