"""Examples in an order whose beginnings have answers in their proportions."""

import random
from collections import Counter

import pytest

from stableprompt.tasks.example import Example
from stableprompt.tasks.splits import draw_evenly
from stableprompt.tuning.spread import answer_of, spread


def labelled(**counts: int) -> list[Example]:
    return [Example(f"{label} {i}", label) for label, n in counts.items() for i in range(n)]


def drawn(examples: list[Example], size: int, seed: int) -> Counter[str]:
    places = draw_evenly(examples, size, random.Random(seed))
    assert len(set(places)) == size
    return Counter(examples[place].label for place in places)


@pytest.mark.parametrize("seed", range(20))
def test_answers_are_drawn_in_their_proportions(seed: int) -> None:
    examples = labelled(a=16, b=16, c=16, d=16)
    assert drawn(examples, 8, seed) == dict.fromkeys("abcd", 2)
    assert set(drawn(examples, 4, seed).values()) == {1}
    assert sorted(drawn(examples, 6, seed).values()) == [1, 1, 2, 2]
    assert drawn(examples, 64, seed) == dict.fromkeys("abcd", 16)
    assert drawn(labelled(a=30, b=10), 8, seed) == {"a": 6, "b": 2}
    # 8 * 5 / 41 is a little below 1, 8 * 36 / 41 a little above 7.
    assert drawn(labelled(a=36, b=5), 8, seed)["b"] in {0, 1}


@pytest.mark.parametrize("size", [1, 3, 8, 20])
@pytest.mark.parametrize("counts", [{"a": 58, "b": 6}, {"a": 20, "b": 7, "c": 3, "d": 1, "e": 1}])
def test_every_example_is_as_likely_as_any_other(counts: dict[str, int], size: int) -> None:
    examples, times = labelled(**counts), Counter[int]()
    for seed in range(4000):
        times.update(draw_evenly(examples, size, random.Random(seed)))
    share = size / len(examples)
    error = 4.5 * (share * (1 - share) / 4000) ** 0.5
    assert all(abs(times[place] / 4000 - share) < error for place in range(len(examples)))


def test_examples_of_one_stratum_come_in_any_company_and_any_order() -> None:
    examples = labelled(a=1, b=1, c=1, d=1)
    draws = [draw_evenly(examples, 2, random.Random(seed)) for seed in range(200)]
    assert len({frozenset(draw) for draw in draws}) == 6
    assert len({tuple(draw) for draw in draws}) == 12
    alike = [draw_evenly(labelled(a=4), 2, random.Random(seed)) for seed in range(200)]
    assert len({frozenset(draw) for draw in alike}) == 6
    # Those of one answer do not stand together.
    mixed = {tuple(place < 2 for place in draw_evenly(labelled(a=2, b=2), 4, random.Random(seed)))
             for seed in range(100)}  # fmt: skip
    assert (True, False, True, False) in mixed


def test_of_none_or_all_there_is_no_choice() -> None:
    examples = labelled(a=3, b=2)
    assert draw_evenly(examples, 0, random.Random(0)) == []
    assert sorted(draw_evenly(examples, 5, random.Random(0))) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(20))
def test_of_an_order_every_half_has_answers_in_their_proportions(seed: int) -> None:
    order = spread(labelled(a=48, b=16), random.Random(seed))
    for size in (4, 8, 16, 32, 64):
        assert Counter(example.label for example in order[:size])["b"] == size // 4
    for size in range(1, 65):  # and every other part nearly so
        assert abs(Counter(e.label for e in order[:size])["b"] - size / 4) < 2


def test_an_order_has_all_of_them_and_is_random() -> None:
    examples = labelled(a=5, b=3, c=1)
    orders = [tuple(spread(examples, random.Random(seed))) for seed in range(30)]
    assert all(sorted(order, key=str) == sorted(examples, key=str) for order in orders)
    assert len(set(orders)) == 30
    assert spread(examples, random.Random(7)) == spread(examples, random.Random(7))
    assert examples == labelled(a=5, b=3, c=1)  # left as it was
    assert spread([], random.Random(0)) == []


@pytest.mark.parametrize("place", [0, 1, 4, 8])
def test_each_example_is_as_likely_at_any_place(place: int) -> None:
    examples = labelled(a=5, b=3, c=1)
    times = Counter(spread(examples, random.Random(seed))[place].text for seed in range(4500))
    assert len(times) == 9
    assert all(abs(count - 500) < 100 for count in times.values())  # 4.7 standard deviations


def test_where_all_answers_differ_any_order_may_come() -> None:
    examples = [Example(str(i), f"answer {i}") for i in range(3)]
    orders = Counter(
        "".join(e.text for e in spread(examples, random.Random(seed))) for seed in range(1200)
    )
    assert len(orders) == 6
    assert all(abs(count - 200) < 65 for count in orders.values())


def test_choices_are_spread_by_the_place_of_the_right_one() -> None:
    examples = [
        Example(
            str(i),
            f"right {i}",
            choices=(f"right {i}", f"x {i}") if i < 8 else (f"y {i}", f"right {i}"),
        )
        for i in range(16)
    ]
    for seed in range(10):
        assert (
            sum(place < 8 for place in draw_evenly(examples, 4, random.Random(seed), answer_of))
            == 2
        )


def test_luck_with_a_preferred_answer_is_gone() -> None:
    """What a target that always says "a" earns on 8 examples: always the same."""
    examples = labelled(a=16, b=16)
    assert {drawn(examples, 8, seed)["a"] for seed in range(50)} == {4}
