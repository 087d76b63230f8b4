"""The course of a run as charts: what ``page.js`` draws, one entry a chart."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from stableprompt.reporting.reading import Run
from stableprompt.reporting.records import Step

Values = list[float | None]


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart."""

    label: str
    colour: str
    """Name of a colour of the page: "policy", "best", "seed", "anchor", or "run-N"."""
    values: Values
    dashed: bool = False
    points: bool = False
    """Marks without a line: something that is not measured at every step."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at a step."""

    kind: str
    """"update", "roll_back" or "alarm"."""
    calls: float
    steps: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Some lines over the same steps."""

    name: str
    title: str
    about: str
    calls: list[float]
    steps: list[float]
    series: list[Series]
    marks: list[Mark] = field(default_factory=list)
    share: bool = False
    """Whether the axis is that of a share, 0 to 1."""

    @property
    def drawn(self) -> bool:
        """Whether there is anything to see."""
        return any(value is not None for series in self.series for value in series.values)

    def to_dict(self) -> dict[str, Any]:
        """For the page."""
        return asdict(self)


def charts_of(run: Run) -> list[Chart]:
    """Every chart that the run has figures for."""
    if not run.steps:
        return []
    steps = sorted(run.steps, key=lambda step: step.step)
    calls, numbers = _axes(steps)
    decisions, alarms = marks_of(steps)

    def chart(name: str, title: str, about: str, *series: Series, **more: Any) -> Chart:
        return Chart(name, title, about, calls, numbers, list(series), **more)

    everything = [*decisions, *alarms]
    charts = [
        chart("reward", "Reward", "of the step's prompts, refused ones too", *_rewards(steps),
              marks=everything),
        _validation(run, steps, decisions),
        chart("kl", "KL divergence", "nats per token", *_divergences(steps), marks=decisions),
        chart("entropy", "Entropy", "of the policy, nats per token",
              Series("entropy", "policy", [s.update.entropy if s.update else None for s in steps]),
              marks=decisions),
        chart("gain", "Gain over the seed prompt", "level: without the luck of the draw",
              *_readings(steps, {"gain": "policy", "level": "best"}), marks=everything),
        chart("shares", "Monitors", "shares of prompts, or of tokens", *_shares(steps),
              marks=alarms, share=True),
        chart("length", "Prompt length", "words; refused prompts included",
              *_lengths(run, steps), marks=decisions),
        chart("surprise", "Surprise", "how odd the language is, mean",
              *_readings(steps, {"surprise": "policy"}), marks=alarms),
        chart("answers", "Answers of the monitors", "times what was set", *_controls(steps),
              marks=alarms),
    ]  # fmt: skip
    return [found for found in charts if found.drawn]


def marks_of(steps: Sequence[Step]) -> tuple[list[Mark], list[Mark]]:
    """What moved the anchor or returned to it, and what the monitors said."""
    decisions: list[Mark] = []
    alarms: list[Mark] = []
    for step in steps:
        at = (float(step.target_calls), step.step + 1.0)
        if step.anchor is not None and step.anchor.decision in ("update", "roll_back"):
            moved = step.anchor.decision == "update"
            told = "anchor follows the policy" if moved else "policy goes back to the anchor"
            decisions.append(Mark(step.anchor.decision, *at, told))
        if "roll_back" in step.monitor.actions:
            decisions.append(Mark("roll_back", *at, "a monitor sends the policy back"))
        if step.monitor.alarms:
            told = ", ".join(alarm.replace("_", " ") for alarm in step.monitor.alarms)
            alarms.append(Mark("alarm", *at, told))
    return decisions, alarms


def _axes(steps: Sequence[Step]) -> tuple[list[float], list[float]]:
    return [float(s.target_calls) for s in steps], [s.step + 1.0 for s in steps]


def _rewards(steps: Sequence[Step]) -> list[Series]:
    return [
        Series("mean", "policy", [s.mean_reward for s in steps]),
        Series("best of the step", "best", [s.best_reward for s in steps]),
        Series("seed prompt", "seed", [s.seed_reward for s in steps], dashed=True),
    ]


def leader_curve(run: Run) -> tuple[list[float], list[float], Values]:
    """Calls, steps and validation score of what led, where that was measured."""
    points = sorted(run.curve.points) if run.curve is not None else []
    spent = [step.target_calls for step in run.steps]
    done = [float(sum(calls <= at for calls in spent)) for at, _ in points]
    return [at for at, _ in points], done, [score for _, score in points]


def _validation(run: Run, steps: Sequence[Step], decisions: list[Mark]) -> Chart:
    """The leader's score where it was measured, and the two sides of the anchor decisions."""
    rows: dict[tuple[float, float], dict[str, float | None]] = defaultdict(dict)
    for calls, number, score in zip(*leader_curve(run), strict=True):
        rows[calls, number]["leader"] = score
    for step in steps:
        if step.anchor is not None:
            at = (float(step.target_calls), step.step + 1.0)
            rows[at]["policy"] = step.anchor.policy_score
            rows[at]["anchor"] = step.anchor.anchor_score
    places = sorted(rows)
    looked = {step.anchor.n for step in steps if step.anchor is not None and step.anchor.n}
    n = f" (n = {', '.join(map(str, sorted(looked)))})" if looked else ""

    def values(name: str) -> Values:
        return [rows[place].get(name) for place in places]

    return Chart(
        "validation",
        "Validation score",
        f"leader; policy and anchor at decisions{n}",
        [calls for calls, _ in places],
        [number for _, number in places],
        [
            Series("leader", "best", values("leader")),
            Series("policy", "policy", values("policy"), points=True),
            Series("anchor", "anchor", values("anchor"), points=True),
        ],
        decisions,
    )


