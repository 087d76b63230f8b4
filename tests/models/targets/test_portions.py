"""Conversations in portions, and their answers put together again."""

from random import Random

import pytest
import torch

from stableprompt.models.chat import Message
from stableprompt.models.targets.interface import Answers, LabelScores, Usage
from stableprompt.models.targets.portions import joined_answers, joined_scores, portions

PROMPTS = [f"{word} what it is" for word in ("Say", "Tell me", "Sort out", "See", "Ask", "Write")]
INPUTS = [f"{number} apples and pears" for number in range(8)]


def asked(*, input_first: bool = False) -> list[list[Message]]:
    """6 prompts x 8 inputs, prompt by prompt."""
    pairs = [(prompt, text) for prompt in PROMPTS for text in INPUTS]
    return [
        [{"role": "user", "content": f"{text}\n{prompt}" if input_first else f"{prompt}\n{text}"}]
        for prompt, text in pairs
    ]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100, 129, 3000])
def test_each_conversation_is_in_one_portion(count: int) -> None:
    random = Random(count)
    words = ["red", "green", "blue"]
    texts = [" ".join(random.choices(words, k=random.randrange(9))) for _ in range(count)]
    found = portions([[{"role": "user", "content": text}] for text in texts])
    assert sorted(number for own in found for number in own) == list(range(count))
    assert all(found)
    most = max((len(own) for own in found), default=0)
    assert most <= min(64, max(8, count // 16))
    # Small enough that nobody is waited for long, large enough that little is read twice.
    assert all(len(own) >= min(8, count // 16) / 2 for own in found[:-1])


def test_portions_are_cut_where_the_prompt_changes() -> None:
    found = portions(asked())
    assert sorted(sorted(own) for own in found) == [
        list(range(start, start + 8)) for start in range(0, 48, 8)
    ]


def test_what_begins_with_the_same_input_is_put_together() -> None:
    found = portions(asked(input_first=True))
    # 6 prompts an input; those of one input are 8 apart, and at most 8 conversations go together.
    assert sorted(sorted(own) for own in found) == [list(range(n, 48, 8)) for n in range(8)]


def test_portions_follow_from_the_conversations_alone() -> None:
    conversations = asked()
    mixed = list(range(48))
    Random(0).shuffle(mixed)
    again = portions([conversations[n] for n in mixed])
    assert [[mixed[place] for place in own] for own in again] == portions(conversations)


def test_half_a_character_is_a_text_like_any_other() -> None:
    assert portions([[{"role": "user", "content": "\ud800"}]]) == [[0]]


def test_scores_come_in_the_order_of_the_questions() -> None:
    parts = [
        ([3, 0], LabelScores(torch.tensor([[0.25, 0.75], [1.0, 0.0]]), Usage(10, 1), {1: "why"})),
        ([1, 2], LabelScores(torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]]), Usage(7, 2))),
    ]
    found = joined_scores(parts, None)
    assert found.label_probs.tolist() == [
        [1.0, 0.0, 0.0],
        [0.5, 0.25, 0.25],
        [0.0, 0.0, 1.0],
        [0.25, 0.75, 0.0],
    ]
    assert found.usage == Usage(17, 3)
    assert found.failed == {0: "why"}
    assert joined_scores(parts, 12).usage == Usage(12, 3)  # what they share is counted once


def test_answers_come_in_the_order_of_the_questions() -> None:
    parts = [
        ([2], Answers(("two",), Usage(5, 1))),
        ([1, 0], Answers(("one", ""), Usage(6, 1), {1: "why"})),
    ]
    found = joined_answers(parts, 9)
    assert found == Answers(("", "one", "two"), Usage(9, 2), {0: "why"})
