"""Example by example on test: what the best prompt fixed and broke, by class, and what for what."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from stableprompt.reporting.reading import Run
from stableprompt.reporting.records import Answers, Example
from stableprompt.tasks.example import TaskKind
from stableprompt.tasks.statistics import Estimate, accuracy_estimate

NOTHING: Final = ""
"""The answer that is none: a tie, silence, or words that name no label."""
MOST_CLASSES: Final = 20
"""More do not fit into a table of what was taken for what."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What the seed prompt and the best prompt got for one example."""

    example: Example
    seed_answer: str
    seed_value: float
    best_answer: str
    best_value: float

    @property
    def change(self) -> str:
        """One of "fixed", "broke", "both right", "both wrong"; "better" and so on in between."""
        was, now = self.seed_value, self.best_value
        if {was, now} <= {0.0, 1.0}:
            words = {(0, 1): "fixed", (1, 0): "broke", (1, 1): "both right", (0, 0): "both wrong"}
            return words[int(was), int(now)]
        return "better" if now > was else "worse" if now < was else "equal"


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class: of its examples, the share that each prompt got right."""

    label: str
    n: int
    seed: Estimate
    best: Estimate
    seed_precision: float | None
    """Of the times it was answered, the share that was right; None where it never was."""
    best_precision: float | None


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often each class was taken for each: rows what is right, columns what was answered."""

    labels: list[str]
    answers: list[str]
    """The labels, and "" where something else was answered."""
    counts: list[list[int]]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The two prompts on the test examples that both were answered on."""

    pairs: list[Pair]
    classes: list[ClassRow]
    seed_confusion: Confusion | None
    best_confusion: Confusion | None

    @property
    def changes(self) -> Counter[str]:
        """How many examples changed how."""
        return Counter(pair.change for pair in self.pairs)


def outcomes_of(run: Run) -> Outcomes | str | None:
    """What the files say of each test example; a sentence where they cannot be matched.

    None where the run has not read its test split.
    """
    if run.test is None or run.task is None or run.result is None:
        return None
    found = {answers.prompt: answers for answers in run.test.prompts}
    seed, best = (found.get(prompt) for prompt in (run.result.seed_prompt, run.result.prompt))
    if seed is None or best is None:
        return "test.json lacks the seed prompt or the chosen prompt."
    examples = run.task.asked
    places = _places(seed, len(examples)), _places(best, len(examples))
    if None in places:
        return (
            "The answers in test.json cannot be matched with the test examples in task.json: "
            "their numbers differ."
        )
    of_seed, of_best = (place or {} for place in places)
    pairs = [
        Pair(example, *of_seed[number], *of_best[number])
        for number, example in enumerate(examples)
        if number in of_seed and number in of_best
    ]
    if run.task.kind != TaskKind.CLASSIFICATION:
        return Outcomes(pairs, [], None, None)
    labels = list(run.task.label_words or sorted({e.label for e in examples}))
    return Outcomes(
        pairs,
        [row for label in labels if (row := _class_row(label, pairs))],
        _confusion(labels, [(p.example.label, p.seed_answer) for p in pairs]),
        _confusion(labels, [(p.example.label, p.best_answer) for p in pairs]),
    )


def _places(answers: Answers, asked: int) -> dict[int, tuple[str, float]] | None:
    """Answer and value of each example by its number; None where they do not fit the split."""
    missing = set(answers.left_out)
    numbers = [number for number in range(asked) if number not in missing]
    if not len(numbers) == len(answers.values) == len(answers.predictions):
        return None
    return dict(zip(numbers, zip(answers.predictions, answers.values, strict=True), strict=True))


def _class_row(label: str, pairs: Sequence[Pair]) -> ClassRow | None:
    own = [pair for pair in pairs if pair.example.label == label]
    if not own:
        return None
    return ClassRow(
        label,
        len(own),
        accuracy_estimate([pair.seed_answer == label for pair in own]),
        accuracy_estimate([pair.best_answer == label for pair in own]),
        _precision(label, [(p.example.label, p.seed_answer) for p in pairs]),
        _precision(label, [(p.example.label, p.best_answer) for p in pairs]),
    )


def _precision(label: str, answered: Sequence[tuple[str, str]]) -> float | None:
    right = [correct == label for correct, answer in answered if answer == label]
    return sum(right) / len(right) if right else None


def _confusion(labels: Sequence[str], answered: Sequence[tuple[str, str]]) -> Confusion | None:
    if len(labels) > MOST_CLASSES:
        return None
    known = set(labels)
    counted = Counter((c, answer if answer in known else NOTHING) for c, answer in answered)
    answers = [*labels, *([NOTHING] if any(a == NOTHING for _, a in counted) else [])]
    return Confusion(list(labels), answers, _table(labels, answers, counted))


def _table(
    rows: Sequence[str], columns: Sequence[str], counted: Mapping[tuple[str, str], int]
) -> list[list[int]]:
    return [[counted.get((row, column), 0) for column in columns] for row in rows]
