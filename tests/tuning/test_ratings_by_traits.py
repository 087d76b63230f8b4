"""What traits add to ratings: by hand, against a dense solve, and how far they are trusted."""

import numpy as np
import pytest

from stableprompt.tuning.candidates import CandidatePool
from stableprompt.tuning.ratings import Floats, Variances, ratings_of, variances_of
from tests.tuning.test_candidates import SEED, see
from tests.tuning.test_ratings import dense, drawn, tables

ONES = Variances(noise=1.0, deviations=1.0, effects=2.0, coefficients=1.0)


def test_a_forecast_worked_by_hand() -> None:
    # Prompts with the trait 1 and -1 earned 1 and 0 on one example: 1/2 each side of the mean 1/2.
    # Of that the coefficient explains b, the deviation d, noise the rest; with all variances 1,
    # b^2 + 2 d^2 + 2 (1/2 - b - d)^2 is least for b = 1/4, d = 1/8. Of a prompt that nobody asked
    # about the mean and its trait are known, of the seed prompt its own reward, 5.
    seen = [{1: 5.0}, {0: 1.0}, {0: 0.0}, {}, {}, {}]
    traits = np.array([[9.0], [1.0], [-1.0], [1.0], [0.0], [-2.0]])
    found = ratings_of([0, 0, 0, 0, 0, 0], seen, ONES, traits)
    assert found == pytest.approx([5, 7 / 8, 1 / 8, 3 / 4, 1 / 2, 0], abs=1e-8)


@pytest.mark.parametrize("seed", range(30))
def test_ratings_with_traits_are_those_of_the_model_with_all_unknowns(seed: int) -> None:
    groups, seen, plain = drawn(seed)
    rng = np.random.default_rng(seed)
    traits = rng.normal(size=(len(groups), 3))
    some = Variances(plain.noise, plain.deviations, plain.effects, rng.uniform(0.05, 2))
    found = ratings_of(groups, seen, some, traits)
    assert found == pytest.approx(dense(groups, seen, some, traits))
    if len(groups) > 3:  # one prompt a group: its mean explains everything
        assert found != pytest.approx(ratings_of(groups, seen, plain, traits), abs=1e-6)
    # Where they explain nothing they count for nothing.
    assert np.array_equal(ratings_of(groups, seen, plain, traits), ratings_of(groups, seen, plain))


def made_up(
    rng: np.random.Generator, explained: float, *, steps: int = 3
) -> tuple[list[int], list[dict[int, float]], Floats, Floats]:
    """Steps of 16 prompts on 8 examples each, of whose differences traits explain a share.

    Returns:
        Groups, what was seen, traits (P, 20), and what each prompt is truly worth.
    """
    traits = rng.normal(size=(1 + 16 * steps, 20)) / np.sqrt(20)
    truth = np.sqrt(explained) * traits @ rng.normal(size=20)
    truth += np.sqrt(1 - explained) * rng.normal(size=len(traits))
    found = []
    for step in range(steps):
        own = truth[1 + 16 * step :][:16, None]
        found.append((own + rng.normal(size=(1, 8)) + 2 * rng.normal(size=(16, 8))).tolist())
    groups, seen = tables(*found)
    return groups, seen, traits, truth


@pytest.mark.parametrize(("explained", "low", "high"), [(0.0, 0.0, 0.2), (0.6, 0.35, 0.65)])
def test_traits_get_about_the_share_that_they_explain(
    explained: float, low: float, high: float
) -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(60):
        groups, seen, traits, _ = made_up(rng, explained, steps=6)
        found = variances_of(groups, seen, traits)
        shares.append(found.coefficients / (found.coefficients + found.deviations))
        plain = variances_of(groups, seen)  # what they explain is taken from the deviations
        assert (found.noise, found.effects) == (plain.noise, plain.effects)
        assert found.deviations >= 0.25 * plain.deviations * (1 - 1e-9)
    assert low <= np.mean(shares) <= high


def test_ratings_are_nearer_the_truth_where_traits_tell_something() -> None:
    rng = np.random.default_rng(1)
    with_traits, without, of_new = [], [], []
    for _ in range(20):
        groups, seen, traits, truth = made_up(rng, 0.6, steps=7)
        known = len(groups) - 16
        groups, seen = groups[:known], seen[:known]
        variances = variances_of(groups, seen, traits[:known])
        more = ([*groups, *[groups[-1]] * 16], [*seen, *({} for _ in range(16))])
        found = ratings_of(*more, variances, traits)
        plain = ratings_of(groups, seen, variances_of(groups, seen))
        with_traits.append(np.corrcoef(found[1:known], truth[1:known])[0, 1])
        without.append(np.corrcoef(plain[1:], truth[1:known])[0, 1])
        of_new.append(np.corrcoef(found[known:], truth[known:])[0, 1])
    assert np.mean(with_traits) > np.mean(without) + 0.03
    assert np.mean(of_new) > 0.4


@pytest.mark.parametrize("steps", [1, 2])
def test_few_prompts_say_nothing_of_traits(steps: int) -> None:
    # Four a step, so 3 and 6 that are free: fewer than 8.
    groups, seen = tables(*([[float(n), n + 1.0] for n in range(4)] for _ in range(steps)))
    traits = np.linspace(-1, 1, len(groups))[:, None]
    assert variances_of(groups, seen, traits) == variances_of(groups, seen)


def test_traits_that_all_share_and_rewards_that_are_equal_explain_nothing() -> None:
    groups, seen, traits, _ = made_up(np.random.default_rng(0), 0.5)
    alike = np.ones_like(traits)
    assert variances_of(groups, seen, alike) == variances_of(groups, seen)
    equal = [dict.fromkeys(own, 0.5) for own in seen]
    assert variances_of(groups, equal, traits) == variances_of(groups, equal)


@pytest.mark.parametrize("seed", range(4))
def test_in_a_long_run_traits_that_explain_nothing_change_no_rating(seed: int) -> None:
    # 100 steps of 16 prompts: their share is next to nothing, and must not make the equations
    # stiff.
    rng = np.random.default_rng(seed)
    groups, seen, traits, _ = made_up(rng, 0.0, steps=100)
    plain = ratings_of(groups, seen, variances_of(groups, seen))
    found = ratings_of(groups, seen, variances_of(groups, seen, traits), traits)
    assert found == pytest.approx(plain, abs=1e-9)


# --- the pool ---

ASKING = [f"Answer with one word, number {n}." for n in range(8)]
TALKING = [f"Tell me more about the text {n}, and why you think so." for n in range(8)]


def test_the_pool_judges_a_prompt_by_its_like_as_well() -> None:
    # Both earned the same on the only example they were asked about, of which all of a kind that
    # earns more elsewhere, and of a kind that earns less.
    pool = see(CandidatePool(SEED), {SEED: (0.5, 0.2, 0.4, 0.1)})
    for n, (good, poor) in enumerate(zip(ASKING, TALKING, strict=True)):
        see(pool, {good: (1.0, 0.6, 0.9 - n / 50, 0.8), poor: (0.2, 0.1, 0.3 + n / 50, 0.0)})
    one, other = "Answer with one word, number nine.", "Tell me more about the text, and why."
    see(pool, {one: (0.5,), other: (0.5,)}, first=4)
    assert pool.rating(one) > pool.rating(other) + 0.05
    assert CandidatePool.from_dict(pool.to_dict()).leaderboard(20) == pool.leaderboard(20)
