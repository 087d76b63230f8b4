import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from stableprompt.scoring.reward import best_words, prompt_reward, softmax_difference


def only(labels: list[int], width: int) -> Tensor:
    """One correct answer in each row, (N, C)."""
    return one_hot(torch.tensor(labels), width).bool()


@pytest.mark.parametrize(
    ("probs", "label", "difference"),
    [
        ([0.9, 0.1], 0, 0.8),  # 0.9 - 0.1
        ([0.9, 0.1], 1, -0.8),
        ([0.7, 0.2, 0.1], 0, 0.5),  # 0.7 - max(0.2, 0.1)
        ([0.7, 0.2, 0.1], 1, -0.5),  # 0.2 - max(0.7, 0.1)
        ([0.7, 0.2, 0.1], 2, -0.6),  # 0.1 - max(0.7, 0.2)
        ([0.0, 1.0, 0.0], 1, 1.0),
        ([0.0, 1.0, 0.0], 0, -1.0),
        ([0.5, 0.5], 0, 0.0),
    ],
)
def test_softmax_difference_by_hand(probs: list[float], label: int, difference: float) -> None:
    [got] = softmax_difference(torch.tensor([probs]), only([label], len(probs))).tolist()
    assert got == pytest.approx(difference, abs=1e-7)


def test_each_example_has_its_own_label() -> None:
    probs = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])
    got = softmax_difference(probs, only([0, 2, 2], 3))
    # 0.7 - 0.2, 0.1 - 0.7, 0.5 - 0.25
    torch.testing.assert_close(got, torch.tensor([0.5, -0.6, 0.25]), rtol=0, atol=1e-7)


def test_the_correct_label_is_taken_out_of_the_running() -> None:
    # Below zero an entry of 0 would win the maximum: -1 - (-3) = 2, not -1 - 0.
    [got] = softmax_difference(torch.tensor([[-1.0, -3.0]]), only([0], 2)).tolist()
    assert got == 2.0


def test_the_probabilities_are_left_as_they_were() -> None:
    probs = torch.tensor([[0.75, 0.25]])
    softmax_difference(probs, only([0], 2))
    assert probs.tolist() == [[0.75, 0.25]]


def test_of_several_correct_answers_the_most_probable_counts() -> None:
    probs = torch.tensor([[0.5, 0.125, 0.375], [0.5, 0.125, 0.375]])
    right = torch.tensor([[False, True, True], [True, True, False]])
    # 0.375 - 0.5, and 0.5 - 0.375
    assert softmax_difference(probs, right).tolist() == [-0.125, 0.125]


def test_answers_that_a_row_does_not_have_change_nothing() -> None:
    # Rows with fewer answers end in zeros, see LabelScores.
    assert softmax_difference(torch.tensor([[0.75, 0.25, 0.0]]), only([0], 3)).tolist() == [0.5]


@pytest.mark.parametrize(
    ("probs", "best"),
    [
        ([0.6, 0.4], 0),
        ([0.4, 0.6], 1),
        ([0.5, 0.5], None),  # a tie is not an answer
        ([0.4, 0.2, 0.4], None),
        ([0.3, 0.3, 0.4], 2),  # a tie among the others does not matter
        ([0.4, 0.6, 0.0], 1),
    ],
)
def test_the_most_probable_answer(probs: list[float], best: int | None) -> None:
    assert best_words(torch.tensor([[0.1, 0.9, 0.0][: len(probs)], probs])) == [1, best]


@pytest.mark.parametrize(
    ("score", "difference", "reward"),
    [(0.75, 0.2, 7.6), (0.0, -1.0, -0.5), (1.0, 0.0, 10.0)],  # 10 * score + 0.5 * difference
)
def test_prompt_reward_by_hand(score: float, difference: float, reward: float) -> None:
    got = prompt_reward(score, difference, accuracy_weight=10.0, softmax_weight=0.5)
    assert got == pytest.approx(reward, rel=1e-12)
