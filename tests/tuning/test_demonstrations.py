"""Few-shot: which examples are written into a prompt, how, and when that is kept."""

from collections.abc import Sequence
from typing import Any

import pytest

from stableprompt.config import make_config
from stableprompt.llm_config import LimitsConfig
from stableprompt.scoring.ledger import Ledger, Purpose
from stableprompt.scoring.limits import Limits
from stableprompt.scoring.scorer import PromptScore
from stableprompt.tasks.example import Example
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import TargetTemplate
from stableprompt.tuning.candidates import CandidatePool
from stableprompt.tuning.demonstrations import draw_demonstrations, with_demonstrations
from stableprompt.tuning.selection import select

ROWS = [
    {"text": f"{split} {i}", "label": "ab"[i % 2], "split": split}
    for split in ("train", "validation", "test")
    for i in range(8)
]
TASK = Task.from_records(ROWS, seed_prompt="Sort.", label_words={"a": "first", "b": "second"})


def config_of(number: int, sets: int = 3, seed: int = 0) -> Any:
    return make_config(
        {"seed": seed, "selection": {"num_demonstrations": number, "demonstration_sets": sets}}
    )


def test_examples_stand_behind_the_instruction_with_their_label_words() -> None:
    shown = [Example("so it is", "b"), Example("not so", "a")]
    assert with_demonstrations("Sort.", TASK, shown) == (
        "Sort.\n\nInput: so it is\nOutput: second\n\nInput: not so\nOutput: first"
    )


def test_before_an_instruction_that_places_the_input() -> None:
    shown = [Example("so it is", "b")]
    prompt = with_demonstrations("Sort {text}:", TASK, shown)
    assert prompt == "Input: so it is\nOutput: second\n\nSort {text}:"
    [message] = TargetTemplate().messages(prompt, Example("this", "a", fields={"text": "this"}))
    assert message["content"] == "Input: so it is\nOutput: second\n\nSort this:"


def test_the_sets_are_random_seeded_and_of_train() -> None:
    drawn = list(draw_demonstrations("Sort.", TASK, config_of(3)))
    assert len(drawn) == 3
    assert len(set(drawn)) == 3
    assert drawn == list(draw_demonstrations("Sort.", TASK, config_of(3)))
    assert drawn != list(draw_demonstrations("Sort.", TASK, config_of(3, seed=1)))
    for prompt in drawn:
        assert prompt.count("Input: train ") == 3
        assert "validation" not in prompt and "test" not in prompt


def test_none_where_none_are_asked_for() -> None:
    assert list(draw_demonstrations("Sort.", TASK, config_of(0))) == []


def test_an_example_that_spells_a_placeholder_is_never_shown() -> None:
    rows = [{**row, "text": row["text"] + (" {text}" if i else "")} for i, row in enumerate(ROWS)]
    drawn = list(draw_demonstrations("Sort.", Task.from_records(rows), config_of(3)))
    # One example is left, so that every set is the same.
    assert set(drawn) == {"Sort.\n\nInput: train 0\nOutput: a"}


class Few:
    """Scores a prompt by its number of examples."""

    def __init__(self, scores: dict[int, float]) -> None:
        self.scores = scores
        self.limits = Limits(LimitsConfig())
        self.ledger = Ledger()
        self.asked: list[tuple[str, Purpose]] = []

    def score_each(
        self, asked: Sequence[tuple[str, Sequence[Example]]], purpose: Purpose
    ) -> list[PromptScore]:
        return self.score_all([prompt for prompt, _ in asked], asked[0][1], purpose)

    def score_all(
        self, prompts: Sequence[str], examples: Sequence[Example], purpose: Purpose
    ) -> list[PromptScore]:
        self.asked += [(prompt, purpose) for prompt in prompts]
        return [self._score(prompt, examples) for prompt in prompts]

    def _score(self, prompt: str, examples: Sequence[Example]) -> PromptScore:
        score = self.scores[prompt.count("Input:")]
        values = tuple(float(i < score * len(examples)) for i in range(len(examples)))
        return PromptScore(score, 0.0, score, values, values, ("",) * len(examples))


def choose(scorer: Any, number: int = 2) -> Any:
    return select(
        CandidatePool(TASK.seed_prompt), TASK, scorer, config_of(number), lambda prompt: True
    )


def test_demonstrations_are_kept_where_they_are_better_on_validation() -> None:
    scorer = Few({0: 0.5, 2: 0.75})
    chosen = choose(scorer)
    assert chosen.instruction == "Sort."
    assert chosen.prompt == next(draw_demonstrations("Sort.", TASK, config_of(2)))  # the first best
    assert chosen.validation.score == 0.75
    assert chosen.num_compared == 4
    assert {purpose for _, purpose in scorer.asked} == {Purpose.VALIDATION}


@pytest.mark.parametrize("score", [0.5, 0.25])
def test_and_not_where_they_are_no_better(score: float) -> None:
    chosen = choose(Few({0: 0.5, 2: score}))
    assert chosen.prompt == chosen.instruction == "Sort."
