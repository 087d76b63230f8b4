import pytest

from stableprompt.tasks.example import Example
from stableprompt.tasks.metrics.induction import induction_normal
from stableprompt.tasks.metrics.registry import METRICS


def value(metric: str, reference: str, prediction: str) -> float:
    return METRICS[metric].value(Example("text", reference), prediction)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("cats and dogs", "cats dogs"),
        ("sand and", "sand and"),  # only between spaces
        ("Sentence 1: It rains.", "it rains"),
        ("Sentence 2:\n Wet", "wet"),
        ("\n\n First line\nsecond line", "first line"),
        ("Yes. It is.", "yes"),
        ("well-known, 'so' called!", "well known so called"),
        ("a - b", "a b"),
        ("The cat", "the cat"),  # articles stay
        ("3.5", "3"),
        (".5", ""),
        ("été", "été"),
    ],
)
def test_the_normalisation(text: str, normal: str) -> None:
    assert induction_normal(text) == normal


@pytest.mark.parametrize(
    ("reference", "prediction", "exact", "f1", "same_set", "contained"),
    [
        ("cat and dog", "Cat dog.", 1, 1, 1, 1),
        ("cat, dog", "dog and cat", 0, 1, 1, 0),
        ("cat dog", "cat cat dog", 0, 0.8, 1, 1),  # 2·2/(2 + 3)
        ("cat", "the cat sat", 0, 0.5, 0, 1),  # 2·1/(1 + 3)
        ("cat", "cats", 0, 0, 0, 0),
        ("cat", "no. A cat", 0, 0, 0, 0),  # behind the first full stop
        ("cat", "no\ncat", 0, 0, 0, 0),  # behind the first line
        ("a - b", "a b", 1, 1, 1, 1),
        ("cat", "", 0, 0, 0, 0),
        ("", "", 1, 1, 1, 0),
        ("", "cat", 0, 0, 0, 0),
        (".5", ".7", 0, 0, 0, 0),
        (".5", " .5", 1, 1, 1, 0),
        (".5", "", 0, 0, 0, 0),
        ("5 €", "it costs 5 €, sir", 0, 4 / 7, 0, 1),  # 2·2/(2 + 5); € is no word character
        ("5 €", "15 €", 0, 0.5, 0, 0),
    ],
)
def test_the_four_metrics(
    reference: str, prediction: str, exact: int, f1: float, same_set: int, contained: int
) -> None:
    assert value("ii_exact_match", reference, prediction) == exact
    assert value("ii_f1", reference, prediction) == pytest.approx(f1, abs=1e-15)
    assert value("ii_exact_set", reference, prediction) == same_set
    assert value("ii_contains", reference, prediction) == contained
