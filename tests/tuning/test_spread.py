"""Examples in an order whose beginnings have answers in their proportions."""

import random
from collections import Counter

import pytest

from stableprompt.tasks.example import Example
from stableprompt.tuning.spread import spread


def labelled(**counts: int) -> list[Example]:
    return [Example(f"{label} {i}", label) for label, n in counts.items() for i in range(n)]


def first(examples: list[Example], size: int, seed: int) -> Counter[str]:
    return Counter(example.label for example in spread(examples, random.Random(seed))[:size])


@pytest.mark.parametrize("seed", range(20))
def test_of_equally_many_answers_every_part_has_equally_many(seed: int) -> None:
    examples = labelled(a=16, b=16, c=16, d=16)
    assert first(examples, 8, seed) == dict.fromkeys("abcd", 2)
    assert set(first(examples, 4, seed).values()) == {1}
    assert sorted(first(examples, 6, seed).values()) == [1, 1, 2, 2]


@pytest.mark.parametrize("seed", range(20))
def test_rare_answers_keep_their_share(seed: int) -> None:
    found = first(labelled(a=30, b=10), 8, seed)
    assert found["b"] in {1, 2, 3}
    assert found["a"] + found["b"] == 8
    # As in any prefix: never further from its share than an example for each of the two answers.
    order = spread(labelled(a=30, b=10), random.Random(seed))
    for size in range(1, 41):
        count = sum(example.label == "b" for example in order[:size])
        assert abs(count - size / 4) < 2


def test_it_is_an_order_of_all_of_them_and_random() -> None:
    examples = labelled(a=5, b=3, c=1)
    orders = [tuple(spread(examples, random.Random(seed))) for seed in range(30)]
    assert all(sorted(order, key=str) == sorted(examples, key=str) for order in orders)
    assert len(set(orders)) == 30
    assert spread(examples, random.Random(7)) == spread(examples, random.Random(7))
    assert examples == labelled(a=5, b=3, c=1)  # left as it was


def test_each_example_is_drawn_as_often_as_its_share() -> None:
    examples = labelled(a=20, b=12)
    times = Counter(
        example.text
        for seed in range(4000)
        for example in spread(examples, random.Random(seed))[:8]
    )
    # 8 of 32: 1000 times each, with a standard deviation below 28.
    assert len(times) == 32
    assert all(abs(count - 1000) < 130 for count in times.values())


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
        places = [int(example.text) < 8 for example in spread(examples, random.Random(seed))[:4]]
        assert sum(places) == 2


def test_luck_with_a_preferred_answer_is_gone() -> None:
    """What a target that always says "a" earns on 8 examples: always the same."""
    examples = labelled(a=16, b=16)
    assert {first(examples, 8, seed)["a"] for seed in range(50)} == {4}
