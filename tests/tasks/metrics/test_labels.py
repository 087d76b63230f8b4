import warnings
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score

from stableprompt.tasks.example import Example
from stableprompt.tasks.metrics.registry import METRICS

# sports: 3 examples, hits 2; world: 2 examples, hits 1; tech: 1 example, no hit. Predictions:
# sports 2, world 2, spam 1, none 1. Accuracy 3/6.
LABELS = ["sports", "sports", "sports", "world", "world", "tech"]
PREDICTIONS = ["sports", "sports", "world", "world", "", "spam"]

names = st.sampled_from(["a", "b", "c", "d"])
pairs = st.lists(st.tuples(names, names | st.just("")), min_size=1, max_size=40)


def score(metric: str, labels: Sequence[str], predictions: Sequence[str]) -> float:
    return METRICS[metric].score([Example("text", label) for label in labels], predictions)


@pytest.mark.parametrize("metric", ["accuracy", "multiple_choice_grade"])
def test_accuracy_is_the_share_of_predictions_that_are_an_answer(metric: str) -> None:
    assert score(metric, LABELS, PREDICTIONS) == 0.5
    value = METRICS[metric].value
    two_right = Example("Which is prime?", "2", others=("3",), choices=("2", "3", "4", ""))
    assert [value(two_right, p) for p in ("2", "3", "4", "2 ", "")] == [1, 1, 0, 0, 0]
    assert value(Example("text", ""), "") == 0


def test_labels_are_compared_letter_by_letter() -> None:
    assert METRICS["accuracy"].value(Example("text", "Yes"), "yes") == 0


def test_balanced_accuracy_is_the_mean_recall_of_the_labels_that_occur() -> None:
    # Recalls 2/3, 1/2 and 0; "spam" is no label of an example.
    expected = (2 / 3 + 1 / 2 + 0) / 3
    assert score("balanced_accuracy", LABELS, PREDICTIONS) == pytest.approx(expected, abs=1e-15)


def test_macro_f1_is_the_mean_over_the_labels_that_occur_or_are_predicted() -> None:
    # 2·hits/(support + predicted): sports 4/(3+2), world 2/(2+2), tech 0/1, spam 0/1.
    expected = (4 / 5 + 1 / 2 + 0 + 0) / 4
    assert score("macro_f1", LABELS, PREDICTIONS) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1"])
def test_the_best_and_the_worst(metric: str) -> None:
    assert score(metric, LABELS, LABELS) == 1
    assert score(metric, LABELS, [""] * 6) == 0
    assert score(metric, ["a", "b"], ["b", "a"]) == 0
    assert score(metric, [""], [""]) == 0  # no label at all: nothing is divided by 0


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1"])
def test_the_value_of_one_prediction_is_whether_it_is_right(metric: str) -> None:
    value = METRICS[metric].value
    assert [value(Example("text", "a"), p) for p in ("a", "b", "")] == [1, 0, 0]


@settings(deadline=None)
@given(pairs)
def test_both_agree_with_scikit_learn(results: list[tuple[str, str]]) -> None:
    labels, predictions = [a for a, _ in results], [b for _, b in results]
    with warnings.catch_warnings():
        # It warns of predictions that no example has, and of a single label.
        warnings.simplefilter("ignore", UserWarning)
        recall = balanced_accuracy_score(labels, predictions)
    occurring = sorted({*labels, *predictions} - {""})
    f1 = f1_score(labels, predictions, labels=occurring, average="macro", zero_division=0)
    assert score("balanced_accuracy", labels, predictions) == pytest.approx(recall, abs=1e-12)
    assert score("macro_f1", labels, predictions) == pytest.approx(f1, abs=1e-12)


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "macro_f1"])
@given(results=pairs, order=st.randoms(use_true_random=False))
def test_the_order_of_the_examples_does_not_matter(
    metric: str, results: list[tuple[str, str]], order: object
) -> None:
    shuffled = list(results)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    before = score(metric, [a for a, _ in results], [b for _, b in results])
    after = score(metric, [a for a, _ in shuffled], [b for _, b in shuffled])
    assert after == pytest.approx(before, abs=1e-12)
    assert 0 <= after <= 1
