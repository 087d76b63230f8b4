import math

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from stableprompt.tasks.example import Example
from stableprompt.tasks.metrics.overlap import rouge_tokens
from stableprompt.tasks.metrics.registry import METRICS

sentences = st.lists(
    st.sampled_from(["the", "cat", "sat", "on", "mat.", "Mat", "don't", "_x_", "7"]), min_size=1
).map(" ".join)


def value(metric: str, references: list[str], prediction: str) -> float:
    return METRICS[metric].value(Example("text", references[0], tuple(references[1:])), prediction)


def test_bleu_by_hand() -> None:
    # 5 tokens against 6. Unigrams 5/5, bigrams 4/4, trigrams 3/3, 4-grams 2/2; brevity e^(1 - 6/5).
    bleu = value("sentence_bleu", ["the cat sat on the mat"], "the cat sat on the")
    assert bleu == pytest.approx(math.exp(-0.2), abs=1e-12)
    # Two tokens: orders 1 and 2 only; 1/2 and, smoothed, 1/(2·1): sqrt(1/4).
    assert value("sentence_bleu", ["red cow"], "red cat") == pytest.approx(0.5, abs=1e-12)


def test_rounding_does_not_push_bleu_past_1() -> None:
    # sacrebleu gives 100.00000000000004 for equal texts: exp of the mean of log(100).
    assert value("sentence_bleu", ["the cat sat on the mat"], "the cat sat on the mat") == 1


def test_bleu_takes_all_references_at_once() -> None:
    # Either has one of the two bigrams' words, together both unigrams: sqrt(2/2 · 1/(2·1)).
    assert value("sentence_bleu", ["red cow", "fat cat"], "red cat") == pytest.approx(
        math.sqrt(0.5), abs=1e-12
    )
    # The closest length is 4 against 3 tokens, though the shorter reference alone has no brevity
    # penalty: a further reference can cost something.
    assert value("sentence_bleu", ["a", "x y z w"], "a b c") < value(
        "sentence_bleu", ["a"], "a b c"
    )


def test_chrf_by_hand() -> None:
    # Characters: precision 1, recall 2/3; bigrams: 1 and 1/2; no higher order in both.
    # Means 1 and 7/12: 5·p·r/(4·p + r) = (35/12)/(55/12).
    assert value("chrf", ["abc"], "ab") == pytest.approx(35 / 55, abs=1e-12)


def test_rouge_by_hand() -> None:
    reference, prediction = "the cat sat on the mat", "the mat sat on a cat"
    # Unigrams in common: the, cat, sat, on, mat of 6 and 6.
    assert value("rouge1", [reference], prediction) == pytest.approx(5 / 6, abs=1e-12)
    # Bigrams in common: "sat on" and "the mat" of 5 and 5.
    assert value("rouge2", [reference], prediction) == pytest.approx(2 / 5, abs=1e-12)
    # Longest common subsequence: the sat on, of 6 and 6.
    assert value("rougeL", [reference], prediction) == pytest.approx(1 / 2, abs=1e-12)


def test_rouge_does_not_stem_and_has_no_bigram_in_one_token() -> None:
    assert value("rouge1", ["running"], "runs") == 0
    assert value("rouge2", ["cat"], "cat") == 0


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The cat's 2nd_mat", ["the", "cat", "s", "2nd", "mat"]),
        ("Žižka … ČESKÁ", ["žižka", "česká"]),
        ("Zu\u0308rich", ["zürich"]),
        ("हिन्दी में", ["हिन्दी", "में"]),  # vowel signs are marks, not letters
        ("東京は2つ", ["東", "京", "は", "2", "つ"]),
        ("서울 시", ["서울", "시"]),  # Korean has spaces
        ("!? …", []),
    ],
)
def test_rouge_tokens(text: str, tokens: list[str]) -> None:
    assert rouge_tokens(text) == tokens


@given(st.text(st.characters(max_codepoint=127)))
def test_on_ascii_the_tokens_are_those_of_rouge_score(text: str) -> None:
    scorer = rouge_scorer.RougeScorer(["rouge1"])
    assert rouge_tokens(text) == scorer._tokenizer.tokenize(text)


@settings(deadline=None)
@given(st.lists(sentences, min_size=1, max_size=3), sentences)
def test_the_values_are_those_of_the_packages(references: list[str], prediction: str) -> None:
    bleu = sacrebleu.sentence_bleu(prediction, references).score / 100
    chrf = sacrebleu.sentence_chrf(prediction, references).score / 100
    assert value("sentence_bleu", references, prediction) == pytest.approx(bleu, abs=1e-12)
    assert value("chrf", references, prediction) == pytest.approx(chrf, abs=1e-12)
    kinds = ["rouge1", "rouge2", "rougeL"]
    rouge = rouge_scorer.RougeScorer(kinds).score_multi(references, prediction)
    for kind in kinds:
        expected = rouge[kind].fmeasure
        assert value(kind, references, prediction) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", ["sentence_bleu", "chrf", "rouge1", "rougeL"])
def test_empty_texts(metric: str) -> None:
    assert value(metric, ["cat"], " ") == 0
    assert value(metric, [""], "cat") == 0
    assert value(metric, ["", "\n"], "") == 1
    assert value(metric, ["cat", ""], "") == 1
    assert value(metric, ["", "cat"], "cat") == pytest.approx(1, abs=1e-12)
