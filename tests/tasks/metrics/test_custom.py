import math
from fractions import Fraction

import numpy as np
import pytest

from stableprompt.errors import ConfigError
from stableprompt.tasks.example import Example, TaskKind
from stableprompt.tasks.metrics.custom import custom_metric

EXAMPLE = Example("text", "yes")


def share_of_letters(example: Example, prediction: str) -> float:
    return len(prediction) / 10


def test_the_metric_has_the_name_of_the_function_and_fits_every_kind() -> None:
    metric = custom_metric(share_of_letters)
    assert metric.name == "share_of_letters"
    assert metric.kinds == frozenset(TaskKind)
    assert metric.score([EXAMPLE] * 2, ["x" * 5, "x"]) == pytest.approx(0.3)


class Judge:
    def __call__(self, example: Example, prediction: str) -> bool:
        return prediction in example.answers


def test_an_object_that_can_be_called_has_the_name_of_its_class() -> None:
    metric = custom_metric(Judge())
    assert metric.name == "Judge"
    assert [metric.value(EXAMPLE, p) for p in ("yes", "no")] == [1, 0]


@pytest.mark.parametrize(
    ("result", "found"),
    [
        (True, 1.0),
        (False, 0.0),
        (1, 1.0),
        (Fraction(1, 4), 0.25),
        (np.float32(0.5), 0.5),
        (np.bool_(True), 1.0),
        (np.int64(0), 0.0),
        (1 + 2e-16, 1.0),
        (1.0000000001, 1.0),
        (-1e-12, 0.0),
    ],
)
def test_numbers_from_0_to_1_become_floats(result: float, found: float) -> None:
    value = custom_metric(lambda example, prediction: result).value(EXAMPLE, "yes")
    assert (value, type(value)) == (found, float)


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        (85, "int '85'"),
        (1.001, "float '1.001'"),
        (-0.5, "float '-0.5'"),
        (math.nan, "float 'nan'"),
        (math.inf, "float 'inf'"),
        (10**400, "int '1000"),
        (None, "NoneType 'None'"),
        ("0.5", "str '0.5'"),
        ((1.0, "good"), "tuple "),
    ],
)
def test_anything_else_is_refused_with_the_prediction(result: object, shown: str) -> None:
    def grade(example: Example, prediction: str) -> float:
        return result  # type: ignore[return-value]

    with pytest.raises(ConfigError) as refusal:
        custom_metric(grade).value(EXAMPLE, "a prediction of one line\nand another " + "x" * 100)
    message = str(refusal.value)
    assert f"metric 'grade' returned {shown}" in message
    assert r"'a prediction of one line\nand another" in message
    assert "return a number from 0 (wrong) to 1 (right)" in message
    assert "\n" not in message and len(message) < 300


def test_an_exception_is_reported_with_its_kind_and_the_prediction() -> None:
    def grade(example: Example, prediction: str) -> float:
        raise KeyError("no\nsuch key")

    with pytest.raises(ConfigError, match=r"metric 'grade' failed .*'blue' with KeyError: ") as e:
        custom_metric(grade).value(EXAMPLE, "blue")
    assert isinstance(e.value.__cause__, KeyError)
    assert "\n" not in str(e.value)


def test_a_function_of_other_parameters_is_refused_at_once() -> None:
    def of_one(prediction: str) -> float:
        return 1.0

    with pytest.raises(ConfigError, match=r"'of_one' cannot be called with \(example, prediction"):
        custom_metric(of_one)  # type: ignore[arg-type]


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a metric is a name or a function, found '3' \(int\)"):
        custom_metric(3)  # type: ignore[arg-type]
