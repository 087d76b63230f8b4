import pytest
import torch

from stableprompt.scoring.reward import correctness, prompt_reward, softmax_difference


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
    [got] = softmax_difference(torch.tensor([probs]), torch.tensor([label])).tolist()
    assert got == pytest.approx(difference, abs=1e-7)


def test_each_example_has_its_own_label() -> None:
    probs = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])
    got = softmax_difference(probs, torch.tensor([0, 2, 2]))
    # 0.7 - 0.2, 0.1 - 0.7, 0.5 - 0.25
    torch.testing.assert_close(got, torch.tensor([0.5, -0.6, 0.25]), rtol=0, atol=1e-7)


def test_the_correct_label_is_taken_out_of_the_running() -> None:
    # Below zero an entry of 0 would win the maximum: -1 - (-3) = 2, not -1 - 0.
    [got] = softmax_difference(torch.tensor([[-1.0, -3.0]]), torch.tensor([0])).tolist()
    assert got == 2.0


def test_the_probabilities_are_left_as_they_were() -> None:
    probs = torch.tensor([[0.75, 0.25]])
    softmax_difference(probs, torch.tensor([0]))
    assert probs.tolist() == [[0.75, 0.25]]


@pytest.mark.parametrize(
    ("probs", "label", "correct"),
    [
        ([0.6, 0.4], 0, True),
        ([0.6, 0.4], 1, False),
        ([0.5, 0.5], 0, False),  # a tie is not an answer
        ([0.5, 0.5], 1, False),
        ([0.4, 0.2, 0.4], 0, False),
        ([0.4, 0.2, 0.4], 2, False),
        ([0.3, 0.3, 0.4], 2, True),  # a tie among the others does not matter
    ],
)
def test_correctness(probs: list[float], label: int, correct: bool) -> None:
    assert correctness(torch.tensor([probs]), torch.tensor([label])).tolist() == [correct]


@pytest.mark.parametrize(
    ("accuracy", "difference", "reward"),
    [(0.75, 0.2, 7.6), (0.0, -1.0, -0.5), (1.0, 0.0, 10.0)],  # 10 * accuracy + 0.5 * difference
)
def test_prompt_reward_by_hand(accuracy: float, difference: float, reward: float) -> None:
    got = prompt_reward(accuracy, difference, accuracy_weight=10.0, softmax_weight=0.5)
    assert got == pytest.approx(reward, rel=1e-12)
