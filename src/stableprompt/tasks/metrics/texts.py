"""Metrics of generated text that compare strings: equal, contained, words in common.

``exact_match``, ``token_f1`` and ``contains`` compare after the normalisation of SQuAD v1.1
(Rajpurkar et al. 2016, arXiv 1606.05250): lower case, no ASCII punctuation, no articles, white
space folded; both sides in Unicode's NFC first, so that composed and decomposed accents match.

SQuAD's normalisation leaves nothing of a reference such as "the" or "!", and would count every
other such text as equal to it. Here a reference of which nothing would be left keeps its articles,
and if it is all punctuation that too; the prediction is then read the same way.

An empty reference is matched by an empty prediction and by nothing else, in every metric here.
"""

import re
import string
import unicodedata
from collections.abc import Callable
from typing import Final

from stableprompt.tasks.example import TaskKind
from stableprompt.tasks.metrics.metric import Metric
from stableprompt.tasks.metrics.references import best_of_answers, tokens_f1

_ARTICLES: Final = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


def squad_normal(text: str) -> str:
    """The text as SQuAD v1.1 compares it, in NFC."""
    return _folded(_ARTICLES.sub(" ", _without_punctuation(text)))


def _without_punctuation(text: str) -> str:
    return _folded(_lower(text).translate(_NO_PUNCTUATION))


def _lower(text: str) -> str:
    return _folded(unicodedata.normalize("NFC", text).lower())


def _folded(text: str) -> str:
    return " ".join(text.split())


_READINGS: Final[tuple[Callable[[str], str], ...]] = (squad_normal, _without_punctuation, _lower)


def _read_alike(reference: str, prediction: str) -> tuple[str, str]:
    """Both in the first reading that leaves something of the reference, else in the last."""
    for read in _READINGS:
        normal = read(reference)
        if normal:
            return normal, read(prediction)
    return _lower(reference), _lower(prediction)


def exact_match(reference: str, prediction: str) -> float:
    """1 if both are equal after normalisation."""
    expected, found = _read_alike(reference, prediction)
    return float(expected == found)


def token_f1(reference: str, prediction: str) -> float:
    """F1 of the normalised words, as bags."""
    expected, found = _read_alike(reference, prediction)
    return tokens_f1(expected.split(), found.split())


def contains(reference: str, prediction: str) -> float:
    """1 if the normalised reference stands in the normalised prediction, as whole words.

    Words are what white space separates: for scripts without spaces use ``contains_strict``.
    """
    expected, found = _read_alike(reference, prediction)
    return float(f" {expected} " in f" {found} " if expected else not found)


def exact_match_strict(reference: str, prediction: str) -> float:
    """1 if both are equal but for white space at the ends."""
    return float(reference.strip() == prediction.strip())


def contains_strict(reference: str, prediction: str) -> float:
    """1 if the reference, ends stripped, is a substring: promptfoo's ``contains``."""
    reference = reference.strip()
    return float(reference in prediction if reference else not prediction.strip())


def contains_any_case(reference: str, prediction: str) -> float:
    """As ``contains_strict`` in any case: promptfoo's ``icontains``."""
    return contains_strict(reference.casefold(), prediction.casefold())


GENERATION: Final = frozenset({TaskKind.GENERATION})

TEXT_METRICS: Final = tuple(
    Metric(compare.__name__, best_of_answers(compare), GENERATION)
    for compare in (
        exact_match,
        token_f1,
        exact_match_strict,
        contains,
        contains_strict,
        contains_any_case,
    )
)
