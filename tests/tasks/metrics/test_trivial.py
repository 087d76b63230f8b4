from dataclasses import replace

import pytest

from stableprompt.tasks.example import Example
from stableprompt.tasks.metrics.custom import custom_metric
from stableprompt.tasks.metrics.registry import METRICS, is_cheap
from stableprompt.tasks.metrics.trivial import echo_score, trivial_score


def labelled(*labels: str) -> list[Example]:
    return [Example("text", label) for label in labels]


def test_for_accuracy_it_is_the_share_of_the_most_frequent_label() -> None:
    examples = labelled("a", "b", "b", "c", "b")
    assert trivial_score(METRICS["accuracy"], examples, ["a", "b", "c"]) == 3 / 5


def test_metrics_that_weigh_labels_alike_get_nothing_from_the_majority() -> None:
    examples, labels = labelled("a", "b", "b", "b"), ["a", "b"]
    assert trivial_score(METRICS["balanced_accuracy"], examples, labels) == 1 / 2
    # Always b: F1 of b is 2·3/(3 + 4), of a 0.
    assert trivial_score(METRICS["macro_f1"], examples, labels) == pytest.approx(3 / 7)


def test_only_the_given_labels_are_tried() -> None:
    assert trivial_score(METRICS["accuracy"], labelled("a", "b", "b"), ["a"]) == 1 / 3


def test_a_choice_that_an_example_does_not_have_is_wrong_there() -> None:
    examples = [
        Example("1", "red", choices=("red", "blue")),
        Example("2", "red", choices=("red", "green")),
        Example("3", "six", choices=("five", "six")),
    ]
    assert trivial_score(METRICS["accuracy"], examples) == 2 / 3


def test_choices_that_are_never_right_are_tried_too() -> None:
    examples = [Example("1", "red", choices=("red", "blue"))]
    likes_blue = custom_metric(lambda example, prediction: prediction == "blue")
    assert trivial_score(likes_blue, examples) == 1


def test_of_very_many_choices_those_that_are_right_most_often_are_tried() -> None:
    examples = [
        Example(str(i), f"right {i}", choices=(f"wrong {i}", f"right {i}")) for i in range(300)
    ]
    examples += [Example("last", "right 299", choices=("right 299", "wrong"))]
    assert trivial_score(METRICS["accuracy"], examples) == 2 / 301


def test_generated_text_is_tried_with_the_references_themselves() -> None:
    examples = labelled("the red fox", "a red cow", "blue")
    # "the red fox": 1, 2·1/(2 + 2), 0; "a red cow" the same; "blue" 1/3.
    assert trivial_score(METRICS["token_f1"], examples) == pytest.approx(0.5)
    # "red fox" is right for the first and the third: further references count.
    more = [Example("1", "x", ("red fox",)), Example("2", "y"), Example("3", "red fox")]
    assert trivial_score(METRICS["exact_match"], more) == 2 / 3


def test_the_20_most_frequent_references_are_tried_ties_in_order() -> None:
    tried: list[str] = []

    def remember(example: Example, prediction: str) -> float:
        if prediction not in tried:
            tried.append(prediction)
        return 0.0

    examples = labelled(*(f"r{i}" for i in range(30)), "r29", "r25", "r25")
    examples.append(Example("text", "r7", others=("r7", "r7")))  # counts once
    trivial_score(custom_metric(remember), examples)
    first = [f"r{i}" for i in range(30) if i not in (7, 25, 29)]
    frequent = ["r25", "r7", "r29", *first[:17]]
    assert tried == ["text", *frequent, " ".join(frequent)]  # the input first


def test_repeating_the_input_is_tried_field_by_field_where_answers_are_free() -> None:
    def pair(one: str, other: str, *answers: str) -> Example:
        return Example(f"{one}: {other}", answers[0], answers[1:], fields={"a": one, "b": other})

    examples = [pair("p", "seat", "heat", "seat"), pair("q", "sky", "sky"), pair("r", "log", "dog")]
    assert trivial_score(METRICS["exact_match"], examples) == 2 / 3
    # A field that one of them lacks is no answer to all.
    lacking = [*examples[:2], Example("r", "dog", fields={"a": "r"})]
    assert trivial_score(METRICS["exact_match"], lacking) == 1 / 3
    # Choices and labels are not free.
    chosen = [
        replace(e, choices=("heat", "seat", "sky", "dog"), label=e.answers[-1], others=())
        for e in examples
    ]
    assert trivial_score(METRICS["accuracy"], chosen) == 1 / 3
    # The laid-out input counts as well as its fields.
    whole = [Example(f"{n} x{n}", f"{n} x{n}", fields={"a": n, "b": f"x{n}"}) for n in "pqr"]
    assert trivial_score(METRICS["exact_match"], whole) == 1


def test_of_very_many_inputs_some_are_repeated() -> None:
    asked = []

    def value(example: Example, prediction: str) -> float:
        asked.append(prediction)
        return float(prediction == example.text)

    examples = [Example(f"input {i}", "same", fields={"text": f"input {i}"}) for i in range(500)]
    assert echo_score(custom_metric(value), examples) == 1
    assert len([text for text in asked if text == "input 199"]) == 2  # as it is laid out, the field
    assert "input 200" not in asked
    assert echo_score(custom_metric(value), examples, most=3) == 1
    assert asked[-1] == "input 2"


def test_no_judge_and_no_metric_of_the_users_own_is_tried_at_will() -> None:
    assert is_cheap(METRICS["exact_match"])
    assert not is_cheap(METRICS["judge"])
    assert not is_cheap(custom_metric(lambda example, prediction: 1.0))


def test_no_examples() -> None:
    with pytest.raises(ValueError, match="score on 0 examples"):
        trivial_score(METRICS["accuracy"], [], ["a"])


def test_an_answer_that_holds_everything_is_tried_too() -> None:
    examples = [Example("t", answer) for answer in ("yes", "no", "no")]
    # "no" is in 2 of 3 references, "no yes" contains them all.
    assert trivial_score(METRICS["contains"], examples) == 1.0
    assert trivial_score(METRICS["exact_match"], examples) == 2 / 3


def test_many_examples_are_all_counted_for_the_best_constants() -> None:
    # Of the first 200 "a" is right most often, of all 500 it is "b".
    answers = ["a"] * 120 + ["b"] * 80 + ["b"] * 150 + ["c"] * 150
    examples = [Example("t", answer) for answer in answers]
    assert trivial_score(METRICS["exact_match"], examples) == 230 / 500


def test_references_may_be_known_from_elsewhere() -> None:
    examples = [Example("t", answer) for answer in ("a", "b")]
    known = [Example("t", answer) for answer in ("b", "c", "c")]
    assert trivial_score(METRICS["exact_match"], examples, known=known) == 1 / 2
    assert trivial_score(METRICS["contains_strict"], examples, known=known) == 1 / 2
    assert trivial_score(METRICS["contains_strict"], examples) == 1.0
