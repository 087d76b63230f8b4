"""The metrics of Instruction Induction (Honovich et al. 2022, arXiv 2205.10782).

They read the first sentence of the first line: " and " becomes a space, "Sentence 1:" and
"Sentence 2:" go, then the ends' white space, every line but the first, everything from the first
"." on; the rest is in lower case, "-" a space, and without ASCII punctuation.

Three things differ from the authors' code. White space is folded at the end, where they compare
strings as they are, so that "a - b" equals "a b". And a reference of which nothing is left (".5",
say) is matched only by a prediction that is the same text, not by all others of which nothing is
left; nothing ever contains it. For the third see ``_contained``.
"""

import re
import string
from collections.abc import Callable
from typing import Final

from stableprompt.tasks.metrics.metric import Metric
from stableprompt.tasks.metrics.references import best_of_answers, tokens_f1
from stableprompt.tasks.metrics.texts import GENERATION

_HYPHENS_AND_PUNCTUATION: Final = str.maketrans("-", " ", string.punctuation.replace("-", ""))


def induction_normal(text: str) -> str:
    """The text as Instruction Induction compares it."""
    text = text.replace(" and ", " ").replace("Sentence 1:", " ").replace("Sentence 2:", " ")
    first_line = text.strip().split("\n")[0]
    first_sentence = first_line.split(".")[0]
    return " ".join(first_sentence.lower().translate(_HYPHENS_AND_PUNCTUATION).split())


def _normalised(compare: Callable[[str, str], float]) -> Callable[[str, str], float]:
    """The comparison after normalisation, or of the texts where that leaves no reference."""

    def compare_normalised(reference: str, prediction: str) -> float:
        expected = induction_normal(reference)
        if not expected:
            return float(reference.split() == prediction.split())
        return compare(expected, induction_normal(prediction))

    return compare_normalised


def _equal(reference: str, prediction: str) -> float:
    return float(reference == prediction)


def _common_words(reference: str, prediction: str) -> float:
    return tokens_f1(reference.split(), prediction.split())


def _same_words(reference: str, prediction: str) -> float:
    return float(set(reference.split()) == set(prediction.split()))


def _contained(reference: str, prediction: str) -> float:
    """1 if the normalised reference, not empty, stands in the prediction as whole words.

    The authors search for ``\\b reference \\b``. No word character next to it is the same for a
    reference that starts and ends with one, and finds others ("€") too.
    """
    expected = induction_normal(reference)
    pattern = rf"(?<!\w){re.escape(expected)}(?!\w)"
    return float(bool(expected) and re.search(pattern, induction_normal(prediction)) is not None)


INDUCTION_METRICS: Final = tuple(
    Metric(name, best_of_answers(compare), GENERATION)
    for name, compare in {
        "ii_exact_match": _normalised(_equal),
        "ii_f1": _normalised(_common_words),
        "ii_exact_set": _normalised(_same_words),
        "ii_contains": _contained,
    }.items()
)
