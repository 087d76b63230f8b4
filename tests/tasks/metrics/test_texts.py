import pytest
from hypothesis import given
from hypothesis import strategies as st

from stableprompt.tasks.example import Example
from stableprompt.tasks.metrics.registry import METRICS
from stableprompt.tasks.metrics.texts import squad_normal


def value(metric: str, reference: str, prediction: str) -> float:
    return METRICS[metric].value(Example("text", reference), prediction)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Cat's\tmat.", "cats mat"),
        ("a cat, an owl and the dog", "cat owl and dog"),
        ("Theatre another data", "theatre another data"),  # articles are whole words
        ("state-of-the-art", "stateoftheart"),  # punctuation goes first, as in SQuAD
        ("A.", ""),
        ("Zu\u0308rich", "zürich"),  # u and a combining diaeresis
        ("a\u0300 la carte", "à la carte"),  # decomposed it would be the article a
        ("10 €", "10 €"),  # string.punctuation is ASCII
    ],
)
def test_the_normalisation_of_squad(text: str, normal: str) -> None:
    assert squad_normal(text) == normal


@pytest.mark.parametrize(
    ("reference", "prediction", "equal"),
    [
        ("The Eiffel Tower", "eiffel tower!", 1),
        ("Eiffel Tower", "the tower Eiffel", 0),
        ("caf\u00e9", "Cafe\u0301", 1),
        ("cafe", "café", 0),
        ("", "", 1),
        ("", " \n", 1),
        ("", "the", 0),
        ("", "x", 0),
        ("x", "", 0),
        ("x", "!", 0),
        # Of these nothing is left by SQuAD's rules: each is itself and nothing else.
        ("the", "The.", 1),
        ("the", "an", 0),
        ("the", "", 0),
        ("!", " ! ", 1),
        ("!", "?", 0),
        ("!", "", 0),
    ],
)
def test_exact_match(reference: str, prediction: str, equal: int) -> None:
    assert value("exact_match", reference, prediction) == equal


@pytest.mark.parametrize(
    ("reference", "prediction", "f1"),
    [
        # Common: red, fox. Precision 2/4, recall 2/3: 2·2/(4 + 3).
        ("the quick red fox", "A red, red fox runs.", 4 / 7),
        ("one two", "two one", 1),
        ("x x y", "x", 0.5),  # 2·1/(3 + 1): a word counts as often as in both
        ("one", "two", 0),
        ("one", "", 0),
        ("", "one", 0),
        ("", "", 1),
        ("the", "it is the", 0.5),  # 2·1/(1 + 3): the reference keeps its article
        ("the", "a", 0),
    ],
)
def test_token_f1(reference: str, prediction: str, f1: float) -> None:
    assert value("token_f1", reference, prediction) == pytest.approx(f1, abs=1e-15)


@pytest.mark.parametrize(
    ("reference", "prediction", "equal"),
    [
        (" Paris\n", "Paris", 1),
        ("Paris", "paris", 0),
        ("Paris", "Paris.", 0),
        ("New York", "New  York", 0),
        ("", " ", 1),
        ("", ".", 0),
    ],
)
def test_exact_match_strict(reference: str, prediction: str, equal: int) -> None:
    assert value("exact_match_strict", reference, prediction) == equal


@pytest.mark.parametrize(
    ("reference", "prediction", "found"),
    [
        ("the cat", "I see: a CAT!", 1),
        ("cat", "concatenate", 0),
        ("cat", "cats", 0),
        ("cat", "a cat sat", 1),
        ("cat sat", "sat cat", 0),
        ("cat sat", "a cat then sat", 0),
        ("the", "it is the.", 1),
        ("the", "it is a", 0),
        ("", "cat", 0),
        ("", "", 1),
        ("cat", "", 0),
    ],
)
def test_contains(reference: str, prediction: str, found: int) -> None:
    assert value("contains", reference, prediction) == found


@pytest.mark.parametrize(
    ("reference", "prediction", "strict", "any_case"),
    [
        ("cat", "concatenate", 1, 1),
        ("Cat", "concatenate", 0, 1),
        (" cat ", "cat", 1, 1),
        ("a  b", "a b", 0, 0),
        ("straße", "STRASSE", 0, 1),
        ("", "cat", 0, 0),
        (" ", "a cat", 0, 0),
        ("", " ", 1, 1),
        ("cat", "", 0, 0),
    ],
)
def test_contained_as_a_substring(
    reference: str, prediction: str, strict: int, any_case: int
) -> None:
    assert value("contains_strict", reference, prediction) == strict
    assert value("contains_any_case", reference, prediction) == any_case


def test_the_best_reference_counts_wherever_it_stands() -> None:
    example = Example("text", "dog", others=("red cat", "bird"))
    # "red cat" against "a red cow": 2·1/(2 + 2)
    assert METRICS["token_f1"].value(example, "a red cow") == 0.5
    for prediction in ("dog", "Red cat", "bird"):
        assert METRICS["exact_match"].value(example, prediction) == 1


@given(st.text(), st.text())
def test_what_is_stricter_is_never_worth_more(reference: str, prediction: str) -> None:
    def worth(metric: str) -> float:
        return value(metric, reference, prediction)

    assert worth("contains_strict") <= worth("contains_any_case")
    assert worth("exact_match") <= worth("contains")
    assert worth("exact_match") <= worth("token_f1")
    assert worth("exact_match_strict") <= worth("exact_match")
