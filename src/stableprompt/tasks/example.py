"""One labelled item."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """A text and the label it should be given."""

    text: str
    label: str
