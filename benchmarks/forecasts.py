"""How well do forecasts foretell rewards? From finished runs, without a model.

    python benchmarks/forecasts.py runs/comparison/runs/*/*/*

Reads the pool that each run left and asks three questions of it, of prompts that were written in
training:

* **forecast**: of each step, what was expected of its prompts from the steps before it alone,
  against what they earned on the step's examples; both minus the step's mean.
* **as rewards**: would it be better to learn from ratings than from rewards? What ratings that
  know all earlier steps and half of a step's examples say of its prompts, and what these earned on
  that half itself, against what they earned on the other half; all minus the step's mean.
* **held out**: what ratings with and without traits say when they see half of each step's
  examples, against what the same prompts earned on the other half.

Rewards of a few examples are noisy themselves: a perfect forecast would correlate with them by the
ceiling, the root of their reliability (two-way analysis of variance).
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import numpy as np

from stableprompt.tuning.ratings import Floats, Seen, ratings_of, variances_of, written_together
from stableprompt.tuning.traits import traits_of

_LEAST: Final = 16  # prompts that forecasts rest on


class Fit:
    """Sums over steps of what was said and what was earned, both minus the step's mean."""

    def __init__(self) -> None:
        self._sums = np.zeros(3)
        self.steps = 0

    def add(self, said: Floats, earned: Floats) -> None:
        """One step, (P,) each."""
        said, earned = said - said.mean(), earned - earned.mean()
        self._sums += said @ earned, said @ said, earned @ earned
        self.steps += 1

    def __str__(self) -> str:
        product, of_said, of_earned = self._sums
        if not product:
            return "nothing to say"
        return (
            f"correlation {product / np.sqrt(of_said * of_earned):.2f}, "
            f"slope {product / of_said:.2f}, {self.steps} steps"
        )


class Pool:
    """What a run left of its prompts."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.prompts = list(content["groups"])
        self.groups = list(content["groups"].values())
        # Runs of earlier versions have none: each policy wrote in its own step alone.
        self.written = list(content.get("steps", content["groups"]).values())
        self.seen: Seen = [{int(e): r for e, r in own} for own in content["seen"]]

    def steps(self) -> Iterator[tuple[int, list[int], list[int]]]:
        """Each step, its prompts, and the examples that all of them saw."""
        for step in sorted(set(self.written)):
            own = [p for p, when in enumerate(self.written) if p and when == step and self.seen[p]]
            times = Counter(e for p in own for e in self.seen[p])
            common = [e for e, count in times.items() if 2 * count > len(own)]
            own = [p for p in own if all(e in self.seen[p] for e in common)]
            if len(own) > 3 and len(common) > 3:
                yield step, own, common

    def tables(self, prompts: Sequence[int]) -> list[int]:
        """Which of these prompts were written together."""
        return written_together(
            [self.groups[p] for p in prompts], [self.written[p] for p in prompts]
        )

    def earned(self, prompts: Sequence[int], examples: Sequence[int]) -> Floats:
        """Mean rewards, (P,)."""
        return np.array([[self.seen[p][e] for e in examples] for p in prompts]).mean(axis=1)


def forecast(pool: Pool, fit: Fit) -> None:
    """What the steps before each one said of its prompts."""
    for step, own, common in pool.steps():
        known = [p for p, when in enumerate(pool.written) if p == 0 or when < step]
        if len(known) <= _LEAST:
            continue
        groups, seen = [pool.groups[p] for p in known], [pool.seen[p] for p in known]
        traits = traits_of([pool.prompts[p] for p in (*known, *own)])
        variances = variances_of(pool.tables(known), seen, traits)
        last = max(groups)
        groups += [min(pool.groups[p], last) for p in own]
        said = ratings_of(groups, [*seen, *({} for _ in own)], variances, traits)
        fit.add(said[len(known) :], pool.earned(own, common))


def as_rewards(pool: Pool, ratings: Fit, rewards: Fit) -> None:
    """Half of a step's examples with all that was known before it, and alone, against the rest."""
    for step, own, common in pool.steps():
        half, rest = common[: len(common) // 2], common[len(common) // 2 :]
        known = [p for p, when in enumerate(pool.written) if p == 0 or when < step]
        groups = [pool.groups[p] for p in (*known, *own)]
        seen = [pool.seen[p] for p in known]
        seen += [{e: pool.seen[p][e] for e in half} for p in own]
        traits = traits_of([pool.prompts[p] for p in (*known, *own)])
        variances = variances_of(pool.tables([*known, *own]), seen, traits)
        said = ratings_of(groups, seen, variances, traits)[len(known) :]
        ratings.add(said, pool.earned(own, rest))
        rewards.add(pool.earned(own, half), pool.earned(own, rest))


def held_out(pool: Pool, with_traits: Fit, without: Fit) -> None:
    """Ratings from half of each step's examples, against the other half."""
    half, steps = [dict(own) for own in pool.seen], list(pool.steps())
    for _, own, common in steps:
        for prompt in own:
            half[prompt] = {e: half[prompt][e] for e in common[: len(common) // 2]}
    traits = traits_of(pool.prompts)
    for fit, known in ((with_traits, traits), (without, None)):
        variances = variances_of(pool.tables(range(len(half))), half, known)
        found = ratings_of(pool.groups, half, variances, known)
        for _, own, common in steps:
            fit.add(found[own], pool.earned(own, common[len(common) // 2 :]))


def reliability(pools: Sequence[Pool]) -> float:
    """Share of the variance of a step's mean rewards that is not noise, mean over runs."""
    shares = []
    for pool in pools:
        found = variances_of(pool.tables(range(len(pool.seen))), pool.seen)
        examples = fmean(len(common) for _, _, common in pool.steps())
        shares.append(found.deviations / (found.deviations + found.noise / examples))
    return fmean(shares)


def main(folders: Sequence[str]) -> None:
    """Print what was found over all runs."""
    states = [sorted(Path(folder).glob("checkpoints/*/state.json"))[-1:] for folder in folders]
    pools = [Pool(json.loads(path.read_text())["pool"]) for found in states for path in found]
    ahead, ratings, rewards, with_traits, without = Fit(), Fit(), Fit(), Fit(), Fit()
    for pool in pools:
        forecast(pool, ahead)
        as_rewards(pool, ratings, rewards)
        held_out(pool, with_traits, without)
    print(f"{len(pools)} runs; ceiling {reliability(pools) ** 0.5:.2f}")
    print(f"forecast of a step from those before it: {ahead}")
    print(f"as rewards, ratings:                     {ratings}")
    print(f"as rewards, what the step earned:        {rewards}")
    print(f"held out, ratings with traits:           {with_traits}")
    print(f"held out, ratings without:               {without}")


if __name__ == "__main__":
    main(sys.argv[1:])
