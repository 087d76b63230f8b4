"""Long tables of a page as plain values: ``page.js`` sorts, searches and pages through them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from stableprompt.reporting.outcomes import NOTHING, Outcomes, Pair
from stableprompt.reporting.reading import Run
from stableprompt.reporting.records import Estimate, Written
from stableprompt.reporting.visible import visible

Kind = Literal["text", "word", "count", "figure", "signed", "score"]
"""text: long; word: short; count: whole; figure, signed: with digits; score: [score, n]."""
Value = str | float | None | list[float | None]

WORD: Final = 24
"""Characters of an answer that needs no wide column."""
CELL: Final = 2_000
"""Characters of one cell."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column."""

    title: str
    kind: Kind
    about: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that a reader can sort, search and filter.

    Attributes:
        name: Its id on the page.
        caption: What it holds.
        columns: Their titles and kinds.
        rows: A value for each column.
        sort: Column to sort by at first, and whether the largest stands above.
        choices: Values of the column ``choose`` that buttons offer; none where it is empty.
        choose: Number of the column that the buttons filter by.
        search: What the search field is called; empty where there is none.
    """

    name: str
    caption: str
    columns: list[Column]
    rows: list[list[Value]]
    sort: tuple[int, bool]
    choices: list[str] = field(default_factory=list)
    choose: int = 0
    search: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For the page."""
        return asdict(self)


def _cell(text: str) -> str:
    if len(text) > CELL:
        return f"{visible(text[:CELL])}… ({len(text)} characters in all)"
    return visible(text)


@dataclass(slots=True)
class _Seen:
    """One prompt, over all the times it was written."""

    first: Written
    training: list[Written] = field(default_factory=list)
    validation: list[tuple[Written, int]] = field(default_factory=list)

    @property
    def times(self) -> int:
        return len(self.training) + len(self.validation)


def candidates_table(run: Run) -> Table | None:
    """Every different prompt that was written, with what it scored where, and on how much."""
    seen: dict[str, _Seen] = {}
    decided = {s.step: s.anchor.n for s in run.steps if s.anchor is not None}
    for line in run.prompts:
        one = seen.setdefault(line.prompt, _Seen(line))
        if line.scored_on == "validation":
            one.validation.append((line, decided.get(line.step, 0)))
        else:
            one.training.append(line)
    rows = [_candidate(text, one, run) for text, one in seen.items()]
    rows += [_measured(text, run) for text in _roles(run) if text not in seen]
    if not rows:
        return None
    columns = [
        Column("Prompt", "text"),
        Column("Role", "word", "chosen, seed, or why it was refused"),
        Column("Step", "count", "the first step that it was written in"),
        Column("Times", "count", "how often it was written"),
        Column("Train", "score", "mean score on training examples; n of prompt-example pairs"),
        Column("Gain", "signed", "mean reward minus the seed prompt's on the same examples"),
        Column("Validation", "score", "mean score on validation examples; n of pairs"),
        Column("Test", "score", "score on the test split, read once after the choice"),
        Column("Words", "count"),
        Column("Surprise", "signed", "how odd the language is for its length"),
    ]
    kept, values = _without_empty(columns, rows)
    by = next((i for i, column in enumerate(kept) if column.title == "Gain"), 0)
    return Table(
        "candidates",
        f"{len(rows)} different prompts. n counts pairs of prompt and example that were asked; "
        "those that got no answer are not taken off.",
        kept,
        values,
        (by, True),
        choices=["chosen", "leader", "seed", "scored", "refused"],
        choose=1,
        search="Search prompts",
    )


def _without_empty(
    columns: Sequence[Column], rows: Sequence[list[Value]]
) -> tuple[list[Column], list[list[Value]]]:
    """Without columns in which nothing stands."""
    filled = [i for i in range(len(columns)) if any(row[i] is not None for row in rows)]
    return [columns[i] for i in filled], [[row[i] for i in filled] for row in rows]


def _roles(run: Run) -> dict[str, str]:
    """The prompts that a reader looks for, by text."""
    roles = {run.seed_prompt: "seed"} if run.seed_prompt else {}
    if run.leader:
        roles[run.leader] = "chosen" if run.result is not None else "leader"
    return {text: role for text, role in roles.items() if text is not None}


def _candidate(text: str, one: _Seen, run: Run) -> list[Value]:
    first = one.first
    gains = [
        w.reward - w.seed_reward
        for w in one.training
        if w.fault is None and w.reward is not None and w.seed_reward is not None
    ]
    each = _examples_per_prompt(run)
    training = [(w, each) for w in one.training]
    refused = f"refused: {first.fault.replace('_', ' ')}" if first.fault else None
    known = _known(text, run)
    return [
        _cell(text),
        _roles(run).get(text) or refused or "scored",
        first.step + 1.0,
        float(one.times),
        _pooled(training),
        sum(gains) / len(gains) if gains else None,
        _figure(known[0]) or _pooled(one.validation),
        _figure(known[1]),
        None if first.num_words is None else float(first.num_words),
        first.surprise,
    ]


def _measured(text: str, run: Run) -> list[Value]:
    """A prompt that the loop did not write: the seed prompt, or one with demonstrations."""
    validation, test = map(_figure, _known(text, run))
    role = _roles(run)[text]
    words = float(len(text.split()))
    return [_cell(text), role, None, None, None, None, validation, test, words, None]


