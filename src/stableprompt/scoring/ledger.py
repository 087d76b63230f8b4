"""What a run has cost so far, by role: every target call and every token is counted once."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from stableprompt.models.targets.interface import Usage

Price = tuple[float, float]
"""Dollars for a million tokens read and written."""


class Purpose(StrEnum):
    """What a target call was made for."""

    TRAINING = "training"
    """Rewards."""
    VALIDATION = "validation"
    """Anchor decisions and the choice of the final prompt."""
    TEST = "test"
    """The final figures, once."""
    CURVE = "curve"
    """A learning curve, drawn when the result stands."""


@dataclass(slots=True)
class Ledger:
    """Running totals; one target call is one prompt with one example that was really sent."""

    target_calls: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Purpose, 0))
    """By purpose."""
    target_tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Purpose, 0))
    """Tokens that the target read and wrote, shared prefixes counted once, by purpose."""
    target_written: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Purpose, 0))
    """How many of them it wrote; 0 for answers in this process of which only labels are read."""
    failed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Purpose, 0))
    """Calls that failed for good, by purpose: they are in no score."""
    unmatched: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Purpose, 0))
    """Answers that name no label or choice, by purpose: they count as wrong."""
    judge_calls: int = 0
    """Answers rated by an LLM judge, whatever for."""
    judge_tokens: int = 0
    """Read and written."""
    judge_written: int = 0
    agent_tokens_read: int = 0
    """Meta-prompt tokens that the agent ran to write prompts."""
    agent_tokens_written: int = 0
    """Tokens of the prompts it wrote, rejected ones included."""

    def add_target(
        self, purpose: Purpose, usage: Usage, *, calls: int, failed: int = 0, unmatched: int = 0
    ) -> None:
        """Count calls of the target; those that failed are no calls."""
        self.target_calls[purpose] += calls
        self.target_tokens[purpose] += usage.read + usage.written
        self.target_written[purpose] += usage.written
        self.failed[purpose] += failed
        self.unmatched[purpose] += unmatched

    def add_judge(self, usage: Usage, *, calls: int) -> None:
        """Count calls of the judge."""
        self.judge_calls += calls
        self.judge_tokens += usage.read + usage.written
        self.judge_written += usage.written

    def add_agent(self, *, read: int, written: int) -> None:
        """Count tokens of the agent."""
        self.agent_tokens_read += read
        self.agent_tokens_written += written

    @property
    def total_calls(self) -> int:
        """Target calls of all purposes."""
        return sum(self.target_calls.values())

    @property
    def total_tokens(self) -> int:
        """Target tokens of all purposes."""
        return sum(self.target_tokens.values())

    def dollars(self, price: Price | None, judge_price: Price | None = None) -> float:
        """What the tokens of target and judge cost; those of unknown price nothing.

        Args:
            price: Of the target.
            judge_price: Of the judge.
        """
        written = sum(self.target_written.values())
        return _dollars(price, self.total_tokens, written) + _dollars(
            judge_price, self.judge_tokens, self.judge_written
        )

    def to_dict(self) -> dict[str, Any]:
        """For checkpoints and ``result.json``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, totals: Mapping[str, Any]) -> "Ledger":
        """Take back what ``to_dict`` gave."""
        found = cls(**totals)
        for purpose in Purpose:  # a checkpoint of an earlier version may not know all
            found.target_calls.setdefault(purpose, 0)
            found.target_tokens.setdefault(purpose, 0)
            found.target_written.setdefault(purpose, 0)
        return found


def _dollars(price: Price | None, tokens: int, written: int) -> float:
    read, wrote = price or (0.0, 0.0)
    return ((tokens - written) * read + written * wrote) / 1e6
