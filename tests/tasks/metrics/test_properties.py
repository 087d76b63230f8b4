"""What must hold for every metric of generated text, whatever the texts are."""

import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stableprompt.tasks.example import Example, TaskKind
from stableprompt.tasks.metrics.induction import induction_normal
from stableprompt.tasks.metrics.overlap import rouge_tokens
from stableprompt.tasks.metrics.registry import JUDGE, METRICS, metric_names
from stableprompt.tasks.metrics.texts import squad_normal
from stableprompt.tasks.metrics.trivial import trivial_score

# Pieces that the normalisations treat in some special way, beside arbitrary text.
words = ["the", "a", "Cat", "cat", "dog", "e\u0301", "é", "€", "中", "😀", "ß", "İ", "ि"]
signs = [".", "-", "'", "&amp;", "Sentence 1:", " and ", " ", "\n", "\x1c", "\u2028", "\u200b"]
pieces = st.sampled_from([*words, *signs])
texts = st.lists(pieces, max_size=8).map("".join) | st.text(max_size=20)
answers = st.lists(texts, min_size=1, max_size=3)

# The judge's values come from a model.
NAMES = [name for name in metric_names(TaskKind.GENERATION) if name != JUDGE]
every_metric = pytest.mark.parametrize("name", NAMES)


def value(name: str, references: list[str], prediction: str) -> float:
    return METRICS[name].value(Example("text", references[0], tuple(references[1:])), prediction)


@every_metric
@settings(deadline=None)
@given(references=answers, prediction=texts)
def test_a_value_is_a_float_from_0_to_1(name: str, references: list[str], prediction: str) -> None:
    found = value(name, references, prediction)
    assert isinstance(found, float)
    assert 0 <= found <= 1


@every_metric
@settings(deadline=None)
@given(references=answers, prediction=texts)
def test_the_order_of_the_references_does_not_matter(
    name: str, references: list[str], prediction: str
) -> None:
    backwards = value(name, references[::-1], prediction)
    assert backwards == pytest.approx(value(name, references, prediction), abs=1e-12)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "sentence_bleu"])
@settings(deadline=None)
@given(references=answers, prediction=texts)
def test_several_references_are_worth_the_best_of_them(
    name: str, references: list[str], prediction: str
) -> None:
    # Sentence BLEU compares the length with the closest reference: see test_overlap.py.
    best = max(value(name, [reference], prediction) for reference in references)
    assert value(name, references, prediction) == pytest.approx(best, abs=1e-12)


@every_metric
@given(references=answers)
def test_an_empty_prediction_is_worth_nothing_unless_a_reference_is_empty(
    name: str, references: list[str]
) -> None:
    empty = any(not reference.strip() for reference in references)
    expected = 1 if empty and name != "ii_contains" else 0
    assert {value(name, references, blank) for blank in ("", " \n")} == {expected}


def nothing_left(name: str, text: str) -> bool:
    """Whether the metric finds nothing to compare in the text."""
    if name.startswith("ii_"):
        return not induction_normal(text)
    if name.startswith("rouge"):
        return len(rouge_tokens(text)) < (2 if name == "rouge2" else 1)
    if name in ("exact_match", "token_f1", "contains"):
        return not squad_normal(text)
    return not text.strip()


@every_metric
@settings(deadline=None)
@given(reference=texts, others=st.lists(texts, max_size=2))
def test_a_reference_itself_is_worth_1(name: str, reference: str, others: list[str]) -> None:
    if not nothing_left(name, reference):
        assert value(name, [*others, reference], reference) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", ["exact_match", "token_f1", "contains", "rouge1", "rougeL"])
@settings(deadline=None)
@given(reference=texts, prediction=texts)
def test_composed_and_decomposed_accents_are_the_same(
    name: str, reference: str, prediction: str
) -> None:
    def as_form(form: str) -> float:
        normal = unicodedata.normalize(form, prediction)  # type: ignore[arg-type]
        return value(name, [unicodedata.normalize("NFC", reference)], normal)

    assert as_form("NFD") == as_form("NFC")


@every_metric
@settings(deadline=None, max_examples=30)
@given(references=st.lists(texts, min_size=1, max_size=6))
def test_no_reference_nor_all_of_them_beat_the_trivial_score(
    name: str, references: list[str]
) -> None:
    examples = [Example("text", reference) for reference in references]
    best = trivial_score(METRICS[name], examples)
    frequent = [reference for reference, _ in Counter(references).most_common()]
    constants = [*frequent, " ".join(frequent)]
    scores = [METRICS[name].score(examples, [r] * len(examples)) for r in constants]
    assert best == pytest.approx(max(scores), abs=1e-12)