def _known(text: str, run: Run) -> tuple[Estimate | None, Estimate | None]:
    """Validation and test of a prompt, as the result has them."""
    found = run.result
    if found is None:
        return None, None
    if text == found.prompt:
        return found.validation, found.test
    if text == found.seed_prompt:
        return found.seed_validation, found.seed_test
    if text == found.readable_prompt:
        return None, found.readable_test
    return None, None


def _figure(estimate: Estimate | None) -> list[float | None] | None:
    return None if estimate is None else [estimate.score, float(estimate.n)]


def _pooled(lines: Sequence[tuple[Written, int]]) -> list[float | None] | None:
    """Mean score of a prompt over the times it was scored, and the pairs behind it."""
    scored = [(w.score, n) for w, n in lines if w.score is not None]
    if not scored:
        return None
    n = sum(n for _, n in scored)
    return [sum(score for score, _ in scored) / len(scored), float(n) if n else None]


def _examples_per_prompt(run: Run) -> int:
    """How many training examples a prompt of a step is scored on; 0 where nobody knows."""
    config = run.config or {}
    per_input, reward = config.get("per_input"), config.get("reward")
    if isinstance(per_input, dict) and per_input.get("mode") in ("always", "auto"):
        return 1
    each = reward.get("examples_per_step") if isinstance(reward, dict) else None
    if not isinstance(each, int):
        return 0
    return min(each, len(run.task.train)) if run.task is not None else each


def examples_table(outcomes: Outcomes) -> Table | None:
    """Test examples with both answers; those that the best prompt fixed stand first."""
    order = ["fixed", "broke", "better", "worse", "both wrong", "both right", "equal"]
    changes = outcomes.changes
    if not outcomes.pairs:
        return None
    graded = any(pair.change in ("better", "worse", "equal") for pair in outcomes.pairs)
    longest = max(len(text) for p in outcomes.pairs for text in _texts(p))
    answer: Kind = "word" if longest <= WORD else "text"
    columns = [Column("Change", "word"), Column("Input", "text"), Column("Right answer", answer),
               Column("Seed prompt's", answer), Column("Best prompt's", answer)]  # fmt: skip
    if graded:
        columns += [Column("Seed value", "figure"), Column("Best value", "figure")]
    rows: list[list[Value]] = []
    for pair in sorted(outcomes.pairs, key=lambda pair: order.index(pair.change)):
        right = " | ".join([pair.example.label, *pair.example.others])
        answers = [_answer(pair.seed_answer), _answer(pair.best_answer)]
        row: list[Value] = [pair.change, _cell(pair.example.text), _cell(right), *answers]
        rows.append([*row, pair.seed_value, pair.best_value] if graded else row)
    choices = [change for change in order if changes[change]]
    return Table(
        "examples",
        f"{len(rows)} test examples that both prompts were answered on.",
        columns,
        rows,
        (-1, False),
        choices=choices,
        search="Search examples",
    )


def _texts(pair: Pair) -> tuple[str, ...]:
    return (*pair.example.others, pair.example.label, pair.seed_answer, pair.best_answer)


def _answer(text: str) -> str:
    return "(none)" if text == NOTHING else _cell(text)


def writes_table(run: Run) -> Table | None:
    """The prompt that was written for each input of test, where the run was for that."""
    if not run.writes:
        return None
    rows: list[list[Value]] = [
        [
            _cell(w.input),
            _cell(w.prompt),
            "used" if w.fault is None else f"refused: {w.fault.replace('_', ' ')}",
            w.value,
        ]
        for w in run.writes
    ]
    refused = any(w.fault for w in run.writes)
    return Table(
        "writes",
        f"{len(rows)} prompts, one for each test input that was answered. Where a prompt was "
        "refused, the one for all stood in.",
        [Column("Input", "text"), Column("Prompt", "text"), Column("Use", "word"),
         Column("Value", "figure", "what the answer was worth, 0 to 1")],
        rows,
        (-1, False),
        choices=["used", "refused"] if refused else [],
        choose=2,
        search="Search inputs and prompts",
    )  # fmt: skip


def steps_table(run: Run) -> Table | None:
    """The figures behind the charts, a row a step."""
    if not run.steps:
        return None
    columns = [Column("Step", "count"), Column("Target calls", "count"),
               Column("Mean reward", "signed"), Column("Best reward", "signed"),
               Column("Seed reward", "signed"), Column("KL to anchor", "figure"),
               Column("Entropy", "figure"), Column("Refused", "count"),
               Column("Anchor", "word"), Column("Alarms", "word"),
               Column("Seconds", "count"), Column("Leader", "text")]  # fmt: skip
    rows: list[list[Value]] = [
        [
            s.step + 1.0,
            float(s.target_calls),
            s.mean_reward,
            s.best_reward,
            s.seed_reward,
            s.update.anchor_kl if s.update else None,
            s.update.entropy if s.update else None,
            float(sum(s.faults.values())),
            visible(s.anchor.decision.replace("_", " ")) if s.anchor else None,
            visible(", ".join(s.monitor.alarms).replace("_", " ")) or None,
            s.seconds,
            _cell(s.best_prompt) if s.best_prompt else None,
        ]
        for s in run.steps
    ]
    kept, values = _without_empty(columns, rows)
    return Table("steps", f"{len(rows)} steps.", kept, values, (0, False))
