"""What all sections share: the workload, the models, the clock's budget, and the results so far."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import (
    Contestant,
    Timings,
    layer_flops,
    matmul_flops,
    ratio,
    summary,
    take_turns,
)
from benchmarks.report import RATIOS
from benchmarks.workload import Workload
from stableprompt.models.hardware import DTYPES, pick_device
from stableprompt.models.loading import LoadedModel, load_model
from stableprompt.models.targets.local import LocalTarget

# Seconds that the rounds of a section may take, where the whole may take 24 minutes; a section
# whose first round is longer ends with that one.
SECONDS = {"scoring": 380, "bf16": 90, "long": 170, "update": 140, "step": 480}
WHOLE_MINUTES = 24


@dataclass
class Bench:
    """One run of the suite."""

    workload: Workload
    rounds: int
    minutes: float
    output: Path
    data_dir: Path | None
    request: dict[str, Any]
    """What ``load_workload`` was called with, for processes of their own."""
    quick: bool = False
    results: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    ceilings: dict[torch.dtype, list[float]] = field(default_factory=dict)
    models: dict[torch.dtype, LoadedModel] = field(default_factory=dict)

    @cached_property
    def device(self) -> torch.device:
        """Where the models lie."""
        return pick_device(self.workload.config.device)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, where nothing else is said."""
        return DTYPES[self.workload.config.dtype]

    @property
    def model_name(self) -> str:
        """Without the folders before it: results are shared."""
        return Path(self.workload.config.target.model).name

    def say(self, line: str) -> None:
        """Show progress."""
        print(f"[{time.perf_counter() - self.started:6.0f} s] {line}", flush=True)

    # --- models ---

    def model(self, dtype: torch.dtype | None = None) -> LoadedModel:
        """The target's checkpoint, frozen and without adapters; loaded once a precision."""
        dtype = dtype or self.dtype
        if dtype not in self.models:
            name = str(dtype).removeprefix("torch.")
            config = self.workload.config
            self.models[dtype] = load_model(config.target.model, device=config.device, dtype=name)
        return self.models[dtype]

    def target(self, dtype: torch.dtype | None = None) -> LocalTarget:
        """The package's target on these weights."""
        limit = self.workload.config.target.max_batch_tokens
        return LocalTarget(self.model(dtype), max_batch_tokens=limit)

    # --- what the machine could do ---

    def measure_ceiling(self, dtype: torch.dtype) -> None:
        """Once more; the best of all times is the ceiling."""
        self.ceilings.setdefault(dtype, []).append(matmul_flops(dtype, self.device))
        self.results["ceilings"] = {
            **{
                f"{str(kind).removeprefix('torch.')}_gflops": [round(f / 1e9, 1) for f in found]
                for kind, found in self.ceilings.items()
            },
            "what": "a large square torch.mm, best of five, at each time it was measured",
        }

    def ceiling(self, dtype: torch.dtype | None = None) -> float:
        """FLOP/s of a large matrix multiply."""
        dtype = dtype or self.dtype
        if dtype not in self.ceilings:
            self.measure_ceiling(dtype)
        return max(self.ceilings[dtype])

    @cached_property
    def layers_alone(self) -> float:
        """FLOP/s of the model's own linear layers, on one batch of the scoring plan."""
        rows = self.workload.config.target.max_batch_tokens
        return layer_flops(self.model().model, rows=rows)

    # --- rounds and results ---

    def rounds_of(self, section: str, contestants: dict[str, Contestant]) -> Timings:
        """Time some contestants in turns, within the section's share of the time."""
        budget = SECONDS[section] * self.minutes / WHOLE_MINUTES
        timings = take_turns(
            {name: self._announced(section, name, c) for name, c in contestants.items()},
            rounds=self.rounds,
            budget_seconds=budget,
            device=self.device,
        )
        seconds = self.results.setdefault("seconds", {})
        for name, found in timings.seconds.items():
            seconds[f"{section}: {name}"] = summary(found)
        return timings

    def _announced(self, section: str, name: str, contestant: Contestant) -> Contestant:
        def prepare() -> Callable[[], Any]:
            run = contestant()
            self.say(f"{section}: {name}")
            return run

        return prepare

    def ratio(self, name: str, over: list[float], under: list[float], what: str) -> None:
        """Note how many times faster."""
        self.note(name, {**ratio(over, under), "unit": "x", "what": what})

    def note(self, name: str, figures: dict[str, Any]) -> None:
        """Note one of the ratios, with its target."""
        kind, bound = RATIOS[name].target or (None, None)
        entry = dict(figures)
        if bound is not None:
            entry["target"] = f"{kind} {bound}"
            entry["met"] = entry["median"] >= bound if kind == ">=" else entry["median"] <= bound
        self.results[name] = entry
        self.say(f"{name}: {entry['median']:.3g} {entry['unit']}")

    def check(self, name: str, largest: float, allowed: float) -> None:
        """Note the largest difference between two contestants' numbers."""
        checks = self.results.setdefault("checks", {})
        checks[name] = {
            "largest_difference": largest,
            "allowed": allowed,
            "equal": largest <= allowed,
        }
        self.say(f"check {name}: largest difference {largest:.2g} (allowed {allowed:g})")

    def save(self) -> None:
        """Write what there is."""
        self.results["seconds_of_run"] = round(time.perf_counter() - self.started)
        self.output.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.output.with_suffix(".part")
        scratch.write_text(json.dumps(rounded(self.results), indent=1) + "\n", encoding="utf-8")
        scratch.replace(self.output)


def rounded(value: Any) -> Any:
    """Floats to five digits: the rest is noise."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
