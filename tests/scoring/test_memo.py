"""What is asked once, what is not the same question, what survives a restart."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from stableprompt.errors import RunError
from stableprompt.scoring.memo import PairMemo


class Oracle:
    """Answers a question with its length as JSON, and remembers what it was asked."""

    def __init__(self, questions: Sequence[Any]) -> None:
        self.questions = questions
        self.asked: list[list[int]] = []

    def __call__(self, numbers: list[int]) -> list[tuple[int, Any]]:
        self.asked.append(numbers)
        return [(number, [len(json.dumps(self.questions[number]))]) for number in numbers]


def ask(memo: PairMemo, *questions: Any) -> tuple[list[Any], list[list[int]]]:
    """The answers, and the numbers of the questions that had to be answered, call by call."""
    oracle = Oracle(questions)
    return memo.ask(questions, oracle), oracle.asked


def test_a_question_is_answered_once() -> None:
    memo = PairMemo()
    assert ask(memo, "a", "bbb") == ([[3], [5]], [[0, 1]])
    assert ask(memo, "bbb", "cc", "a") == ([[5], [4], [3]], [[1]])
    assert ask(memo, "cc", "a") == ([[4], [3]], [])


def test_the_same_question_twice_in_one_call_is_answered_once_at_its_first_place() -> None:
    assert ask(PairMemo(), "b", "a", "b", "cc", "a") == ([[3], [3], [3], [4], [3]], [[0, 1, 3]])


def test_no_question_no_answer() -> None:
    assert ask(PairMemo()) == ([], [])


@pytest.mark.parametrize("answer", ["", "one\ntwo", [], [0.0, 1.0]])
def test_any_plain_answer_is_remembered_even_an_empty_one(answer: Any) -> None:
    memo = PairMemo()
    assert memo.ask(["a"], lambda numbers: [(n, answer) for n in numbers]) == [answer]
    assert memo.ask(["a"], lambda numbers: [(n, "another") for n in numbers]) == [answer]


CHAT = [{"role": "system", "content": "Sort."}, {"role": "user", "content": "so be it"}]
QUESTION = [CHAT, ["yes", "no"]]


@pytest.mark.parametrize(
    "other",
    [
        [[CHAT[0], {"role": "user", "content": "so be it "}], ["yes", "no"]],
        [[CHAT[0], {"role": "user", "content": "So be it"}], ["yes", "no"]],
        [[{"role": "system", "content": "Sort"}, CHAT[1]], ["yes", "no"]],
        [[{"role": "user", "content": "Sort."}, CHAT[1]], ["yes", "no"]],
        [[CHAT[1], CHAT[0]], ["yes", "no"]],
        [[CHAT[1]], ["yes", "no"]],
        [CHAT, ["no", "yes"]],
        [CHAT, ["yes", "No"]],
        [CHAT, ["yes", "no", "maybe"]],
        [CHAT, ["yes"]],
        [CHAT, ["yesno"]],
        [CHAT, ["ye", "sno"]],
        CHAT,
    ],
)
def test_whatever_the_target_reads_makes_another_question(other: Any) -> None:
    memo = PairMemo()
    _, asked = ask(memo, QUESTION, other)
    assert asked == [[0, 1]]
    assert ask(memo, other, QUESTION)[1] == []


def test_long_questions_are_told_apart_by_their_last_character() -> None:
    text = "word " * 10_000
    assert ask(PairMemo(), text + "a", text + "b", text + "a")[1] == [[0, 1]]


def test_characters_that_no_file_can_hold_are_told_apart() -> None:
    # Halves of a surrogate pair are no UTF-8: neither an error nor all the same question.
    texts = ["\ud83d", "\ude00", "\U0001f600", "?", "\ufffd", "\\ud83d", ""]
    memo = PairMemo()
    assert ask(memo, *texts)[1] == [list(range(len(texts)))]
    assert ask(memo, *texts)[1] == []


def test_the_key_is_the_same_in_every_process() -> None:
    memo = PairMemo()
    ask(memo, ["ä"])
    [record] = memo.take_new()
    # printf '["ä"]' | sha256sum | cut -c -32
    assert record["pair"] == "e24284584f389ad9de82fd03a07c2f59"


def test_what_is_new_is_handed_out_once_in_the_order_of_asking() -> None:
    memo = PairMemo()
    ask(memo, "a", "bbb", "a")
    ask(memo, "cc", "bbb")
    records = memo.take_new()
    assert [record["answer"] for record in records] == [[3], [5], [4]]
    assert [set(record) for record in records] == [{"pair", "answer"}] * 3
    assert memo.take_new() == []
    ask(memo, "a", "dddd")
    assert [record["answer"] for record in memo.take_new()] == [[6]]


def test_what_was_handed_out_restores_the_memory() -> None:
    memo = PairMemo()
    # Probabilities are 32-bit floats: all their digits must come back.
    probs = [[0.10000000149011612, 0.8999999761581421], [1.401298464324817e-45, 1.0]]
    memo.ask(["a", "b"], lambda numbers: enumerate(probs))
    lines = [json.dumps(record) for record in memo.take_new()]
    new = PairMemo()
    new.restore(map(json.loads, lines))
    assert new.ask(["b", "a"], Oracle([])) == probs[::-1]
    assert new.take_new() == []  # those lines are written already


def test_restoring_forgets_what_came_after() -> None:
    memo = PairMemo()
    ask(memo, "a")
    records = memo.take_new()
    ask(memo, "bbb")  # in a step that is about to be run again
    memo.restore(records)
    assert memo.take_new() == []
    assert ask(memo, "a", "bbb")[1] == [[1]]
    assert [record["answer"] for record in memo.take_new()] == [[5]]


def test_a_failed_question_leaves_nothing_behind() -> None:
    def fails(numbers: list[int]) -> list[Any]:
        raise RuntimeError("out of reach")

    memo = PairMemo()
    ask(memo, "a")
    memo.take_new()
    with pytest.raises(RuntimeError, match="out of reach"):
        memo.ask(["a", "bbb"], fails)
    assert memo.take_new() == []
    assert ask(memo, "a", "bbb")[1] == [[1]]


def test_what_gets_no_answer_is_none_and_asked_again() -> None:
    memo = PairMemo()
    assert memo.ask(["a", "b", "a"], lambda numbers: [(1, "two")]) == [None, "two", None]
    assert [record["answer"] for record in memo.take_new()] == ["two"]
    asked: list[list[int]] = []

    def answer(numbers: list[int]) -> list[tuple[int, Any]]:
        asked.append(numbers)
        return [(0, "one")]

    assert memo.ask(["a", "b"], answer) == ["one", "two"]
    assert asked == [[0]]


def test_answers_that_came_before_a_failure_are_kept() -> None:
    def fails(numbers: list[int]) -> Iterator[tuple[int, Any]]:
        yield 0, "one"
        raise RuntimeError("out of reach")

    memo = PairMemo()
    with pytest.raises(RuntimeError, match="out of reach"):
        memo.ask(["a", "b"], fails)
    assert ask(memo, "a", "b")[1] == [[1]]


def test_a_line_without_a_pair_or_an_answer_is_damage() -> None:
    for record in ({"pair": "a"}, {"answer": [0.5, 0.5]}):
        with pytest.raises(RunError, match=r"pairs\.jsonl has no"):
            PairMemo().restore([record])
