"""Ratings: variances and small models by hand, a dense solve of all unknowns, properties."""

from collections.abc import Sequence

import numpy as np
import pytest

from stableprompt.tuning.ratings import Floats, Seen, Variances, ratings_of, variances_of

Table = Sequence[Sequence[float]]
UNIT = Variances(noise=1.0, deviations=1.0, effects=2.0)

# Mean 6; rows 8 and 4, so +-2; columns 9 and 3, so +-3; what is left is +-1.
TWO_BY_TWO = [[12.0, 4.0], [6.0, 2.0]]
# Mean 2; rows 3, 2, 1; columns 3, 1; what is left is 1 -1 / 0 0 / -1 1.
THREE_BY_TWO = [[5.0, 1.0], [3.0, 1.0], [1.0, 1.0]]
TWO_BY_THREE = [[5.0, 3.0, 1.0], [1.0, 1.0, 1.0]]


def tables(*found: Table, seed_prompt: float = 0.0) -> tuple[list[int], list[dict[int, float]]]:
    """Each table is a step: its prompts on examples of its own, which the seed prompt saw, too."""
    groups, seen, first = [0], [dict[int, float]()], 0
    for group, table in enumerate(found):
        for row in table:
            groups.append(group)
            seen.append({first + n: reward for n, reward in enumerate(row)})
        seen[0] |= {first + n: seed_prompt for n in range(len(table[0]))}
        first += len(table[0])
    return groups, seen


def dense(
    groups: Sequence[int], seen: Seen, variances: Variances, traits: Floats | None = None
) -> Floats:
    """The same model with every unknown kept: seed mean, group means, effects, deviations,
    coefficients."""
    traits = np.zeros((len(groups), 0)) if traits is None else traits
    num_groups, num_prompts = 1 + max(groups), len(groups)
    num_examples = 1 + max(example for own in seen for example in own)
    effects = 1 + num_groups
    deviations = effects + num_examples
    coefficients = deviations + num_prompts
    size = coefficients + traits.shape[1]

    def unit(*places: int) -> Floats:
        row = np.zeros(size)
        row[list(places)] = 1
        return row

    def worth(prompt: int) -> Floats:
        if not prompt:
            return unit(0)
        row = unit(1 + groups[prompt], deviations + prompt)
        row[coefficients:] = traits[prompt]
        return row

    normal, right = np.zeros((size, size)), np.zeros(size)
    for prompt, own in enumerate(seen):
        for example, reward in own.items():
            row = worth(prompt) + unit(effects + example)
            normal += np.outer(row, row) / variances.noise
            right += row * reward / variances.noise
    priors = [(unit(effects + n), variances.effects) for n in range(num_examples)]
    priors += [(unit(deviations + n), variances.deviations) for n in range(num_prompts)]
    priors += [(unit(coefficients + n), variances.coefficients) for n in range(traits.shape[1])]
    priors += [
        (unit(1 + n) - unit(2 + n), 0.25 * variances.deviations) for n in range(num_groups - 1)
    ]
    for row, variance in priors:
        normal += np.outer(row, row) / variance
    unknowns = np.linalg.solve(normal, right)
    return np.array([worth(prompt) @ unknowns for prompt in range(num_prompts)])


def drawn(seed: int) -> tuple[list[int], list[dict[int, float]], Variances]:
    """Prompts of any groups, some without any, on any examples."""
    rng = np.random.default_rng(seed)
    num_prompts, num_examples = int(rng.integers(2, 12)), int(rng.integers(1, 15))
    groups = [0, *rng.integers(0, 5, num_prompts - 1).tolist()]
    seen = []
    for _ in groups:
        chosen = rng.permutation(num_examples)[: rng.integers(1, num_examples + 1)]
        seen.append({int(example): float(rng.normal()) for example in chosen})
    return groups, seen, Variances(*rng.uniform(0.05, 2, 3).tolist())


# --- variances ---


