"""Is the run healthy? What every step is checked for, and what is done about what is found.

Readings are plain numbers of one step; formulas and thresholds are in docs/metrics.md.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

from stableprompt.config import MonitorConfig, PPOConfig
from stableprompt.tasks.prompt_checks import PromptFault
from stableprompt.tuning.candidates import Candidate
from stableprompt.tuning.update import UpdateStats

REFUSED: Final = "every prompt of the last ones was refused; of what was found before one is chosen"
_WINDOW: Final = 3  # steps that are averaged, or in a row
_SLOWEST: Final = 1 / 64
_STRONGEST: Final = 16.0
_RECOVERY: Final = math.sqrt(2)  # two healthy steps for one with an alarm


class Alarm(StrEnum):
    """What can be wrong with a run."""

    COLLAPSE = "collapse"
    """The policy writes one prompt again and again, or hardly any that is admitted."""
    DIVERGENCE = "divergence"
    """An update went much too far."""
    DRIFT = "drift"
    """The policy has gone far from the anchor, or from plain language."""
    FORGETTING = "forgetting"
    """The policy was clearly better before."""
    NOTHING_TO_LEARN = "nothing_to_learn"
    """All prompts of a step earned the same, or the gradient is nothing, several steps in a row."""
    BLIND_VALUES = "blind_values"
    """The value head foresees worse than a constant would, several steps in a row."""
    BROKEN_NUMBERS = "broken_numbers"
    """A number was not finite; what would have been learned from it was taken back."""


class Action(StrEnum):
    """What is done about it."""

    ROLL_BACK = "roll_back"
    """Policy := copy of the anchor, optimizer state fresh."""
    RAISE_KL = "raise_kl"
    """Double the KL coefficient, up to 16 times what was set."""
    LOWER_RATE = "lower_rate"
    """Halve the learning rate, down to a 64th of what was set."""


_ANSWERS: dict[Alarm, tuple[Action, ...]] = {
    Alarm.COLLAPSE: (Action.ROLL_BACK, Action.RAISE_KL),
    Alarm.DIVERGENCE: (Action.LOWER_RATE,),
    Alarm.DRIFT: (Action.RAISE_KL,),
    Alarm.FORGETTING: (Action.ROLL_BACK, Action.LOWER_RATE),
    Alarm.NOTHING_TO_LEARN: (),
    Alarm.BLIND_VALUES: (),
}


@dataclass(frozen=True, slots=True)
class Readings:
    """One step in numbers."""

    gain: float
    """Mean reward minus the seed prompt's, on the step's examples."""
    level: float | None
    """The same by the ratings, which leave the luck of the draw out; None where none was scored."""
    reward_sd: float
    """Standard deviation of the rewards of the step's prompts (within a query)."""
    gain_sd: float | None
    """Standard deviation of ``gain`` over the last steps (between queries); None at first."""
    unique_share: float
    """Different prompts over prompts."""
    refused_share: float
    truncated_share: float
    surprise: float
    """Mean over the step's prompts, each between -10 and 10."""
    entropy: float | None
    """Nats per token; this and what follows None where the policy does not learn."""
    anchor_kl: float | None
    step_kl: float | None
    clip_fraction: float | None
    gradient_norm: float | None
    value_loss: float | None
    explained_variance: float | None


def readings_of(
    candidates: Sequence[Candidate],
    stats: UpdateStats | None,
    earlier: Sequence[Readings],
    level: float | None = None,
) -> Readings:
    """The readings of one step.

    Args:
        candidates: The step's prompts.
        stats: Its update, if the policy learns.
        earlier: The readings of the steps before it.
        level: How far its prompts are rated above the seed prompt.
    """
    size = len(candidates)
    gain = statistics.fmean(c.reward - (c.seed_reward or 0.0) for c in candidates)
    gains = [*(r.gain for r in earlier[-4:]), gain]
    moved = stats.step_kl if stats else None
    if stats and stats.update_kl is not None:
        moved = max(stats.update_kl, stats.step_kl if not stats.undone else 0.0)
    return Readings(
        gain=gain,
        level=level,
        reward_sd=_spread_within_queries(candidates),
        gain_sd=statistics.stdev(gains) if len(gains) > 1 else None,
        unique_share=len({c.prompt for c in candidates}) / size,
        refused_share=sum(c.fault is not None for c in candidates) / size,
        truncated_share=sum(c.fault is PromptFault.TRUNCATED for c in candidates) / size,
        surprise=statistics.fmean(min(10.0, max(-10.0, c.surprise)) for c in candidates),
        entropy=stats.entropy if stats else None,
        anchor_kl=stats.anchor_kl if stats else None,
        step_kl=moved,
        clip_fraction=stats.clip_fraction if stats else None,
        gradient_norm=stats.gradient_norm if stats and not stats.broken else None,
        value_loss=stats.value_loss if stats else None,
        explained_variance=stats.explained_variance if stats else None,
    )


