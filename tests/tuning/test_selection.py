"""The choice on validation, and the one reading of the test split."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from stableprompt.config import make_config
from stableprompt.llm_config import LimitsConfig
from stableprompt.models.targets.interface import Usage
from stableprompt.scoring.ledger import Ledger, Purpose
from stableprompt.scoring.limits import Limits
from stableprompt.scoring.scorer import PromptScore
from stableprompt.tasks.example import Example
from stableprompt.tasks.metrics.registry import METRICS
from stableprompt.tasks.task import Task
from stableprompt.tuning.candidates import CandidatePool
from stableprompt.tuning.race import PAPER_FINALISTS
from stableprompt.tuning.selection import (
    Selection,
    estimate_of,
    read_test,
    select,
)
from tests.fakes.word_agent import make_task

TASK = make_task()
SEED = TASK.seed_prompt


class FakeScorer:
    """Knows for each prompt how many examples of 18 it gets right, and by how much."""

    def __init__(self, **known: tuple[float, float]) -> None:
        self.known = {name.replace("_", " "): figures for name, figures in known.items()}
        self.asked: list[tuple[str, Purpose]] = []
        self.looks: list[int] = []  # how many examples each prompt of ``asked`` met
        self.ledger = Ledger()
        self.limits = Limits(LimitsConfig())

    def score(self, prompt: str, examples: Sequence[Example], purpose: Purpose) -> PromptScore:
        split = getattr(TASK, str(purpose))
        assert set(examples) <= set(split)
        if len(examples) == len(split):
            assert examples == split
        self.asked.append((prompt, purpose))
        self.looks.append(len(examples))
        right, difference = self.known[prompt]
        return score_of(len(examples), right * len(examples) / 18, difference)

    def score_each(
        self, asked: Sequence[tuple[str, Sequence[Example]]], purpose: Purpose
    ) -> list[PromptScore]:
        return self.score_all([prompt for prompt, _ in asked], asked[0][1], purpose)

    def score_all(
        self, prompts: Sequence[str], examples: Sequence[Example], purpose: Purpose
    ) -> list[PromptScore]:
        return [self.score(prompt, examples, purpose) for prompt in prompts]


def score_of(count: int, right: float, difference: float) -> PromptScore:
    values = tuple(float(i < right) for i in range(count))
    rewards = tuple(value + difference for value in values)
    reward = right / count + difference
    return PromptScore(right / count, difference, reward, values, rewards, ("",) * count)


def pool_of(**gains: float) -> CandidatePool:
    """One step: what each earned on two training examples, where the seed prompt earned 0."""
    pool = CandidatePool(SEED)
    names = [SEED, *(name.replace("_", " ") for name in gains)]
    scores = [PromptScore(g, 0.0, g, (g, g), (g, g), ("", "")) for g in (0.0, *gains.values())]
    pool.add(names, scores, TASK.train[:2], group=0)
    return pool


class Rated(CandidatePool):
    """Prompts with given ratings, whatever is seen of them; all others are rated 0."""

    def __init__(self, **ratings: float) -> None:
        super().__init__(SEED)
        self.ratings = {name.replace("_", " "): rating for name, rating in ratings.items()}
        leaders = [prompt for prompt in self.ratings if prompt != SEED]
        self.add(leaders, [score_of(1, 0, 0.0)] * len(leaders), TASK.train[:1])

    def rating(self, prompt: str) -> float:
        return self.ratings.get(prompt, 0.0)

    def leaderboard(self, size: int) -> list[str]:
        return [prompt for prompt in self.ratings if prompt != SEED][:size]


def choose(
    pool: CandidatePool,
    scorer: Any,
    *,
    finalists: int = 8,
    task: Task = TASK,
    rounds: int = 1,
    readable: Callable[[str], bool] = lambda prompt: True,
    **settings: Any,
) -> Selection:
    selection = {"num_finalists": finalists, "rounds": rounds, **settings.pop("selection", {})}
    config = make_config({"selection": selection, **settings})
    return select(pool, task, scorer, config, readable)


def test_the_best_on_validation_is_chosen_where_training_says_little_else() -> None:
    scorer = FakeScorer(sort_one_text=(5, 0.1), first=(7, 0.1), second=(9, 0.1))
    chosen = choose(pool_of(first=0.3, second=0.2), scorer)
    assert chosen.prompt == "second"
    assert chosen.num_compared == 3
    # 18 validation examples: 60 rows, 0.3 of each label.
    assert (chosen.validation.score, chosen.validation.n) == (9 / 18, 18)
    assert chosen.seed_validation.score == 5 / 18
    assert scorer.asked == [(prompt, Purpose.VALIDATION) for prompt in (SEED, "first", "second")]


@pytest.mark.parametrize(("in_training", "expected"), [(18, "steady"), (10, "lucky")])
def test_what_was_seen_in_training_counts_beside_validation(
    in_training: int, expected: str
) -> None:
    # "lucky" is one better of 18 on validation, and got 9 of 18 right in training.
    pool = CandidatePool(SEED)
    scores = [score_of(18, right, 0.0) for right in (9, in_training, 9)]
    pool.add([SEED, "steady", "lucky"], scores, TASK.train[:18], group=0)
    chosen = choose(pool, FakeScorer(sort_one_text=(9, 0), steady=(12, 0), lucky=(13, 0)))
    assert chosen.prompt == expected
    assert chosen.validation.score == (12 if expected == "steady" else 13) / 18


def test_the_choice_goes_by_rating() -> None:
    scorer = FakeScorer(sort_one_text=(5, 0.9), a=(18, 0.9), b=(6, 0.1))
    assert choose(Rated(a=0.1, b=0.2), scorer).prompt == "b"


@pytest.mark.parametrize(("right", "expected"), [(4, SEED), (5, "a"), (6, "a")])
def test_nothing_is_chosen_that_scores_below_the_seed_prompt_on_validation(
    right: int, expected: str
) -> None:
    chosen = choose(Rated(a=9.0), FakeScorer(sort_one_text=(5, 0.1), a=(right, 0.9)))
    assert chosen.prompt == chosen.readable == expected


def test_nor_if_more_than_that_is_better_in_training() -> None:
    # By its softmax differences and in training it is far ahead.
    pool = pool_of(a=3.0)
    chosen = choose(pool, FakeScorer(sort_one_text=(5, 0.0), a=(4, 0.9)))
    assert pool.rating("a") > pool.rating(SEED) + 0.5
    assert chosen.prompt == SEED


def test_a_seed_prompt_that_is_rated_higher_stays_whatever_validation_says() -> None:
    scorer = FakeScorer(sort_one_text=(5, 0.1), a=(9, 0.1))
    assert choose(Rated(sort_one_text=0.5, a=0.4), scorer).prompt == SEED


def test_where_ratings_are_equal_the_seed_prompt_stays() -> None:
    scorer = FakeScorer(sort_one_text=(9, -0.5), other=(9, 0.9), a=(18, 0.9))
    assert choose(Rated(sort_one_text=0.5, other=0.5, a=0.5), scorer).prompt == SEED


def test_where_scores_are_equal_the_larger_softmax_difference_decides() -> None:
    scorer = FakeScorer(sort_one_text=(5, 0.0), a=(9, 0.1), b=(9, 0.3), c=(9, 0.2))
    assert choose(pool_of(a=0.03, b=0.02, c=0.01), scorer).prompt == "b"


def test_where_all_is_equal_the_text_decides() -> None:
    scorer = FakeScorer(sort_one_text=(5, 0.9), a=(9, 0.1), b=(9, 0.1))
    assert choose(Rated(b=1.0, a=1.0), scorer).prompt == "a"


@pytest.mark.parametrize(("finalists", "asked"), [(1, ["a"]), (2, ["a", "b"])])
def test_only_the_finalists_are_scored_and_the_seed_prompt_with_them(
    finalists: int, asked: list[str]
) -> None:
    scorer = FakeScorer(sort_one_text=(5, 0.1), a=(4, 0.1), b=(6, 0.1), c=(18, 0.1))
    chosen = choose(pool_of(a=0.3, b=0.2, c=0.1), scorer, finalists=finalists)
    assert [prompt for prompt, _ in scorer.asked] == [SEED, *asked]
    assert chosen.num_compared == finalists + 1
    assert chosen.prompt == (SEED if finalists == 1 else "b")


def test_validated_prompts_are_compared_but_not_scored_again() -> None:
    pool = pool_of(a=0.2)
    # "judged" comes from an anchor decision.
    prompts, rights = ["a", "judged", SEED], [6, 8, 7]
    scores = [score_of(18, right, 0.1) for right in rights]
    pool.add(prompts, scores, TASK.validation, group=0)
    pool.validated = dict(zip(prompts, scores, strict=True))
    scorer = FakeScorer()
    chosen = choose(pool, scorer)
    assert scorer.asked == []
    assert (chosen.prompt, chosen.num_compared) == ("judged", 3)
    assert chosen.seed_validation.score == 7 / 18


def test_without_candidates_the_seed_prompt_is_chosen() -> None:
    chosen = choose(CandidatePool(SEED), FakeScorer(sort_one_text=(0, -1.0)))
    assert (chosen.prompt, chosen.num_compared) == (SEED, 1)
    assert chosen.validation == chosen.seed_validation


def test_what_select_scored_is_kept_for_a_checkpoint() -> None:
    pool = pool_of(a=1.0)
    choose(pool, FakeScorer(sort_one_text=(5, 0.1), a=(4, 0.1)))
    assert pool.validated.keys() == {SEED, "a"}
    assert pool.rating("a") != pool_of(a=1.0).rating("a")


# --- races ---


def test_finalists_race_on_one_order_of_the_split_and_the_better_half_is_compared() -> None:
    known = {"a": (4, 0.1), "b": (12, 0.1), "c": (6, 0.1), "d": (14, 0.1), "sort_one_text": (5, 0)}
    scorer = FakeScorer(**known)
    pool = pool_of(a=0.04, b=0.03, c=0.02, d=0.01)
    chosen = choose(pool, scorer, rounds=2)
    assert chosen.prompt == "d"
    assert [prompt for prompt, _ in scorer.asked] == [SEED, *"abcd", "d", "b"]
    assert scorer.looks == [18, 9, 9, 9, 9, 18, 18]
    assert chosen.num_compared == 3
    assert pool.validated.keys() == {SEED, "b", "d"}


def test_what_was_validated_before_does_not_race() -> None:
    pool = pool_of(a=0.03, b=0.02, c=0.01)
    validated: Any = FakeScorer(a=(9, 0.1))
    pool.validate(["a"], validated, TASK.validation)
    scorer = FakeScorer(sort_one_text=(5, 0), b=(6, 0.1), c=(7, 0.1))
    chosen = choose(pool, scorer, rounds=2)
    assert chosen.prompt == "a"
    assert [prompt for prompt, _ in scorer.asked] == [SEED, "b", "c", "c"]


@pytest.mark.parametrize(
    ("spent", "asked"),
    [
        # The seed prompt costs 18 calls; two that race over two looks of 9 cost 2 * 9 + 9 = 27, one
        # alone costs 18. Three cost 3 * 9 + 2 * 9 = 45, four 4 * 9 + 2 * 9 = 54.
        (100 - 18 - 17, []),
        (100 - 18 - 18, ["a"]),
        (100 - 18 - 27, ["a", "b"]),
        (100 - 18 - 45, ["a", "b", "c"]),
        (100 - 18 - 54, ["a", "b", "c", "d"]),
    ],
)
def test_with_a_budget_as_many_race_as_are_paid_for(spent: int, asked: list[str]) -> None:
    pairs: set[tuple[str, Example]] = set()  # each is asked once

    class Counting(FakeScorer):
        def score(self, prompt: str, examples: Any, purpose: Purpose) -> PromptScore:
            new = {(prompt, example) for example in examples} - pairs
            pairs.update(new)
            self.ledger.add_target(purpose, Usage(), calls=len(new))
            return super().score(prompt, examples, purpose)

    scorer = Counting(sort_one_text=(5, 0), a=(6, 0), b=(7, 0), c=(8, 0), d=(9, 0))
    scorer.ledger.add_target(Purpose.TRAINING, Usage(), calls=spent)
    scorer.ledger.add_target(Purpose.TEST, Usage(), calls=10_000)  # not of the budget
    pool = pool_of(a=0.4, b=0.3, c=0.2, d=0.1)
    # More than the finalists that are asked for, if nothing is left to do but to compare.
    choose(pool, scorer, finalists=1, rounds=2, budget=100)
    first = dict.fromkeys(prompt for prompt, _ in scorer.asked if prompt != SEED)
    assert list(first) == asked
    assert scorer.ledger.total_calls - 10_000 <= 100


def test_finalists_race_by_rating() -> None:
    # On 9 examples "b" is one ahead; in training "a" got 18 of 18 right, and it 9.
    pool = CandidatePool(SEED)
    scores = [score_of(18, right, 0.0) for right in (9, 18, 9)]
    pool.add([SEED, "a", "b"], scores, TASK.train[:18], group=0)
    scorer = FakeScorer(sort_one_text=(9, 0), a=(12, 0), b=(14, 0))
    assert choose(pool, scorer, rounds=2).prompt == "a"
    assert [prompt for prompt, _ in scorer.asked] == [SEED, "a", "b", "a"]
    # What "b" was seen to earn in the race is not forgotten.
    seen = dict(zip([SEED, "a", "b"], pool.to_dict()["seen"], strict=True))
    assert {prompt: len(own) for prompt, own in seen.items()} == {SEED: 36, "a": 36, "b": 27}


# --- demonstrations ---

FEW = {"num_demonstrations": 2, "demonstration_sets": 2}


class Shown(FakeScorer):
    """Gets so many right without demonstrations, and so many with them."""

    def __init__(self, without: float, with_them: float, **known: tuple[float, float]) -> None:
        super().__init__(**known)
        self.rights = (without, with_them)

    def score(self, prompt: str, examples: Any, purpose: Purpose) -> PromptScore:
        if prompt in self.known:
            return super().score(prompt, examples, purpose)
        return score_of(len(examples), self.rights["Input:" in prompt], 0.0)


def test_demonstrations_that_score_below_the_seed_prompt_are_not_chosen() -> None:
    class Loved(Rated):
        def rating(self, prompt: str) -> float:
            return 2.0 if "Input:" in prompt else super().rating(prompt)

    assert choose(Loved(a=1.0), Shown(9, 8), selection=FEW).prompt == "a"
    assert choose(Loved(a=1.0), Shown(9, 9), selection=FEW).prompt.startswith("a\n\nInput: ")


def test_demonstrations_must_be_rated_higher() -> None:
    assert choose(Rated(a=0.0), Shown(9, 18), selection=FEW).prompt == SEED
    assert choose(Rated(a=-1.0), Shown(9, 18), selection=FEW).prompt == SEED


def test_prompts_with_demonstrations_are_a_group_of_their_own() -> None:
    pool = pool_of(a=0.03, b=0.02)
    scorer = Shown(9, 16, sort_one_text=(5, 0.0), a=(12, 0.0), b=(6, 0.0))
    chosen = choose(pool, scorer, selection=FEW)
    assert chosen.instruction == "a"
    groups = pool.to_dict()["groups"]
    assert {group for prompt, group in groups.items() if "Input:" in prompt} == {1}
    assert {group for prompt, group in groups.items() if "Input:" not in prompt} == {0}
    assert chosen.prompt.startswith("a\n\nInput: ")


# --- what a person would ship ---


def test_a_winner_that_no_person_would_ship_is_not_the_readable_prompt() -> None:
    scorer = FakeScorer(sort_one_text=(5, 0), zqx=(12, 0.1), fine=(9, 0.1), good=(9, 0.2))
    pool = pool_of(zqx=0.03, fine=0.02, good=0.01)
    chosen = choose(pool, scorer, readable=lambda prompt: prompt != "zqx")
    assert (chosen.prompt, chosen.readable) == ("zqx", "good")


def test_a_readable_prompt_that_scores_below_the_seed_prompt_is_none_to_ship() -> None:
    scorer = FakeScorer(sort_one_text=(5, 0), zqx=(12, 0.1), good=(4, 0.9))
    readable = (SEED, "good")
    chosen = choose(Rated(zqx=3.0, good=2.0), scorer, readable=lambda prompt: prompt in readable)
    assert (chosen.prompt, chosen.readable) == ("zqx", SEED)


def test_where_no_other_prompt_is_readable_the_seed_prompt_is() -> None:
    scorer = FakeScorer(sort_one_text=(5, 0), zqx=(12, 0.1))
    chosen = choose(pool_of(zqx=3.0), scorer, readable=lambda prompt: prompt == SEED)
    assert (chosen.prompt, chosen.readable) == ("zqx", SEED)


def test_a_readable_winner_is_the_readable_prompt_with_its_demonstrations() -> None:
    pool = pool_of(good=-1.0)
    chosen = choose(pool, Shown(9, 16), selection=FEW, readable=lambda p: p == SEED)
    assert chosen.instruction == SEED
    assert chosen.prompt.startswith(f"{SEED}\n\nInput: ")
    assert chosen.readable == chosen.prompt

    def unreadable(prompt: str) -> bool:
        return prompt == "good"

    pool = pool_of(good=-1.0)
    other = choose(pool, Shown(9, 16), selection=FEW, readable=unreadable)
    assert other.prompt == chosen.prompt
    assert other.readable == "good"


# --- the test split ---


def selection_of(prompt: str, readable: str | None = None) -> Selection:
    score = estimate_of(TASK, TASK.validation, score_of(18, 9, 0.0), seed=0)
    return Selection(prompt, prompt, readable or prompt, score, score, 2)


def read(scorer: Any, prompt: str, *, readable: str | None = None, **more: Any) -> Any:
    config = make_config({"seed": more.pop("seed", 0), "selection": more.pop("selection", {})})
    pool = more.pop("pool", None) or CandidatePool(SEED)
    five = pool.leaderboard(PAPER_FINALISTS) if config.selection.paper_protocol else []
    return read_test(TASK, scorer, selection_of(prompt, readable), five, config)


def test_the_readable_prompt_is_read_too_in_the_same_call() -> None:
    scorer = FakeScorer(sort_one_text=(9, 0.1), zqx=(14, 0.1), good=(12, 0.1))
    figures = read(scorer, "zqx", readable="good", pool=pool_of(other=1.0))
    assert scorer.asked == [(prompt, Purpose.TEST) for prompt in (SEED, "zqx", "good")]
    assert (figures.test.score, figures.readable_test.score) == (14 / 18, 12 / 18)
    assert figures.max_of_five is None
    assert figures.scores.keys() == {SEED, "zqx", "good"}


def test_the_papers_protocol_reads_five_more_in_the_same_call_and_reports_the_highest() -> None:
    known: dict[str, Any] = {f"p{n}": (n + 4, 0.1) for n in range(7)}
    scorer = FakeScorer(sort_one_text=(9, 0.1), chosen=(12, 0.1), **known)
    calls: list[int] = []
    honest = scorer.score_all

    def score_all(prompts: Sequence[str], *more: Any) -> list[PromptScore]:
        calls.append(len(prompts))
        return honest(prompts, *more)

    scorer.score_all = score_all  # type: ignore[method-assign]
    pool = pool_of(**{f"p{n}": 9.0 - n for n in range(7)})
    figures = read(scorer, "chosen", pool=pool, selection={"paper_protocol": True})
    assert calls == [2 + 5]
    assert figures.scores.keys() == {SEED, "chosen", "p0", "p1", "p2", "p3", "p4"}
    # The five that are rated highest get 4 to 8 right; p5 and p6, more, are not read.
    assert figures.max_of_five is not None
    assert figures.max_of_five.score == 8 / 18
    assert all(figures.max_of_five.score >= figures.scores[f"p{n}"].score for n in range(5))
    assert figures.test.score == 12 / 18  # the choice stays as it was


def test_where_nothing_was_written_the_papers_protocol_says_nothing() -> None:
    scorer = FakeScorer(sort_one_text=(9, 0.1))
    figures = read(scorer, SEED, selection={"paper_protocol": True})
    assert figures.max_of_five is None


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
            nothing = ("",) * len(values)
            return PromptScore(sum(values) / len(values), 0.0, 0.0, values, values, nothing)

    draws = [read(Mixed(), "x", seed=seed).paired for seed in (0, 0, *range(1, 30))]
    assert draws[0] == draws[1]
    assert len({(draw.low, draw.high) for draw in draws}) > 1


def test_by_a_metric_that_is_no_mean_the_score_decides_and_not_the_rating() -> None:
    # Ratings know what single examples are worth; macro F1 is something else.
    task = replace(TASK, metric=METRICS["macro_f1"])
    scorer = FakeScorer(sort_one_text=(5, 0.1), rated=(7, 0.1), scored=(9, 0.1))
    pool = Rated(sort_one_text=0.0, rated=0.9, scored=0.1)
    assert choose(pool, scorer).prompt == "rated"
    again = Rated(sort_one_text=0.0, rated=0.9, scored=0.1)
    assert choose(again, scorer, task=task).prompt == "scored"
