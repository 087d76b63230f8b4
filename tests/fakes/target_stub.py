"""What every scripted target of the tests has in common."""

from collections.abc import Mapping
from typing import ClassVar


class TargetStub:
    """Gives probabilities, in this process, all at once; what it says is up to the test."""

    name = "stub"
    gives_probabilities = True
    at_once: int | None = None
    how = "scripted"
    requests: ClassVar[Mapping[str, int]] = {}

    def close(self) -> None:
        pass
