"""The choice on validation, and the one reading of the test split."""

from collections.abc import Sequence
from typing import Any

import pytest

from stableprompt.config import make_config
from stableprompt.models.adapters import Role
from stableprompt.scoring.ledger import Purpose
from stableprompt.scoring.scorer import PromptScore
from stableprompt.tasks.example import Example
from stableprompt.tasks.task import Task
from stableprompt.tuning.candidates import Candidate, CandidatePool
from stableprompt.tuning.selection import read_test, select
from tests.fakes.word_agent import make_task

TASK = make_task()
SEED = TASK.seed_prompt


class FakeScorer:
    """Knows for each prompt how many examples it gets right, and by how much."""

    def __init__(self, **known: tuple[int, float]) -> None:
        self.known = {name.replace("_", " "): figures for name, figures in known.items()}
        self.asked: list[tuple[str, Purpose]] = []

    def score(self, prompt: str, examples: Sequence[Example], purpose: Purpose) -> PromptScore:
        assert examples == getattr(TASK, str(purpose))
        self.asked.append((prompt, purpose))
        return score_of(len(examples), *self.known[prompt])

    def score_all(
        self, prompts: Sequence[str], examples: Sequence[Example], purpose: Purpose
    ) -> list[PromptScore]:
        return [self.score(prompt, examples, purpose) for prompt in prompts]


def score_of(count: int, right: int, difference: float) -> PromptScore:
    values = tuple(float(i < right) for i in range(count))
    return PromptScore(right / count, difference, right / count + difference, values, ("",) * count)


def pool_of(**gains: float) -> CandidatePool:
    pool = CandidatePool()
    pool.add(
        Candidate(0, Role.POLICY, Purpose.TRAINING, name, None, gain, 0.5, 0.0, 0.0)
        for name, gain in gains.items()
    )
    return pool


def choose(pool: CandidatePool, scorer: Any, *, finalists: int = 8, task: Task = TASK) -> Any:
    return select(pool, task, scorer, make_config({"selection": {"num_finalists": finalists}}))


def test_the_best_on_validation_is_chosen_whatever_its_gain() -> None:
    scorer = FakeScorer(sort_one_text=(5, 0.1), first=(7, 0.1), second=(9, 0.0))
    chosen = choose(pool_of(first=2.0, second=1.0), scorer)
    assert chosen.prompt == "second"
    assert chosen.num_compared == 3
    # 18 validation examples: 60 rows, 0.3 of each label.
    assert (chosen.validation.score, chosen.validation.n) == (9 / 18, 18)
    assert chosen.seed_validation.score == 5 / 18
    assert scorer.asked == [(prompt, Purpose.VALIDATION) for prompt in (SEED, "first", "second")]


def test_where_scores_are_equal_the_seed_prompt_stays() -> None:
    scorer = FakeScorer(sort_one_text=(9, -0.5), other=(9, 0.9))
    assert choose(pool_of(other=1.0), scorer).prompt == SEED


def test_where_others_are_equal_the_larger_softmax_difference_decides() -> None:
    scorer = FakeScorer(sort_one_text=(5, 0.9), a=(9, 0.1), b=(9, 0.3), c=(9, 0.2))
    assert choose(pool_of(a=3.0, b=2.0, c=1.0), scorer).prompt == "b"


def test_where_all_is_equal_the_text_decides() -> None:
    scorer = FakeScorer(sort_one_text=(5, 0.9), a=(9, 0.1), b=(9, 0.1))
    assert choose(pool_of(b=3.0, a=1.0), scorer).prompt == "a"


@pytest.mark.parametrize(("finalists", "asked"), [(1, ["a"]), (2, ["a", "b"])])
def test_only_the_finalists_are_scored_and_the_seed_prompt_with_them(
    finalists: int, asked: list[str]
) -> None:
    scorer = FakeScorer(sort_one_text=(5, 0.1), a=(4, 0.1), b=(6, 0.1), c=(18, 0.1))
    chosen = choose(pool_of(a=3.0, b=2.0, c=1.0), scorer, finalists=finalists)
    assert [prompt for prompt, _ in scorer.asked] == [SEED, *asked]
    assert chosen.num_compared == finalists + 1
    assert chosen.prompt == (SEED if finalists == 1 else "b")


def test_the_seed_prompt_is_compared_once_where_it_is_a_finalist_too() -> None:
    pool = pool_of(**{SEED: 5.0, "a": 1.0})
    scorer = FakeScorer(sort_one_text=(5, 0.1), a=(4, 0.1))
    assert choose(pool, scorer).num_compared == 2
    assert [prompt for prompt, _ in scorer.asked] == [SEED, "a"]


def test_validated_prompts_are_compared_but_not_scored_again() -> None:
    pool = pool_of(a=1.0)
    pool.validated = {
        "a": score_of(18, 6, 0.1),
        "judged": score_of(18, 8, 0.1),  # from an anchor decision, on no leaderboard
        SEED: score_of(18, 7, 0.1),
    }
    scorer = FakeScorer()
    chosen = choose(pool, scorer)
    assert scorer.asked == []
    assert (chosen.prompt, chosen.num_compared) == ("judged", 3)
    assert chosen.seed_validation.score == 7 / 18


def test_without_candidates_the_seed_prompt_is_chosen() -> None:
    chosen = choose(CandidatePool(), FakeScorer(sort_one_text=(0, -1.0)))
    assert (chosen.prompt, chosen.num_compared) == (SEED, 1)
    assert chosen.validation == chosen.seed_validation


def test_what_select_scored_is_kept_for_a_checkpoint() -> None:
    pool = pool_of(a=1.0)
    choose(pool, FakeScorer(sort_one_text=(5, 0.1), a=(4, 0.1)))
    assert pool.validated.keys() == {SEED, "a"}


# --- the test split ---


def read(scorer: Any, prompt: str) -> Any:
    return read_test(TASK, scorer, prompt, seed=0)


def test_both_prompts_are_scored_on_the_same_test_examples() -> None:
    scorer = FakeScorer(sort_one_text=(9, 0.1), chosen=(12, 0.1))
    figures = read(scorer, "chosen")
    assert scorer.asked == [(SEED, Purpose.TEST), ("chosen", Purpose.TEST)]
    assert (figures.test.score, figures.seed_test.score) == (12 / 18, 9 / 18)
    assert figures.paired.difference == pytest.approx(3 / 18)
    assert figures.paired.n == 18
    # 3 examples won and none lost: p = 2 * 1/8.
    assert figures.paired.p_value == 0.25


def test_a_seed_prompt_that_was_chosen_is_scored_once() -> None:
    scorer = FakeScorer(sort_one_text=(9, 0.1))
    figures = read(scorer, SEED)
    assert scorer.asked == [(SEED, Purpose.TEST)]
    assert figures.test == figures.seed_test
    assert (figures.paired.difference, figures.paired.p_value) == (0, 1)
    assert (figures.paired.low, figures.paired.high) == (0, 0)


def test_the_seed_decides_the_bootstrap() -> None:
    class Mixed(FakeScorer):
        def score(self, prompt: str, examples: Any, purpose: Purpose) -> PromptScore:
            step = 2 if prompt == SEED else 3
            values = tuple(float(i % step == 0) for i in range(len(examples)))
            return PromptScore(sum(values) / len(values), 0.0, 0.0, values, ("",) * len(values))

    draws = [read_test(TASK, Mixed(), "x", seed=seed).paired for seed in (0, 0, *range(1, 30))]
    assert draws[0] == draws[1]
    assert len({(draw.low, draw.high) for draw in draws}) > 1
