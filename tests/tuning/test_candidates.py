"""The pool: gains over the seed prompt, shrinkage, ties, and its way through a checkpoint."""

import json
from typing import Any

import pytest

from stableprompt.models.adapters import Role
from stableprompt.scoring.ledger import Purpose
from stableprompt.scoring.scorer import PromptScore
from stableprompt.tasks.prompt_checks import PromptFault
from stableprompt.tasks.readability import Readability
from stableprompt.tuning.candidates import Candidate, CandidatePool
from stableprompt.tuning.guards import Inspection


def candidate(
    prompt: str, reward: float, seed_reward: float | None = 0.0, **more: Any
) -> Candidate:
    on_training = seed_reward is not None
    return Candidate(
        step=0,
        writer=Role.POLICY,
        scored_on=Purpose.TRAINING if on_training else Purpose.VALIDATION,
        prompt=prompt,
        fault=more.get("fault"),
        reward=reward,
        score=0.5,
        softmax_difference=0.1,
        seed_reward=seed_reward,
        surprise=0.25,
        num_words=len(prompt.split()),
        instruction=True,
    )


def pool_of(*candidates: Candidate) -> CandidatePool:
    """Each candidate from a step of its own."""
    pool = CandidatePool()
    for one in candidates:
        pool.add([one])
    return pool


def test_the_gain_over_the_seed_prompt_counts_not_the_reward() -> None:
    pool = pool_of(candidate("easy step", 0.9, 0.8), candidate("hard step", 0.5, 0.1))
    assert pool.leaderboard(2) == ["hard step", "easy step"]  # 0.4 / 2 and 0.1 / 2


def test_a_gain_seen_k_times_is_shrunk_by_k_over_k_plus_1() -> None:
    # Seen once with 0.6: 0.6 / 2 = 0.30. Seen three times, 0.5 + 0.5 + 0.3 = 1.3: 1.3 / 4 = 0.325;
    # the mean, 0.433, is below 0.6.
    again = [candidate("again", reward) for reward in (0.5, 0.5, 0.3)]
    assert pool_of(candidate("lucky", 0.6), *again).leaderboard(2) == ["again", "lucky"]
    # With a luckier draw, 0.7 / 2 = 0.35, the order is the other.
    assert pool_of(candidate("lucky", 0.7), *again).leaderboard(2) == ["lucky", "again"]


def test_a_mean_is_shrunk_not_a_sum() -> None:
    # Nine times 0.2 is 1.8 in sum, and 1.8 / 10 = 0.18; once 0.4 is 0.4 / 2 = 0.2.
    pool = pool_of(candidate("once", 0.4), *[candidate("often", 0.2)] * 9)
    assert pool.leaderboard(1) == ["once"]


def test_a_loss_is_not_shrunk() -> None:
    # Towards 0, -0.3 seen once (-0.15) would outrank -0.2 seen five times (-0.167).
    pool = pool_of(candidate("once", -0.3), *[candidate("often", -0.2)] * 5)
    assert pool.leaderboard(2) == ["often", "once"]


def test_a_text_written_again_in_the_same_step_is_not_seen_again() -> None:
    # Eight copies of one lucky draw count 0.6 / 2 = 0.30, not 0.6 * 8 / 9.
    pool = pool_of(*[candidate("again", 0.35)] * 9)  # 0.35 * 9 / 10 = 0.315
    pool.add([candidate("copied", 0.6)] * 8)
    assert pool.leaderboard(2) == ["again", "copied"]


def test_equal_gains_are_ordered_by_text_whatever_came_first() -> None:
    one = pool_of(candidate("b", 0.5), candidate("a", 0.5), candidate("c", 0.5))
    other = pool_of(candidate("c", 0.5), candidate("b", 0.5), candidate("a", 0.5))
    assert one.leaderboard(3) == other.leaderboard(3) == ["a", "b", "c"]


@pytest.mark.parametrize(("size", "expected"), [(0, []), (1, ["a"]), (9, ["a", "b"])])
def test_the_leaderboard_has_the_size_that_is_asked_for(size: int, expected: list[str]) -> None:
    assert pool_of(candidate("a", 2.0), candidate("b", 1.0)).leaderboard(size) == expected


def test_refused_prompts_are_counted_and_never_lead() -> None:
    pool = pool_of(
        candidate("good", 0.1),
        candidate("copied", 9.0, fault=PromptFault.COPY),
        candidate("copied", 9.0, fault=PromptFault.COPY),
        candidate("", 9.0, seed_reward=None, fault=PromptFault.EMPTY),
    )
    assert pool.leaderboard(9) == ["good"]
    assert pool.faults == {"copy": 2, "empty": 1}


def test_prompts_of_an_anchor_decision_have_no_gain() -> None:
    pool = pool_of(candidate("judged", 9.0, seed_reward=None), candidate("written", 0.1))
    assert pool.leaderboard(9) == ["written"]


def test_a_seed_reward_of_0_is_a_seed_reward() -> None:
    assert pool_of(candidate("a", 0.5, 0.0)).leaderboard(1) == ["a"]


def test_each_text_is_counted_once() -> None:
    pool = pool_of(candidate("a", 1.0), candidate("a", 0.5), candidate("b", 0.5))
    pool.validated = {"b": SCORE, "seed prompt": SCORE}
    assert pool.num_unique == 3


SCORE = PromptScore(2 / 3, 1 / 3, 0.1 + 0.2, (1.0, 0.0, 1.0), ("a", "", "b"))


def test_the_pool_comes_back_from_a_checkpoint_as_it_was() -> None:
    pool = pool_of(
        candidate("Größe", 1 / 3, 0.1),
        candidate("Größe", 0.7, 0.1),
        candidate("x", 0.0, fault=PromptFault.BABBLE),
    )
    pool.validated["Größe"] = SCORE
    state = json.loads(json.dumps(pool.to_dict(), allow_nan=False))
    taken = CandidatePool.from_dict(state)
    assert taken.to_dict() == pool.to_dict()
    assert taken.validated == {"Größe": SCORE}  # a tuple of booleans again, not a list
    assert taken.leaderboard(5) == ["Größe"]
    assert taken.num_unique == 1
    taken.add([candidate("x", 0.0, fault=PromptFault.BABBLE), candidate("Größe", 1.0)])
    assert taken.faults == {"babble": 2}
    assert len(taken.to_dict()["gains"]["Größe"]) == 3


# --- what is found out about one prompt ---


def found_out(fault: PromptFault | None, score: PromptScore | None, **more: Any) -> Candidate:
    inspection = Inspection("Sort it, please.", fault, Readability(-0.75, 3, True))
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
    nothing = PromptScore(0.0, None, 0.0, (0.0,), ("",))
    found = found_out(None, nothing)
    assert (found.reward, found.score, found.softmax_difference) == (0.0, 0.0, None)


@pytest.mark.parametrize(("rewards", "trusted"), [([0.6], 0.3), ([0.6, 0.3], 0.3), ([-0.4], -0.4)])
def test_the_trusted_gain_is_what_the_leaderboard_goes_by(
    rewards: list[float], trusted: float
) -> None:
    # 0.6 / 2; 0.45 * 2 / 3; a loss as it is.
    pool = pool_of(*[candidate("a", reward) for reward in rewards])
    assert pool.trusted_gain("a") == pytest.approx(trusted)