def _divergences(steps: Sequence[Step]) -> list[Series]:
    updates = [step.update for step in steps]
    moved: Values = [
        None if u is None else u.update_kl if u.update_kl is not None else u.step_kl
        for u in updates
    ]
    return [
        Series("policy from anchor", "policy", [u.anchor_kl if u else None for u in updates]),
        Series("one update", "anchor", moved),
    ]


def _readings(steps: Sequence[Step], colours: dict[str, str]) -> list[Series]:
    return [
        Series(name, colour, [step.monitor.readings.get(name) for step in steps])
        for name, colour in colours.items()
    ]


def _shares(steps: Sequence[Step]) -> list[Series]:
    names = {
        "unique_share": ("different", "best"),
        "refused_share": ("refused", "alarm"),
        "clip_fraction": ("clipped tokens", "anchor"),
    }
    return [
        Series(label, colour, [step.monitor.readings.get(name) for step in steps])
        for name, (label, colour) in names.items()
    ]


def _lengths(run: Run, steps: Sequence[Step]) -> list[Series]:
    words: dict[int, list[int]] = defaultdict(list)
    for prompt in run.prompts:
        own = prompt.scored_on == "training" and prompt.writer == "policy"
        if own and prompt.num_words is not None:
            words[prompt.step].append(prompt.num_words)
    found = [words.get(step.step, []) for step in steps]
    leaders = [step.best_prompt for step in steps]
    return [
        Series("mean", "policy", [sum(w) / len(w) if w else None for w in found]),
        Series("longest", "anchor", [float(max(w)) if w else None for w in found], dashed=True),
        Series("leader", "best", [float(len(p.split())) if p else None for p in leaders]),
    ]


def _controls(steps: Sequence[Step]) -> list[Series]:
    """Learning rate and KL coefficient over those of the first update; none if neither moved."""
    updates = [step.update for step in steps]
    series = []
    for name, label, colour in (
        ("learning_rate", "learning rate", "policy"),
        ("kl_coef", "KL coefficient", "anchor"),
    ):
        values = [None if u is None else getattr(u, name) for u in updates]
        first = next((value for value in values if value), None)
        if first and any(value not in (None, first) for value in values):
            scaled = [None if value is None else value / first for value in values]
            series.append(Series(label, colour, scaled))
    return series


def shared_charts(runs: Sequence[Run]) -> list[Chart]:
    """Several runs in one chart each: gain over the seed prompt, and the leader's validation."""
    gains, leaders = [], []
    for number, run in enumerate(runs):
        steps = sorted(run.steps, key=lambda step: step.step)
        gains.append((number, *_axes(steps), [_gain(step) for step in steps]))
        leaders.append((number, *leader_curve(run)))
    about = "mean reward minus the seed prompt's"
    charts = [
        _together("gain", "Gain over the seed prompt", about, gains),
        _together("validation", "Validation score", "of what led", leaders),
    ]
    return [chart for chart in charts if chart.drawn]


def _gain(step: Step) -> float | None:
    if step.mean_reward is None or step.seed_reward is None:
        return None
    return step.mean_reward - step.seed_reward


def _together(
    name: str,
    title: str,
    about: str,
    lines: Sequence[tuple[int, list[float], list[float], Values]],
) -> Chart:
    places = sorted(
        {place for _, calls, steps, _ in lines for place in zip(calls, steps, strict=True)}
    )
    series = []
    for number, calls, steps, values in lines:
        own = dict(zip(zip(calls, steps, strict=True), values, strict=True))
        line = [own.get(place) for place in places]
        series.append(Series(f"run {number + 1}", f"run-{number % 8}", line, dashed=number >= 8))
    return Chart(name, title, about, [c for c, _ in places], [s for _, s in places], series)
