"""The pool: ratings from what was seen, ties, and its way through a checkpoint."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from stableprompt.errors import RunError
from stableprompt.models.adapters import Role
from stableprompt.scoring.ledger import Purpose
from stableprompt.scoring.scorer import PromptScore
from stableprompt.tasks.example import Example
from stableprompt.tasks.prompt_checks import PromptFault
from stableprompt.tasks.readability import Readability
from stableprompt.tuning.candidates import Candidate, CandidatePool
from stableprompt.tuning.guards import Inspection
from tests.fakes.word_agent import make_task

TASK = make_task()
SEED = TASK.seed_prompt
SCORE = PromptScore(2 / 3, 1 / 3, 0.1 + 0.2, (1.0, 0.0, 1.0), (1.1, 0.1, 1.0 / 3), ("a", "", "b"))


def score_of(*rewards: float) -> PromptScore:
    """What each example earned; the rest does not matter here."""
    mean = sum(rewards) / len(rewards)
    return PromptScore(mean, 0.0, mean, rewards, rewards, ("",) * len(rewards))


def see(
    pool: CandidatePool,
    rewards: Mapping[str, Sequence[float]],
    *,
    first: int = 0,
    group: int | None = None,
) -> CandidatePool:
    """Prompts with what they earned on the training examples from the first on."""
    [size] = {len(own) for own in rewards.values()}
    examples = TASK.train[first : first + size]
    pool.add(
        rewards, [score_of(*map(float, own)) for own in rewards.values()], examples, group=group
    )
    return pool


def step(*levels: tuple[str, float]) -> CandidatePool:
    """One step, in which each prompt earned the same on two examples, and the seed prompt 0."""
    pool = see(CandidatePool(SEED), {SEED: (0.0, 0.0)})
    return see(pool, {prompt: (level, level) for prompt, level in levels}) if levels else pool


def test_ratings_worked_by_hand() -> None:
    # Means 8 and 4, of the group 6; noise 4 and deviations 6 (see the variances' tests), so that
    # 2 * 6 / (2 * 6 + 4) of a deviation is kept: 6 +- 1.5. The seed prompt's is its mean.
    pool = see(CandidatePool(SEED), {SEED: (5.0, 3.0), "good": (12.0, 4.0), "fair": (6.0, 2.0)})
    assert [pool.rating(p) for p in (SEED, "good", "fair")] == pytest.approx([4, 7.5, 4.5])
    assert [pool.gain(p) for p in (SEED, "good", "fair")] == pytest.approx([0, 3.5, 0.5])
    assert pool.leaderboard(9) == ["good", "fair"]


def test_what_is_seen_later_counts_at_once() -> None:
    pool = step(("a", 0.5), ("b", 0.4))
    assert pool.leaderboard(1) == ["a"]
    see(pool, {"a": (0.0,) * 8, "b": (1.0,) * 8}, first=2)
    assert pool.leaderboard(1) == ["b"]


def test_a_prompt_of_an_easy_step_does_not_lead_one_of_a_hard_step() -> None:
    # All of six right where the seed prompt has five, or five of six where it has two; most of what
    # a step's policy writes is like the seed prompt.
    pool = CandidatePool(SEED)
    usual, lucky = (1, 1, 1, 1, 0, 1), (1, 1, 1, 1, 1, 1)
    see(pool, {SEED: usual, "easy": lucky, **{f"like it {n}": usual for n in range(3)}}, group=0)
    usual, good = (0, 1, 0, 0, 1, 0), (1, 1, 1, 1, 1, 0)
    hard = {SEED: usual, "hard": good, **{f"like that {n}": usual for n in range(3)}}
    see(pool, hard, group=1, first=6)
    assert pool.leaderboard(2) == ["hard", "easy"]


def test_one_lucky_draw_does_not_lead_what_was_good_again_and_again() -> None:
    # Of their step, on four examples: 1 and 0.75, and two that are worse. Then "again" gets all of
    # 16 more right.
    rows = {
        SEED: (0.0, 1.0, 0.0, 1.0),
        "lucky": (1.0, 1.0, 1.0, 1.0),
        "again": (1.0, 1.0, 0.0, 1.0),
        "poor": (0.0, 1.0, 0.0, 0.0),
        "fair": (0.0, 0.0, 1.0, 1.0),
    }
    pool = see(CandidatePool(SEED), rows)
    assert pool.leaderboard(1) == ["lucky"]
    assert pool.rating("lucky") < 0.95  # of 1
    see(pool, {SEED: (0.5,) * 16, "again": (1.0,) * 16}, first=4)
    assert pool.leaderboard(2) == ["again", "lucky"]


def test_what_comes_twice_counts_once() -> None:
    pool = step(("a", 0.5), ("b", 0.25))
    before = pool.rating("a")
    see(pool, {"a": (0.5, 0.5)})
    assert pool.rating("a") == before
    # A text that differs in case and white space alone is the same example.
    shouted = [replace(example, text=f" {example.text.upper()}") for example in TASK.train[:2]]
    pool.add(["a"], [score_of(0.5, 0.5)], shouted)
    assert pool.rating("a") == before


def test_equal_ratings_are_ordered_by_text_whatever_came_first() -> None:
    one = step(("b", 0.5), ("a", 0.5), ("c", 0.5))
    other = step(("c", 0.5), ("b", 0.5), ("a", 0.5))
    assert one.leaderboard(3) == other.leaderboard(3) == ["a", "b", "c"]


@pytest.mark.parametrize(("size", "expected"), [(0, []), (1, ["a"]), (9, ["a", "b"])])
def test_the_leaderboard_has_the_size_that_is_asked_for(size: int, expected: list[str]) -> None:
    assert step(("a", 2.0), ("b", 1.0)).leaderboard(size) == expected


def test_the_seed_prompt_never_leads() -> None:
    pool = step(("worse", -1.0), ("far worse", -2.0))
    assert pool.leaderboard(9) == ["worse", "far worse"]
    assert pool.gain("worse") == pytest.approx(-1, abs=0.01)
    assert step().leaderboard(9) == CandidatePool(SEED).leaderboard(9) == []


def test_a_new_prompt_is_of_the_group_that_is_named_and_an_old_one_stays_in_its_own() -> None:
    pool = step(("a", 0.5))
    assert pool.last_group == 0
    see(pool, {"a": (0.5, 0.5), "b": (0.5, 0.5)}, group=3)
    see(pool, {"c": (0.5, 0.5)})  # of the last one
    see(pool, {"d": (0.5, 0.5)}, group=1)
    assert pool.last_group == 3
    assert pool.to_dict()["groups"] == {SEED: 0, "a": 0, "b": 3, "c": 3, "d": 1}


def test_a_prompt_is_drawn_towards_those_of_its_own_group() -> None:
    # What the policy of step 0 wrote is worth little, of step 9 much; two prompts that earned the
    # same on the same examples are rated by the company they keep.
    answers = [(0.0, 0.2), (0.2, 0.0), (0.1, 0.0)]
    low = {f"low {n}": own for n, own in enumerate(answers)}
    high = {f"high {n}": (1 - one, 1 - other) for n, (one, other) in enumerate(answers)}
    pool = see(CandidatePool(SEED), {SEED: (0.5, 0.5), **low, "among low": (0.5, 0.5)}, group=0)
    see(pool, {**high, "among high": (0.5, 0.5)}, group=9)
    assert pool.rating("among low") < 0.49
    assert pool.rating("among high") > 0.51


def candidate(prompt: str, fault: PromptFault | None) -> Candidate:
    return found_out(fault, None if fault else SCORE, prompt=prompt)


def test_refused_prompts_are_counted_and_never_lead() -> None:
    pool = step(("good", 0.1))
    pool.count_faults(
        [
            candidate("good", None),
            candidate("copied", PromptFault.COPY),
            candidate("copied", PromptFault.COPY),
            candidate("", PromptFault.EMPTY),
        ]
    )
    assert pool.leaderboard(9) == ["good"]
    assert pool.faults == {"copy": 2, "empty": 1}


def test_each_text_that_was_scored_is_counted_once() -> None:
    pool = CandidatePool(SEED)
    assert pool.num_unique == 0
    see(pool, {"a": (1.0, 1.0), "b": (0.5, 0.5)})
    see(pool, {"a": (0.5, 0.5)}, first=2)
    assert pool.num_unique == 2
    see(pool, {SEED: (0.5, 0.5)})
    assert pool.num_unique == 3


class Scorer:
    """Each prompt is worth a number."""

    def __init__(self, **worth: float) -> None:
        self.worth = worth
        self.asked: list[list[str]] = []

    def score_each(
        self, asked: Sequence[tuple[str, Sequence[Example]]], purpose: Purpose
    ) -> list[PromptScore]:
        return self.score_all([prompt for prompt, _ in asked], asked[0][1], purpose)

    def score_all(
        self, prompts: Sequence[str], examples: Sequence[Example], purpose: Purpose
    ) -> list[PromptScore]:
        assert (examples, purpose) == (TASK.validation, Purpose.VALIDATION)
        self.asked.append(list(prompts))
        return [score_of(*[self.worth[prompt]] * len(examples)) for prompt in prompts]


def test_validation_is_asked_once_and_counts_in_the_ratings() -> None:
    pool = step(("a", 0.5), ("b", 0.4))
    scorer: Any = Scorer(a=0.0, b=1.0, c=0.25)
    pool.validate(["a", "b", "a"], scorer, TASK.validation)
    assert pool.leaderboard(9) == ["b", "a"]
    pool.validate(["b", "c"], scorer, TASK.validation, group=4)
    pool.validate(["c", "a"], scorer, TASK.validation)
    assert scorer.asked == [["a", "b"], ["c"]]
    assert {prompt: score.score for prompt, score in pool.validated.items()} == {
        "a": 0,
        "b": 1,
        "c": 0.25,
    }
    assert pool.to_dict()["groups"]["c"] == pool.last_group == 4


def test_the_pool_comes_back_from_a_checkpoint_as_it_was() -> None:
    pool = see(
        CandidatePool(SEED), {SEED: (0.1, 0.1), "Größe": (1 / 3, 0.7), "a": (0.5, 0.4)}, group=2
    )
    pool.count_faults([candidate("x", PromptFault.BABBLE)])
    pool.validated["Größe"] = SCORE
    pool.anchor_group = 2
    state = json.loads(json.dumps(pool.to_dict(), allow_nan=False))
    taken = CandidatePool.from_dict(state)
    assert taken.to_dict() == pool.to_dict()
    assert taken.validated == {"Größe": SCORE}  # tuples again, not lists
    assert taken.anchor_group == taken.last_group == 2
    assert taken.num_unique == 3
    prompts = (SEED, "Größe", "a")
    for one in (pool, taken):
        # Whatever is seen from now on: old examples are known by their numbers, too.
        one.count_faults([candidate("x", PromptFault.BABBLE)])
        see(one, {SEED: (0.5, 0.5, 0.5), "a": (1.0, 0.0, 1.0)}, first=1, group=3)
    assert taken.faults == {"babble": 2}
    assert taken.leaderboard(5) == pool.leaderboard(5)
    assert [taken.rating(p) for p in prompts] == [pool.rating(p) for p in prompts]
    assert taken.to_dict() == pool.to_dict()


# --- what is found out about one prompt ---


def found_out(
    fault: PromptFault | None,
    score: PromptScore | None,
    prompt: str = "Sort it, please.",
    **more: Any,
) -> Candidate:
    inspection = Inspection(prompt, fault, Readability(-0.75, 3, True))
    return Candidate.of(
        inspection,
        score,
        -0.5,
        step=7,
        writer=Role.ANCHOR,
        scored_on=Purpose.VALIDATION,
        **more,
    )


def test_a_scored_prompt_has_its_score_its_reward_and_its_readability() -> None:
    assert found_out(None, SCORE, seed_reward=0.25) == Candidate(
        step=7,
        writer=Role.ANCHOR,
        scored_on=Purpose.VALIDATION,
        prompt="Sort it, please.",
        fault=None,
        reward=SCORE.reward,
        score=SCORE.score,
        softmax_difference=SCORE.softmax_difference,
        seed_reward=0.25,
        surprise=-0.75,
        num_words=3,
        instruction=True,
    )


def test_a_refused_prompt_has_the_fault_reward_and_no_score() -> None:
    refused = found_out(PromptFault.COPY, None)
    assert (refused.fault, refused.reward) == (PromptFault.COPY, -0.5)
    assert refused.score is refused.softmax_difference is refused.seed_reward is None
    assert (refused.surprise, refused.num_words, refused.instruction) == (-0.75, 3, True)


def test_a_score_of_nothing_is_a_score() -> None:
    nothing = PromptScore(0.0, None, 0.0, (0.0,), (0.0,), ("",))
    found = found_out(None, nothing)
    assert (found.reward, found.score, found.softmax_difference) == (0.0, 0.0, None)


def test_a_checkpoint_of_another_version_is_told() -> None:
    with pytest.raises(RunError, match="begun by another version"):
        CandidatePool.from_dict({"gains": {}, "validated": {}, "faults": {}})
