"""How a call can fail, and what stands in the place of an answer that never came."""

from dataclasses import dataclass


class MayPass(Exception):
    """A call failed for a reason that may pass.

    Args:
        why: In a few words, without keys.
        after: Seconds that the server asks to wait.
    """

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


class Down(MayPass):
    """Nobody is there: nothing was sent. That has nothing to do with what was to be sent."""


class Refused(Exception):
    """This call will never be answered, others may be."""


@dataclass(frozen=True, slots=True)
class Failed:
    """In the place of an answer that never came."""

    why: str
