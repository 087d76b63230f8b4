"""BLEU, chrF and ROUGE of one generated text, from the packages that define their details.

sacrebleu and rouge_score (the extra ``metrics``) are imported at the first use. A prediction that
is empty, or only white space, scores 0 unless one of the references is, too; such references are
left out otherwise.
"""

import importlib
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Any, Final

from stableprompt.errors import ConfigError
from stableprompt.tasks.example import Example
from stableprompt.tasks.metrics.metric import Metric, ValueFunction
from stableprompt.tasks.metrics.texts import GENERATION

# What a metric imports, and the name under which pip knows it.
_MODULES: Final = {
    "sentence_bleu": ("sacrebleu.metrics", "sacrebleu"),
    "chrf": ("sacrebleu.metrics", "sacrebleu"),
    "rouge1": ("rouge_score.rouge_scorer", "rouge-score"),
    "rouge2": ("rouge_score.rouge_scorer", "rouge-score"),
    "rougeL": ("rouge_score.rouge_scorer", "rouge-score"),
}


def import_needed(metric_name: str) -> None:
    """Import the package of the metric, if it needs one.

    Raises:
        ConfigError: it is not installed, or cannot be imported.
    """
    if metric_name in _MODULES:
        _imported(metric_name)


def _imported(metric_name: str) -> ModuleType:
    module, package = _MODULES[metric_name]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"metric {metric_name!r} needs {package}: pip install 'stableprompt[metrics]' ({error})"
        ) from error


def sentence_bleu(references: Sequence[str], prediction: str) -> float:
    """sacrebleu's sentence BLEU/100 against all references at once.

    Effective order, exponential smoothing, tokenizer 13a (which does not separate the words of
    scripts without spaces: use chrf for them). An n-gram may match in any reference, but the
    length is compared with the closest one, so that a further reference can lower the value.
    """
    return float(_bleu().sentence_score(prediction, references).score) / 100


def chrf(references: Sequence[str], prediction: str) -> float:
    """sacrebleu's sentence chrF2/100 (characters up to 6-grams, beta 2) of the best reference."""
    return float(_chrf().sentence_score(prediction, references).score) / 100


def rouge(kind: str, references: Sequence[str], prediction: str) -> float:
    """rouge_score's F-measure of the best reference, no stemmer, tokens of ``rouge_tokens``.

    ``rouge2`` of a text of one token is 0, also if both are equal: there is no bigram.
    """
    scorer = _rouge_scorer(kind)
    return max(float(scorer.score(text, prediction)[kind].fmeasure) for text in references)


def rouge_tokens(text: str) -> list[str]:
    """Lower-case runs of letters, digits and combining marks, in NFC.

    rouge_score's own tokenizer drops everything but a-z and 0-9; on ASCII text both agree.
    Ideographs and kana stand for themselves, one token each: these scripts have no spaces.
    """
    return "".join(map(_spaced, unicodedata.normalize("NFC", text.lower()))).split()


def _spaced(character: str) -> str:
    """The character with spaces where a token starts or ends because of it."""
    if character.isascii():
        return character if character.isalnum() else " "
    if any(first <= character <= last for first, last in _UNSPACED):
        return f" {character} "
    inside = character.isalnum() or unicodedata.category(character).startswith("M")
    return character if inside else " "


# Hiragana and katakana, CJK ideographs with extension A, compatibility, the further planes.
_UNSPACED: Final = (
    ("\u3041", "\u30ff"),
    ("\u3400", "\u9fff"),
    ("\uf900", "\ufaff"),
    ("\U00020000", "\U0003ffff"),
)


class _UnicodeTokenizer:
    """What rouge_score wants of a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return rouge_tokens(text)


@cache
def _bleu() -> Any:
    return _imported("sentence_bleu").BLEU(effective_order=True)


@cache
def _chrf() -> Any:
    return _imported("chrf").CHRF()


@cache
def _rouge_scorer(kind: str) -> Any:
    return _imported(kind).RougeScorer([kind], tokenizer=_UnicodeTokenizer())


def _of_references(compare: Callable[[Sequence[str], str], float]) -> ValueFunction:
    """The comparison with all references that are not empty, at most 1 (rounding)."""

    def value(example: Example, prediction: str) -> float:
        references = [answer for answer in example.answers if answer.strip()]
        if not prediction.strip():
            return float(len(references) < len(example.answers))
        return min(1.0, compare(references, prediction)) if references else 0.0

    return value


def _rouge_of(kind: str) -> Callable[[Sequence[str], str], float]:
    return lambda references, prediction: rouge(kind, references, prediction)


OVERLAP_METRICS: Final = (
    Metric("sentence_bleu", _of_references(sentence_bleu), GENERATION),
    Metric("chrf", _of_references(chrf), GENERATION),
    *(
        Metric(kind, _of_references(_rouge_of(kind)), GENERATION)
        for kind in ("rouge1", "rouge2", "rougeL")
    ),
)