@pytest.mark.parametrize(
    ("found", "noise", "deviations", "effects"),
    [
        # Squares 4 * 1 for what is left, 2 * (4 + 4) for rows, 2 * (9 + 9) for columns, each of 1
        # degree of freedom: 4, (16 - 4) / 2, (36 - 4) / 2.
        ([TWO_BY_TWO], 4, 6, 16),
        # And 4 / 2, (4 / 2 - 2) / 2 = 0, which is too little, (6 / 1 - 2) / 3.
        ([THREE_BY_TWO], 2, 2e-4, 4 / 3),
        # Pooled: 8 / 3; (20 / 3 - 8 / 3) / 2; (42 / 2 - 8 / 3) / 2.5, as many rows on average.
        ([TWO_BY_TWO, THREE_BY_TWO], 8 / 3, 2, 22 / 3),
        # Pooled: 8 / 3; (22 / 2 - 8 / 3) / 2.5; (40 / 3 - 8 / 3) / 2.
        ([TWO_BY_TWO, TWO_BY_THREE], 8 / 3, 10 / 3, 16 / 3),
        # Of 2 degrees of freedom of rows in the first and 1 in the second, 7 / 3 columns on average
        # (and as many rows): 8 / 4; (10 / 3 - 2) / (7 / 3), alike for columns.
        ([THREE_BY_TWO, TWO_BY_THREE], 2, 4 / 7, 4 / 7),
    ],
)
def test_variances_worked_by_hand(
    found: list[Table], noise: float, deviations: float, effects: float
) -> None:
    variances = variances_of(*tables(*found))
    assert (variances.noise, variances.deviations, variances.effects) == pytest.approx(
        (noise, deviations, effects)
    )


def test_the_level_of_a_group_and_the_seed_prompt_are_no_part_of_the_variances() -> None:
    raised = [[reward + 50 for reward in row] for row in TWO_BY_TWO]
    found = variances_of(*tables(TWO_BY_TWO, raised, seed_prompt=-80.0))
    assert (found.noise, found.deviations, found.effects) == pytest.approx((4, 6, 16))


def test_only_what_most_prompts_of_a_group_saw_is_looked_at() -> None:
    groups, seen = tables(TWO_BY_TWO)
    seen[1][7] = 99.0
    assert variances_of(groups, seen) == variances_of(*tables(TWO_BY_TWO))
    # A prompt of an anchor decision, which saw other examples, takes nothing away.
    later = ([*groups, groups[1]], [*seen, {8: 99.0, 9: -99.0}])
    assert variances_of(*later) == variances_of(*tables(TWO_BY_TWO))


@pytest.mark.parametrize(
    "found",
    [[], [[[1.0, 0.0]]], [[[1.0], [0.0]]], [[[1.0]], [[0.0, 1.0]]]],
    ids=["nothing", "one prompt", "one example", "one of each"],
)
def test_where_nothing_can_be_compared_most_is_noise(found: list[Table]) -> None:
    assert variances_of(*tables(*found)) == Variances(1.0, 0.1, 0.5)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ([[0.5, 0.5], [0.5, 0.5]], Variances(1e-4, 1e-4, 1e-4)),
        ([[1.0, 1.0], [0.0, 0.0]], Variances(1e-4, 0.5, 1e-4)),  # rows +-1/2: (1 - 0) / 2
        ([[1.0, 0.0], [1.0, 0.0]], Variances(1e-4, 1e-4, 0.5)),
        # Rows and columns alike; what is left is +-1/2: 4 / 4, and 1e-4 of that.
        ([[1.0, 0.0], [0.0, 1.0]], Variances(1.0, 1e-4, 1e-4)),
    ],
)
def test_no_variance_is_nothing(table: Table, expected: Variances) -> None:
    assert variances_of(*tables(table)) == expected


def test_variances_are_right_on_average() -> None:
    # 3000 tables of 4 prompts on 6 examples, each with standard error below 0.01.
    rng = np.random.default_rng(0)
    found = []
    for _ in range(3000):
        rows, columns = 0.5 * rng.normal(size=(4, 1)), 0.8 * rng.normal(size=(1, 6))
        table = rows + columns + rng.normal(size=(4, 6))
        variances = variances_of(*tables(table.tolist()))
        found.append((variances.noise, variances.deviations, variances.effects))
    # A little more than 0.25 and 0.64: what would be below 0 is not taken for less than 0.
    noise, deviations, effects = np.mean(found, axis=0)
    assert noise == pytest.approx(1.0, abs=0.02)
    assert 0.25 < deviations < 0.29
    assert 0.62 < effects < 0.67


# --- ratings ---