def _spread_within_queries(candidates: Sequence[Candidate]) -> float:
    """Mean over queries of the standard deviation of the rewards; where a prompt is for all inputs
    there is one query."""
    by_query: dict[str | None, list[float]] = {}
    for candidate in candidates:
        by_query.setdefault(candidate.written_for, []).append(candidate.reward)
    return statistics.fmean(map(statistics.pstdev, by_query.values()))


@dataclass(frozen=True, slots=True)
class Finding:
    """What one step was found to be like, and what was done; in ``steps.jsonl``."""

    readings: Readings | None
    """None where the step's prompts could not be written."""
    alarms: tuple[Alarm, ...]
    actions: tuple[Action, ...]
    broken: str | None = None
    """The first number that was not finite: what it is, and where."""


@dataclass(slots=True)
class Monitor:
    """Watches the steps of a run.

    Attributes:
        config: Thresholds, and whether anything is done.
        history: Readings since the start, or since the last roll back.
        first: Readings of the run's first step, which later ones are compared with.
        alarms: How many steps each was raised in.
        rate_scale: What the learning rate is multiplied with by now.
        kl_scale: What the KL coefficient is multiplied with by now.
        broken_in_a_row: How many of the last steps had a number that is not finite.
        refused_in_a_row: How many of the last steps had no prompt that was admitted.
    """

    config: MonitorConfig
    history: list[Readings] = field(default_factory=list)
    rate_scale: float = 1.0
    kl_scale: float = 1.0
    alarms: dict[str, int] = field(default_factory=dict)
    first: Readings | None = None
    broken_in_a_row: int = 0
    refused_in_a_row: int = 0

    def settings(self, config: PPOConfig) -> PPOConfig:
        """The settings of the next update: what was set, and what was learned since."""
        return config.model_copy(
            update={
                "learning_rate": config.learning_rate * self.rate_scale,
                "kl_coef": config.kl_coef * self.kl_scale,
            }
        )

    def watch(
        self,
        candidates: Sequence[Candidate],
        stats: UpdateStats | None,
        level: float | None = None,
        *,
        barren: bool | None = None,
    ) -> Finding:
        """Read a step, and say what is wrong and what must be done.

        ``roll_back`` is the caller's to do; the two scales have changed already. Where nothing is
        wrong they go back, more slowly, to what was set.

        Args:
            candidates: The prompts that the policy wrote in the step.
            stats: Its update, if the policy learns.
            level: How far its prompts are rated above the seed prompt.
            barren: Whether no prompt of the step was admitted, those of others counted; None where
                the policy alone wrote.
        """
        now = readings_of(candidates, stats, self.history, level)
        self.history.append(now)
        barren = now.refused_share == 1 if barren is None else barren
        self.refused_in_a_row = self.refused_in_a_row + 1 if barren else 0
        if self.first is None:
            self.first = now
        alarms = self._findings(stats)
        self.count(alarms)
        actions: tuple[Action, ...] = ()
        if self.config.act and stats is not None:
            actions = tuple(dict.fromkeys(a for alarm in alarms for a in _ANSWERS[alarm]))
        if not alarms:
            self.kl_scale = max(1.0, self.kl_scale / _RECOVERY)
            self.rate_scale = min(1.0, self.rate_scale * _RECOVERY)
        self.answer(actions)
        return Finding(now, alarms, actions)

    def count(self, alarms: Iterable[Alarm]) -> None:
        """One more step for each of them."""
        for alarm in alarms:
            self.alarms[alarm] = self.alarms.get(alarm, 0) + 1

    def answer(self, actions: Sequence[Action]) -> None:
        """Change the two scales as the actions say, and measure anew after a roll back."""
        if Action.RAISE_KL in actions:
            self.kl_scale = min(_STRONGEST, self.kl_scale * 2)
        if Action.LOWER_RATE in actions:
            self.rate_scale = max(_SLOWEST, self.rate_scale / 2)
        if Action.ROLL_BACK in actions:  # what was forgotten is measured anew from here
            self.history = []

    @property
    def writes_nothing(self) -> bool:
        """Whether so many steps had no prompt that was admitted that more are not worth it."""
        limit = self.config.max_refused_steps
        return limit is not None and self.refused_in_a_row >= limit

    @property
    def collapsed(self) -> bool:
        """Whether the run ends collapsed: in most of its last steps, see ``Alarm.COLLAPSE``."""
        last = self.history[-_WINDOW:]
        return bool(last) and sum(self._has_collapsed(r) for r in last) * 2 > len(last)

    def _findings(self, stats: UpdateStats | None) -> tuple[Alarm, ...]:
        now, last = self.history[-1], self.history[-_WINDOW:]
        row = len(last) == _WINDOW
        rules = {
            Alarm.COLLAPSE: len(last) > 1 and all(map(self._has_collapsed, last[-2:])),
            Alarm.DIVERGENCE: stats is not None and self._has_diverged(now, stats),
            Alarm.DRIFT: self._has_drifted(now),
            Alarm.FORGETTING: self._drop() > self.config.max_drop,
            Alarm.NOTHING_TO_LEARN: row and all(map(_teaches_nothing, last)),
            Alarm.BLIND_VALUES: row and all(_is_blind(r) for r in last),
        }
        return tuple(alarm for alarm, holds in rules.items() if holds)

    def _has_collapsed(self, step: Readings) -> bool:
        config, first = self.config, self.first or step
        narrow = (
            step.entropy is not None
            and first.entropy is not None
            and step.entropy < config.min_entropy_share * first.entropy
        )
        # An agent that was so from the start has not collapsed: it has yet to learn.
        return (
            narrow
            or step.unique_share < min(config.min_unique_share, first.unique_share)
            or step.refused_share > max(config.max_refused_share, first.refused_share)
        )

    def _has_diverged(self, now: Readings, stats: UpdateStats) -> bool:
        config = self.config
        norms = [r.gradient_norm for r in self.history[:-1] if r.gradient_norm]
        steep = len(norms) >= _WINDOW and (
            now.gradient_norm or 0.0
        ) > config.max_gradient_ratio * statistics.median(norms)
        # A step that was taken back until it was small enough: smaller ones from the start.
        return (
            steep
            or stats.undone > 0
            or (now.step_kl or 0.0) > config.max_step_kl
            or (now.clip_fraction or 0.0) > config.max_clip_fraction
        )

    def _has_drifted(self, now: Readings) -> bool:
        rise = now.surprise - (self.first or now).surprise
        far = (now.anchor_kl or 0.0) > self.config.max_anchor_kl
        return far or rise > self.config.max_surprise_rise

    def _drop(self) -> float:
        """By how much the last steps' prompts are worse than those of the best earlier ones."""
        gains = [r.gain if r.level is None else r.level for r in self.history]
        means = [statistics.fmean(gains[i : i + _WINDOW]) for i in range(len(gains) - _WINDOW + 1)]
        return max(means[:-_WINDOW]) - means[-1] if len(means) > _WINDOW else -math.inf

    def to_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "history": [asdict(r) for r in self.history],
            "rate_scale": self.rate_scale,
            "kl_scale": self.kl_scale,
            "alarms": self.alarms,
            "first": asdict(self.first) if self.first else None,
            "broken_in_a_row": self.broken_in_a_row,
            "refused_in_a_row": self.refused_in_a_row,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what ``to_dict`` gave."""
        self.history = [Readings(**r) for r in state["history"]]
        self.rate_scale, self.kl_scale = state["rate_scale"], state["kl_scale"]
        self.alarms = dict(state["alarms"])
        self.first = Readings(**state["first"]) if state["first"] else None
        self.broken_in_a_row = state.get("broken_in_a_row", 0)
        self.refused_in_a_row = state.get("refused_in_a_row", 0)


def _teaches_nothing(step: Readings) -> bool:
    still = step.gradient_norm is not None and step.gradient_norm < 1e-7
    return step.reward_sd == 0 or still


def _is_blind(step: Readings) -> bool:
    return step.explained_variance is not None and step.explained_variance < -1
