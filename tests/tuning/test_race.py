"""Successive halving: sizes, costs and survivors worked by hand."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from stableprompt.config import make_config
from stableprompt.tuning.race import look_sizes, most_racers, race, race_cost, validation_order
from tests.fakes.word_agent import make_task


@pytest.mark.parametrize(
    ("num_examples", "rounds", "expected"),
    [
        (32, 3, [8, 16, 32]),
        (64, 3, [16, 32, 64]),
        (20, 3, [10, 20]),  # a look at 5 would be too small
        (15, 3, [15]),  # at 7, too
        (16, 2, [8, 16]),
        (100, 1, [100]),
        (5, 3, [5]),
        (1, 9, [1]),
        (33, 3, [8, 16, 33]),
        (8, 40, [8]),
    ],
)
def test_looks_double_and_end_with_all(num_examples: int, rounds: int, expected: list[int]) -> None:
    assert look_sizes(num_examples, rounds) == expected


@pytest.mark.parametrize(
    ("num_prompts", "num_examples", "rounds", "expected"),
    [
        (8, 32, 3, 8 * 8 + 4 * 8 + 2 * 16),
        (5, 20, 3, 5 * 10 + 3 * 10),
        (5, 20, 1, 5 * 20),
        (1, 32, 3, 32),
        (0, 32, 3, 0),
        (7, 33, 3, 7 * 8 + 4 * 8 + 2 * 17),
    ],
)
def test_costs_worked_by_hand(
    num_prompts: int, num_examples: int, rounds: int, expected: int
) -> None:
    assert race_cost(num_prompts, num_examples, rounds) == expected


@pytest.mark.parametrize(
    ("calls", "expected"), [(128, 8), (127, 7), (120, 7), (119, 6), (104, 6), (32, 1), (31, 0)]
)
def test_as_many_race_as_can_be_paid_for(calls: int, expected: int) -> None:
    # On 32 examples in three looks, 8 prompts cost 128 calls (see above), 7 cost 56 + 32 + 32, 6
    # cost 48 + 24 + 32, and one alone costs 32.
    assert most_racers(calls, 32, 3) == expected


def test_the_most_racers_are_paid_for_and_one_more_is_not() -> None:
    for calls in range(0, 400, 7):
        for num_examples, rounds in ((1, 1), (9, 3), (18, 3), (40, 4), (41, 2)):
            most = most_racers(calls, num_examples, rounds)
            assert race_cost(most, num_examples, rounds) <= calls
            assert race_cost(most + 1, num_examples, rounds) > calls


class Track:
    """Says what prompts are worth by a table, and remembers each look.

    Where a prompt has several numbers, they are those of one look after the other.
    """

    def __init__(self, **worth: float | tuple[float, ...]) -> None:
        self.worth = worth
        self.looks: list[tuple[list[str], list[Any]]] = []

    def __call__(self, prompts: Sequence[str], examples: Sequence[Any]) -> dict[str, float]:
        number = len(self.looks)
        self.looks.append((list(prompts), list(examples)))
        found = {prompt: self.worth[prompt] for prompt in reversed(prompts)}
        return {p: own[number] if isinstance(own, tuple) else own for p, own in found.items()}

    @property
    def pairs(self) -> set[tuple[str, Any]]:
        return {(p, e) for prompts, examples in self.looks for p in prompts for e in examples}


EXAMPLES: Any = list(range(32))


def test_the_better_half_goes_on_and_the_last_look_is_not_taken() -> None:
    track = Track(a=0.1, b=0.9, c=0.5, d=0.7, e=0.3)
    left = race(list("abcde"), EXAMPLES, 3, track)
    assert left == ["b", "d"]
    assert track.looks == [(list("abcde"), EXAMPLES[:8]), (["b", "d", "c"], EXAMPLES[:16])]


def test_each_look_says_anew_what_prompts_are_worth() -> None:
    track = Track(a=(0.9, 0.1), b=(0.8, 0.2), c=0.7, d=0.0)
    assert race(list("abcd"), EXAMPLES, 3, track) == ["b"]
    track = Track(a=(0.9, 0.1), b=(0.8, 0.2), c=(0.7, 1.0), d=(0.0, 1.0))
    assert race(list("abcd"), EXAMPLES, 3, track) == ["b"]  # who is out stays out


def test_ties_are_broken_by_text() -> None:
    track = Track(a=0.5, b=0.75, d=0.5, c=0.5)
    assert race(list("dbca"), EXAMPLES, 2, track) == ["b", "a"]


def test_with_one_look_all_are_left_and_none_is_asked() -> None:
    track = Track(a=0.1, b=0.2)
    assert race(["a", "b"], EXAMPLES, 1, track) == ["a", "b"]
    assert track.looks == []


def test_nobody_can_race() -> None:
    assert race([], EXAMPLES, 3, Track()) == []


@pytest.mark.parametrize("num_prompts", [1, 2, 3, 7, 8, 13])
@pytest.mark.parametrize("num_examples", [5, 18, 33])
@pytest.mark.parametrize("rounds", [1, 2, 3, 4])
def test_a_race_and_its_last_look_ask_exactly_what_it_costs_and_the_best_wins(
    num_prompts: int, num_examples: int, rounds: int
) -> None:
    worth = {f"p{n}": (n * 5 % 13) / 13 for n in range(num_prompts)}
    examples: Any = list(range(num_examples))
    track = Track(**worth)
    left = race(list(worth), examples, rounds, track)
    track(left, examples)
    assert len(track.pairs) == race_cost(num_prompts, num_examples, rounds)
    assert max(worth, key=lambda p: worth[p]) in left


def test_a_run_looks_at_validation_in_one_shuffled_order() -> None:
    task, config = make_task(), make_config({"seed": 3})
    order = validation_order(task, config)
    assert order == validation_order(task, config)
    assert sorted(order, key=lambda e: e.text) == sorted(task.validation, key=lambda e: e.text)
    assert order != list(task.validation)
    labels = Counter(example.label for example in task.validation)
    half = Counter(example.label for example in order[: len(order) // 2])
    assert all(abs(half[label] - count / 2) < 1 for label, count in labels.items())
    assert order != validation_order(task, make_config({"seed": 4}))