def test_on_the_same_examples_each_is_drawn_towards_the_mean_of_its_group() -> None:
    # Means 8 and 4, group mean 6; seen on two examples a deviation keeps 2 * 6 / (2 * 6 + 4), that
    # is 3/4 of it: 6 +- 1.5. The seed prompt keeps its own mean.
    groups, seen = tables(TWO_BY_TWO, seed_prompt=3.0)
    assert ratings_of(groups, seen, Variances(4, 6, 16)) == pytest.approx([3, 7.5, 4.5])


def test_luck_with_an_easy_example_gains_little() -> None:
    # The seed prompt earns 1 on one example and 0 on the other, and so do two prompts that saw one
    # of them each. By symmetry all means are 1/2, effects are +-b, deviations +-d. With r = 1/2 - b
    # a deviation takes half of r, so that r^2 + r^2 / 2 + b^2 / 2 is to be least: 3 r = b, b = 3/8,
    # r = 1/8, d = 1/16.
    found = ratings_of([0, 0, 0], [{0: 1.0, 1: 0.0}, {0: 1.0}, {1: 0.0}], UNIT)
    assert found == pytest.approx([1 / 2, 1 / 2 + 1 / 16, 1 / 2 - 1 / 16])


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        # Each tells of its group's mean with variance 1 + 1 + 2 = 4, and a move has variance 1/4.
        # With means 1/2 +- t, 2 (1/2 - t)^2 / 4 + (2 t)^2 * 4 is to be least: t = 1/66. The first
        # mean is 32/66, and a quarter of what was earned below it is deviation: 24/66.
        (1, 4 / 11),
        # Over a group of which nothing was seen the move has twice the variance: t = 1/34, the
        # mean is 16/34, and three quarters of it are 12/34.
        (2, 6 / 17),
        # Prompts of one group have one mean, 1/2.
        (0, 3 / 8),
    ],
)
def test_steps_that_share_no_example_tell_of_each_other(second: int, expected: float) -> None:
    found = ratings_of([0, 0, second], [{2: 5.0}, {0: 0.0}, {1: 1.0}], UNIT)
    assert found == pytest.approx([5, expected, 1 - expected])


def test_a_prompt_of_which_nothing_was_seen_is_worth_what_its_group_is() -> None:
    # The other's rating is all that is known: it is the group's mean, and no deviation.
    found = ratings_of([0, 0, 0, 3], [{0: 0.0}, {0: 1.0}, {}, {}], UNIT)
    assert found == pytest.approx([0, 1, 1, 1], abs=1e-8)


@pytest.mark.parametrize("seed", range(60))
def test_ratings_are_those_of_the_model_with_all_unknowns(seed: int) -> None:
    groups, seen, variances = drawn(seed)
    assert ratings_of(groups, seen, variances) == pytest.approx(dense(groups, seen, variances))


@pytest.mark.parametrize("seed", range(10))
def test_more_for_everybody_is_more_in_every_rating_and_in_no_variance(seed: int) -> None:
    groups, seen, variances = drawn(seed)
    raised = [{example: reward + 3.0 for example, reward in own.items()} for own in seen]
    found = ratings_of(groups, raised, variances)
    assert found == pytest.approx(ratings_of(groups, seen, variances) + 3.0)
    one, other = variances_of(groups, seen), variances_of(groups, raised)
    assert (one.noise, one.deviations, one.effects) == pytest.approx(
        (other.noise, other.deviations, other.effects)
    )


@pytest.mark.parametrize("seed", range(10))
def test_rewards_in_another_unit_give_the_same_ratings_in_that_unit(seed: int) -> None:
    groups, seen, _ = drawn(seed)
    cents = [{example: 100 * reward for example, reward in own.items()} for own in seen]

    def rated(given: Seen) -> Floats:
        return ratings_of(groups, given, variances_of(groups, given))

    if variances_of(groups, seen).noise != 1.0:  # with nothing to compare the unit is 1
        assert rated(cents) == pytest.approx(100 * rated(seen))


@pytest.mark.parametrize("seed", range(10))
def test_neither_the_order_of_prompts_nor_the_numbers_of_examples_matter(seed: int) -> None:
    groups, seen, variances = drawn(seed)
    order = [0, *(1 + np.random.default_rng(seed).permutation(len(groups) - 1)).tolist()]
    turned = [{20 - example: reward for example, reward in own.items()} for own in seen]
    found = ratings_of([groups[p] for p in order], [turned[p] for p in order], variances)
    assert found == pytest.approx(ratings_of(groups, seen, variances)[order])


