"""The top of a page: what a run amounts to, in words and a few figures."""

from collections.abc import Iterator
from dataclasses import dataclass

from stableprompt.reporting.reading import Run
from stableprompt.reporting.records import Comparison, Estimate, Result
from stableprompt.reporting.verdict import verdict_of
from stableprompt.tasks.statistics import paired_comparison


@dataclass(frozen=True, slots=True)
class Bar:
    """A score with its interval, to be drawn and read."""

    name: str
    estimate: Estimate
    colour: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What is told first."""

    tone: str
    """"good", "unclear", "none" or "running"."""
    headline: str
    bars: list[Bar]
    facts: list[tuple[str, str]]
    warnings: list[str]


def summary_of(run: Run) -> Summary:
    """Verdict, scores and cost of a finished run; how far another one came."""
    if run.result is None:
        return _unfinished(run)
    result = run.result
    headline = verdict_of(
        seed_chosen=result.prompt == result.seed_prompt,
        improved=result.improved,
        p_value=result.paired.p_value,
    )
    tone = {"improved": "good", "not proven": "unclear"}.get(headline.split(":")[0], "none")
    bars = [
        Bar("Seed prompt", result.seed_test, "seed"),
        Bar("Best prompt", result.test, "best"),
    ]
    if result.readable_test is not None and result.readable_prompt != result.prompt:
        bars.append(Bar("Best readable prompt", result.readable_test, "anchor"))
    if result.per_input is not None:
        bars.append(Bar("A prompt for each input", result.per_input.test, "policy"))
        if result.per_input.agent_alone is not None:
            bars.append(Bar("Agent alone", result.per_input.agent_alone, "anchor"))
    return Summary(tone, headline, bars, list(_facts(run, result)), list(_warnings(result)))


def _unfinished(run: Run) -> Summary:
    done, planned = len(run.steps), run.planned_steps
    of = f" of {planned}" if planned is not None else ""
    headline = f"unfinished: {done}{of} steps are done, and the test split is not read"
    facts = _setting_facts(run)
    if run.steps:
        facts.append(("Target calls", f"{max(s.target_calls for s in run.steps):,}"))
        facts.append(("Time in steps", duration(sum(s.seconds or 0.0 for s in run.steps))))
    return Summary("running", headline, [], facts, [])


def _setting_facts(run: Run) -> list[tuple[str, str]]:
    """Task, models, method: from the result, or as they were set."""
    config, setting = run.config or {}, run.result.setting if run.result is not None else {}
    facts = []
    if run.task is not None:
        sizes = ", ".join(
            f"{len(getattr(run.task, name)):,} {name}" for name in ("train", "validation", "test")
        )
        facts.append(("Task", f"{run.task.kind.replace('_', ' ')}; {sizes}"))
        if run.task.notes:
            facts.append(("Data", "; ".join(run.task.notes)))
    for name in ("agent", "target"):
        section = config.get(name)
        set_to = section.get("model") if isinstance(section, dict) else None
        if model := setting.get(name) or set_to:
            facts.append((name.capitalize(), str(model).rstrip("/").rsplit("/", 1)[-1]
                          if str(model).startswith(("/", "~")) else str(model)))  # fmt: skip
    if method := config.get("method") or (run.result.method if run.result else None):
        facts.append(("Method", f"{method}, seed {config.get('seed', '?')}"))
    return facts


def _facts(run: Run, result: Result) -> Iterator[tuple[str, str]]:
    yield from _setting_facts(run)
    cost = result.cost
    calls = result.target_calls
    if calls is not None:
        parts = ", ".join(f"{n:,} {why}" for why, n in cost.target_calls.items() if n)
        yield "Target calls", f"{calls:,}" + (f" ({parts})" if parts else "")
    if cost.target_tokens:
        yield "Target tokens", f"{sum(cost.target_tokens.values()):,}"
    if cost.judge_calls:
        yield "Judge calls", f"{cost.judge_calls:,}"
    yield "Agent tokens written", f"{cost.agent_tokens_written:,}"
    if cost.dollars:
        yield "Dollars", f"{cost.dollars:.4g}"
    elif cost.dollars is None and "dollars" in cost.model_fields_set:
        yield "Dollars", "price unknown"
    if run.timing is not None and run.timing.seconds is not None:
        yield "Time", duration(run.timing.seconds)
    found = result.candidates
    refused = ", ".join(f"{n} {why.replace('_', ' ')}" for why, n in found.refused.items())
    yield (
        "Prompts",
        f"{found.unique:,} different, {found.compared_on_validation:,} compared on validation; "
        f"refused: {refused or 'none'}",
    )
    decided = ", ".join(f"{n} {k.replace('_', ' ')}" for k, n in result.anchor_decisions.items())
    yield "Anchor", decided or "no decisions"
    alarms = ", ".join(f"{n} {k.replace('_', ' ')}" for k, n in result.alarms.items())
    yield "Alarms", alarms or "none"


def _warnings(result: Result) -> Iterator[str]:
    """What a reader of the figures must know."""
    if result.flagged and result.trivial_score is not None:
        yield (
            "The best prompt is not clearly above the best trivial answer "
            f"({result.trivial_score:.3f})."
        )
    if not result.readable:
        yield "The chosen prompt is not readable: its language is odd, or it asks for nothing."
    if result.collapsed:
        yield "The policy had collapsed at the end."
    if failed := sum(result.cost.failed.values()):
        yield f"{failed:,} calls failed for good; they are in no score."
    if unmatched := sum(result.cost.unmatched.values()):
        yield f"{unmatched:,} answers name no label; they count as wrong."


def duration(seconds: float) -> str:
    """Seconds as a reader counts them.

    >>> duration(204), duration(12.34)
    ('3 min 24 s', '12.3 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min {seconds - 60 * minutes:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min"


@dataclass(frozen=True, slots=True)
class Row:
    """A run in the table of several."""

    number: int
    run: Run
    over_seed: Comparison | None
    over_first: Comparison | None
    """The best prompt minus that of the first run, where both were asked about the same test
    examples and every answer is right or wrong."""


def rows_of(runs: list[Run]) -> list[Row]:
    """Runs side by side."""
    return [
        Row(n + 1, run, run.result.paired if run.result else None, _over_first(run, runs[0]))
        for n, run in enumerate(runs)
    ]


def _over_first(run: Run, first: Run) -> Comparison | None:
    one, other = _right_or_wrong(first), _right_or_wrong(run)
    if run is first or one is None or other is None or one[0] != other[0]:
        return None
    found = paired_comparison(one[1], other[1])
    return Comparison(
        difference=found.difference,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
        n=found.n,
        test=found.test,
    )


def _right_or_wrong(run: Run) -> tuple[tuple[object, ...], list[bool]] | None:
    """The test examples with their metric, and which of them the best prompt got right."""
    if run.result is None or run.test is None or run.task is None or not run.task.asked:
        return None
    found = [a for a in run.test.prompts if a.prompt == run.result.prompt and not a.left_out]
    if not found or len(found[0].values) != len(run.task.asked):
        return None
    if run.result.test.metric != "accuracy" or not set(found[0].values) <= {0.0, 1.0}:
        return None
    examples = tuple((e.text, e.label) for e in run.task.asked)
    return (run.result.test.metric, examples), [value == 1.0 for value in found[0].values]
