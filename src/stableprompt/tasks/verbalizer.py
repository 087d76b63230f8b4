"""Label -> label word: what the target is expected to answer for each label.

The step from a label word to token ids needs a tokenizer and lives in ``models``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from stableprompt.errors import ConfigError, DataError
from stableprompt.tasks.folding import fold
from stableprompt.tasks.wording import listed, quoted


@dataclass(frozen=True, slots=True)
class Verbalizer:
    """The labels of a task in a fixed order, each with its word.

    Attributes:
        words: Label -> label word; its order is the order of the labels.
        labels: The labels; the place of a label here is its class index.
        label_words: Their words, stripped, in the same order.
    """

    # The order of a mapping is not part of its equality but decides the class
    # index, so equality and hash rest on the two tuples.
    words: Mapping[str, str] = field(compare=False)
    labels: tuple[str, ...] = field(init=False)
    label_words: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        words = {label: word.strip() for label, word in self.words.items()}
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "labels", tuple(words))
        object.__setattr__(self, "label_words", tuple(words.values()))
        if len(words) < 2:
            raise ConfigError(
                f"a verbalizer needs at least two labels, found {len(words)}: add the other labels"
            )
        _require_distinct(words)

    @classmethod
    def identity(cls, labels: Iterable[str]) -> Self:
        """Every label is its own label word."""
        return cls({label: label for label in labels})

    def index(self, label: str) -> int:
        """The class index of the label.

        Raises:
            DataError: the label is not one of this task.
        """
        if label not in self.words:
            raise DataError(
                f"unknown label {quoted(label)}: the labels of this task are {listed(self.labels)}"
            )
        return self.labels.index(label)


def _require_distinct(words: Mapping[str, str]) -> None:
    label_of: dict[str, str] = {}
    for label, word in words.items():
        if not word:
            raise ConfigError(
                f"the label word of {quoted(label)} is empty: give it a word to answer with"
            )
        other = label_of.setdefault(fold(word), label)
        if other != label:
            raise ConfigError(
                f"the labels {quoted(other)} and {quoted(label)} share the label word "
                f"{quoted(word)} (case is ignored): give each label its own label word"
            )