def rated(*found: Table, seed_prompt: float = 0.0) -> list[float]:
    groups, seen = tables(*found, seed_prompt=seed_prompt)
    return ratings_of(groups, seen, variances_of(groups, seen)).tolist()


def test_an_easy_draw_of_examples_raises_no_prompt() -> None:
    # The same prompts, and the same answers but for one level: what all earn on the examples of the
    # second step, the seed prompt with them, is 5 more.
    answers = [[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]]
    groups, seen = tables(answers, answers, seed_prompt=0.5)
    easy = [{e: reward + 5.0 * (e >= 4) for e, reward in own.items()} for own in seen]
    variances = variances_of(groups, seen)
    generous = Variances(variances.noise, variances.deviations, 1000.0)  # examples differ a lot
    found = ratings_of(groups, easy, generous)
    assert found[4:] - found[0] == pytest.approx(found[1:4] - found[0], abs=0.01)


def test_one_lucky_prompt_is_drawn_towards_its_group_and_less_the_more_is_seen_of_it() -> None:
    rows = [[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
    groups, seen = tables(rows)
    variances = Variances(0.2, 0.05, 0.02)
    _, once, *_ = ratings_of(groups, seen, variances)
    # Mean 1/2 of the group: 4 * 0.05 / (4 * 0.05 + 0.2) is 1/2, and 1/2 + 1/2 * 1/2 is 3/4.
    assert once == pytest.approx(0.75)
    seen[0] |= {example: 0.0 for example in range(4, 20)}
    seen[1] |= {example: 1.0 for example in range(4, 20)}
    _, often, *_ = ratings_of(groups, seen, variances)
    assert once + 0.1 < often < 1


def test_a_group_of_which_nothing_was_seen_changes_nothing_for_those_before_it() -> None:
    groups, seen = tables(TWO_BY_TWO, THREE_BY_TWO)
    variances = variances_of(groups, seen)
    found = ratings_of([*groups, 6], [*seen, {}], variances)
    assert found[:-1] == pytest.approx(ratings_of(groups, seen, variances), abs=1e-7)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("reward", [0.0, 0.5, 1.0, -3.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (3, 1), (3, 4)])
def test_where_all_rewards_are_equal_all_ratings_are(reward: float, shape: tuple[int, int]) -> None:
    table = np.full(shape, reward).tolist()
    assert rated(table, table, seed_prompt=reward) == pytest.approx([reward] * (1 + 2 * shape[0]))


def test_the_seed_prompt_alone_is_worth_its_mean() -> None:
    assert ratings_of([0], [{0: 1.0, 3: 0.0}], UNIT) == pytest.approx([0.5])
    assert ratings_of([0], [{5: 0.25}], variances_of([0], [{5: 0.25}])) == pytest.approx([0.25])


def test_one_prompt_beside_it_is_worth_its_mean_on_the_same_examples() -> None:
    assert rated([[1.0, 0.0, 1.0, 1.0]], seed_prompt=0.5) == pytest.approx([0.5, 0.75])


def test_ratings_are_nearer_the_truth_than_gains_over_the_seed_prompt() -> None:
    # Steps of 16 prompts on 8 of 64 examples, by a policy that improves.
    rng = np.random.default_rng(0)
    by_rating, by_gain = [], []
    for _ in range(5):
        effects, level = rng.normal(0, 0.2, 64), 0.0
        truth, groups, seen, gains = [0.0], [0], [dict[int, float]()], [0.0]
        for step in range(20):
            level += rng.normal(0.02, 0.03)
            shown = [int(e) for e in rng.choice(64, 8, replace=False)]
            for e in shown:
                seen[0].setdefault(e, effects[e] + rng.normal(0, 0.42))
            reference = np.mean([seen[0][e] for e in shown])
            for _ in range(16):
                truth.append(level + rng.normal(0, 0.15))
                groups.append(step)
                seen.append({e: truth[-1] + effects[e] + rng.normal(0, 0.42) for e in shown})
                gains.append(np.mean(list(seen[-1].values())) - reference)
        found = ratings_of(groups, seen, variances_of(groups, seen))
        by_rating.append(np.corrcoef(found[1:], truth[1:])[0, 1])
        by_gain.append(np.corrcoef(gains[1:], truth[1:])[0, 1])
    assert np.mean(by_rating) > np.mean(by_gain) + 0.08
    assert np.mean(by_rating) > 0.75
