"""Which method is better, and how sure: several tasks, several seeds, the same examples.

All intervals come from one hierarchical bootstrap. The tasks are fixed. Within each task, seeds
and test examples are drawn with replacement, the examples for all seeds and methods together, as
they share them: the pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1). With few
seeds it is too narrow: it knows of no more seeds than there are.

There are ``resamples`` draws. Those of a task depend on its name and ``rng_seed`` only, so neither
the order of the cells nor what else is compared changes a result.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import variance
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]
_Outcome = Literal["win", "tie", "loss"]
# By method and task, sorted: the values of each seed, sorted.
_Runs = dict[tuple[str, str], dict[int, tuple[float, ...]]]

_LOWER_END: Final = 0.025  # of a two-sided 95 % interval
_NUMBERS_AT_ONCE: Final = 1_000_000
# A drawn difference that is no further from 0 is 0, a value so little outside 0 to 1 is inside:
# sums of floats round.
_ROUNDING: Final = 1e-12


@dataclass(frozen=True, slots=True)
class CellScore:
    """Test values of one run."""

    method: str
    task: str
    seed: int
    values: tuple[float, ...]  # what each test example is worth, 0-1; the score is their mean
    collapsed: bool = False


@dataclass(frozen=True, slots=True)
class MethodSummary:
    """How good a method is, and how much its seeds differ."""

    method: str
    mean: float  # 0-1; each task weighs the same, each seed of a task the same
    low: float  # ends of the 95 % interval of the mean
    high: float
    seed_sd: float | None  # standard deviation over seeds, pooled over tasks; None with one seed
    variation: float | None  # coefficient of variation over seeds, mean over tasks; None likewise
    collapsed_share: float  # share of runs that collapsed, 0-1
    num_runs: int
    num_tasks: int  # means over different tasks cannot be compared


@dataclass(frozen=True, slots=True)
class PairedMethods:
    """Two methods on the same tasks, seeds and examples."""

    first: str
    second: str
    difference: float  # mean of the second minus mean of the first, -1 to 1
    low: float  # ends of the 95 % interval of the difference
    high: float
    p_value: float  # two-sided, of "both are equally good"
    num_tasks: int
    num_seeds: int  # of each method, in the task that has the fewest
    num_examples: int  # of all tasks together


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """Our method against a rival on one task."""

    task: str
    difference: float  # score of ours minus score of the rival, -1 to 1
    low: float  # ends of the 95 % interval of the difference, not adjusted
    high: float
    p_value: float  # two-sided, of "both are equally good"
    adjusted_p: float  # Holm-adjusted over all rivals and tasks
    outcome: _Outcome  # for ours; a tie where adjusted_p is above alpha


@dataclass(frozen=True, slots=True)
class WinTieLoss:
    """Our method against a rival, counted over tasks."""

    rival: str
    wins: int  # tasks where ours is better
    ties: int
    losses: int  # tasks where the rival is better
    rows: tuple[TaskOutcome, ...]  # sorted by task


def summarise(
    cells: Sequence[CellScore], *, resamples: int = 10_000, rng_seed: int = 0
) -> list[MethodSummary]:
    """How good each method is, sorted by its name.

    With m_t the mean and s_t² the sample variance (n - 1) of the scores of the
    seeds on task t::

        mean = mean_t m_t,  seed_sd = sqrt(mean_t s_t²),  variation = mean_t s_t / m_t

    Tasks with one seed are left out of seed_sd and variation, tasks with mean 0
    of variation too. The interval is the percentile bootstrap of the module,
    moved where needed so that it holds the mean. Methods may differ in tasks
    and seeds.

    Raises:
        ValueError: there are no cells, a cell is there twice, values are missing or
            not 0 to 1, or seeds of a task differ in the number of examples.
    """
    runs = _runs(cells)
    alike: dict[tuple[str, int, int], list[str]] = {}
    for (method, task), of_seed in runs.items():
        shape = len(of_seed), len(next(iter(of_seed.values())))
        alike.setdefault((task, *shape), []).append(method)
    drawn: dict[str, list[_Floats]] = {}
    for (task, *_), methods in sorted(alike.items()):
        values = np.array([list(runs[method, task].values()) for method in methods])
        means = _resampled(values, task, resamples, rng_seed)
        for method, of_method in zip(methods, means, strict=True):
            drawn.setdefault(method, []).append(of_method)
    return [
        _summary(
            [cell for cell in cells if cell.method == method],
            [list(of_seed.values()) for (name, _), of_seed in runs.items() if name == method],
            np.mean(of_tasks, axis=0),
        )
        for method, of_tasks in sorted(drawn.items())
    ]


def _summary(
    cells: Sequence[CellScore], tasks: Sequence[Sequence[tuple[float, ...]]], drawn: _Floats
) -> MethodSummary:
    means = [_mean(task) for task in tasks]
    mean = math.fsum(means) / len(means)
    # variance() is exact: equal scores have variance 0.
    spreads = [
        (m, variance([_mean([values]) for values in task]))
        for m, task in zip(means, tasks, strict=True)
        if len(task) > 1
    ]
    relative = [math.sqrt(v) / m for m, v in spreads if m > 0]
    seed_sd = math.sqrt(math.fsum(v for _, v in spreads) / len(spreads)) if spreads else None
    variation = math.fsum(relative) / len(relative) if relative else None
    collapsed = sum(cell.collapsed for cell in cells) / len(cells)
    low, high = _interval(drawn, mean)
    return MethodSummary(
        cells[0].method, mean, low, high, seed_sd, variation, collapsed, len(cells), len(tasks)
    )


def compare_pair(
    cells: Sequence[CellScore],
    first: str,
    second: str,
    *,
    resamples: int = 10_000,
    rng_seed: int = 0,
) -> PairedMethods:
    """Compare two methods on the same tasks, seeds and examples.

    The difference is the mean of the second minus that of the first, as in
    ``summarise``; the interval is the percentile bootstrap of the module, both
    methods on the same draw of seeds and examples. Runs of other methods are
    ignored. With d* the B (``resamples``) drawn differences::

        p = min(1, 2 · (min(#{d* <= 0}, #{d* >= 0}) + 1) / (B + 1))

    (Efron and Tibshirani 1993, chapter 15). Where every example of every seed
    speaks for the same side, p is as small as B allows, however few they are.

    Raises:
        ValueError: as ``summarise``, or a method has no run, or the two differ
            in tasks, seeds or the number of examples.
    """
    runs = _runs(cells)
    tasks = _common_tasks(cells, first, second)
    found = [_differences(runs, [(first, second)], task, resamples, rng_seed)[0] for task in tasks]
    difference = math.fsum(d for d, _ in found) / len(tasks)
    drawn: _Floats = np.mean([of_task for _, of_task in found], axis=0)
    of_seeds = [list(runs[first, task].values()) for task in tasks]
    counts = len(tasks), min(map(len, of_seeds)), sum(len(values[0]) for values in of_seeds)
    measured = difference, *_interval(drawn, difference), _two_sided_p(drawn)
    return PairedMethods(first, second, *measured, *counts)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p values, in the order given.

    With p_(1) <= ... <= p_(m)::

        adjusted_(i) = max_{j <= i} min(1, (m - j + 1) · p_(j))

    Holm (1979), "A simple sequentially rejective multiple test procedure",
    Scandinavian Journal of Statistics 6. Holds however the tests depend on each other.

    Raises:
        ValueError: a p value is not 0 to 1.
    """
    if wrong := [p for p in p_values if not 0 <= p <= 1]:
        raise ValueError(f"p values are 0 to 1: found {wrong[0]}")
    adjusted = [0.0] * len(p_values)
    so_far = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = so_far
    return adjusted


def win_tie_loss(
    cells: Sequence[CellScore],
    ours: str,
    rivals: Sequence[str],
    alpha: float = 0.05,
    *,
    resamples: int = 10_000,
    rng_seed: int = 0,
) -> list[WinTieLoss]:
    """On how many tasks our method beats each rival, in the order of the rivals.

    Each task of each rival is compared as by ``compare_pair``; the p values of
    all rivals and tasks together are Holm-adjusted. One of at most alpha is a
    win or a loss. Runs of other methods are ignored.

    Raises:
        ValueError: as ``compare_pair``, or ours is among the rivals, or a rival is
            there twice, or no difference could be a win with so few draws.
    """
    if ours in rivals or len(set(rivals)) < len(rivals):
        raise ValueError(f"rivals of {ours!r} are other methods, each once: found {list(rivals)}")
    runs = _runs(cells)
    keys = [(task, rival) for rival in rivals for task in _common_tasks(cells, rival, ours)]
    if 2 * len(keys) > alpha * (resamples + 1):
        raise ValueError(
            f"no win of {len(keys)} comparisons can show at alpha {alpha}: found {resamples} "
            f"resamples, give at least {math.ceil(2 * len(keys) / alpha)}"
        )
    found: dict[tuple[str, str], tuple[float, _Floats]] = {}
    for task in sorted({task for task, _ in keys}):
        pairs = [(rival, ours) for of_task, rival in keys if of_task == task]
        differences = _differences(runs, pairs, task, resamples, rng_seed)
        found.update(zip([(task, rival) for rival, _ in pairs], differences, strict=True))
    p_values = [_two_sided_p(found[key][1]) for key in keys]
    rows: dict[str, list[TaskOutcome]] = {rival: [] for rival in rivals}
    for (task, rival), p, adjusted in zip(keys, p_values, holm(p_values), strict=True):
        d, drawn = found[task, rival]
        better: _Outcome = "win" if d > 0 else "loss"
        outcome = "tie" if adjusted > alpha or d == 0 else better
        rows[rival].append(TaskOutcome(task, d, *_interval(drawn, d), p, adjusted, outcome))
    counted = []
    for rival, of_rival in rows.items():
        all_ = [row.outcome for row in of_rival]
        counts = all_.count("win"), all_.count("tie"), all_.count("loss")
        counted.append(WinTieLoss(rival, *counts, tuple(of_rival)))
    return counted


def _runs(cells: Sequence[CellScore]) -> _Runs:
    if not cells:
        raise ValueError("there is nothing to compare: found 0 cells")
    runs: _Runs = {}
    for cell in sorted(cells, key=lambda cell: (cell.method, cell.task, cell.seed)):
        name = f"method {cell.method!r}, task {cell.task!r}, seed {cell.seed}"
        of_seed = runs.setdefault((cell.method, cell.task), {})
        if cell.seed in of_seed:
            raise ValueError(f"a run can be there only once: found two of {name}")
        if not cell.values:
            raise ValueError(f"a run needs a value for each example: found none in {name}")
        if wrong := [v for v in cell.values if not -_ROUNDING <= v <= 1 + _ROUNDING]:
            raise ValueError(f"values are 0 to 1: found {wrong[0]} in {name}")
        if (n := len(cell.values)) != (other := len(next(iter(of_seed.values()), cell.values))):
            raise ValueError(f"seeds share their examples: found {other}, but {n} in {name}")
        of_seed[cell.seed] = cell.values
    return runs


def _common_tasks(cells: Sequence[CellScore], first: str, second: str) -> list[str]:
    """The tasks of two methods, sorted, which must have been run in the same cells."""
    one, other = (
        {(cell.task, cell.seed, len(cell.values)) for cell in cells if cell.method == method}
        for method in (first, second)
    )
    if not (one and other):
        known = ", ".join(sorted({cell.method for cell in cells}))
        raise ValueError(f"method {second if one else first!r} has no run: found {known}")
    if one != other:
        found = "; ".join(
            f"only of {method!r} {task} seed {seed} ({n} examples)"
            for method, only in ((first, one - other), (second, other - one))
            for task, seed, n in sorted(only)
        )
        raise ValueError(f"a comparison needs the same tasks, seeds and examples: found {found}")
    return sorted({task for task, _, _ in one})


def _mean(of_seeds: Sequence[Sequence[float]] | _Floats) -> float:
    """The mean of all values; fsum is exact, so that their order does not change it."""
    return math.fsum(v for values in of_seeds for v in values) / sum(map(len, of_seeds))


def _differences(
    runs: _Runs, pairs: Sequence[tuple[str, str]], task: str, resamples: int, rng_seed: int
) -> list[tuple[float, _Floats]]:
    """For each pair second minus first: of the runs, and drawn (B,)."""
    values = np.array([[list(runs[name, task].values()) for name in pair] for pair in pairs])
    points = [_mean(second) - _mean(first) for first, second in values]
    gains: _Floats = values[:, 1] - values[:, 0]
    return list(zip(points, _resampled(gains, task, resamples, rng_seed), strict=True))


def _resampled(values: _Floats, task: str, resamples: int, rng_seed: int) -> _Floats:
    """Means of the values (M, S, N) over drawn seeds and examples, the same for all M: (M, B)."""
    if resamples < 1:
        raise ValueError(f"an interval needs draws: found {resamples} resamples, give at least 1")
    _, seeds, examples = values.shape
    rng = np.random.default_rng([rng_seed, *task.encode()])
    drawn = []
    most = max(1, _NUMBERS_AT_ONCE // examples)
    for done in range(0, resamples, most):
        rows = min(most, resamples - done)
        of_seeds, of_examples = _weights(rng, rows, seeds), _weights(rng, rows, examples)
        means = of_examples @ values.reshape(-1, examples).T  # (rows, M·S)
        drawn.append(np.einsum("rms,rs->mr", means.reshape(rows, -1, seeds), of_seeds))
    return np.concatenate(drawn, axis=1)


def _weights(rng: np.random.Generator, rows: int, n: int) -> _Floats:
    """How often each of n is among n drawn with replacement, as shares, (rows, n)."""
    places = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
    return np.bincount(places.ravel(), minlength=rows * n).reshape(rows, n) / n


def _interval(drawn: _Floats, score: float) -> tuple[float, float]:
    """The 95 % percentile interval, moved where needed so that it holds the score."""
    # Both as lower ends, so that -drawn gives exactly the mirrored interval.
    low, high = float(np.quantile(drawn, _LOWER_END)), -float(np.quantile(-drawn, _LOWER_END))
    return min(low, score), max(high, score)


def _two_sided_p(drawn: _Floats) -> float:
    sides = np.count_nonzero(drawn <= _ROUNDING), np.count_nonzero(drawn >= -_ROUNDING)
    return min(1.0, 2 * (int(min(sides)) + 1) / (len(drawn) + 1))
