"""What a scorer has spent and may spend, and what it knows already."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from stableprompt.llm_config import LimitsConfig
from stableprompt.models.targets.interface import TargetLLM
from stableprompt.scoring.judge import Judge
from stableprompt.scoring.ledger import Ledger, Purpose
from stableprompt.scoring.limits import Limits
from stableprompt.scoring.memo import PairMemo


class Accounts:
    """The books of a scorer.

    Attributes:
        ledger: Where calls and tokens are counted.
        limits: What the run may cost; none unless they are put here.
        seconds: Spent waiting for target and judge, by purpose.
        memo: What the target said.
        ratings: What the judge said of it.
        judge: Rates generated answers, where the metric is a judge's.
        trouble: Why the last call that failed for good did.
    """

    def __init__(self, target: TargetLLM, ledger: Ledger, judge: Judge | None) -> None:
        self._target = target
        self.judge = judge
        self.ledger = ledger
        self.limits = Limits(LimitsConfig())
        self.seconds: dict[str, float] = dict.fromkeys(Purpose, 0.0)
        self.memo, self.ratings = PairMemo(), PairMemo()
        self.trouble = ""

    @property
    def target_name(self) -> str:
        """Of the target."""
        return self._target.name

    @contextmanager
    def nothing_known(self) -> Iterator[None]:
        """Ask the target anew in this block, and forget it: for what a use would cost."""
        memo, self.memo = self.memo, PairMemo()
        try:
            yield
        finally:
            self.memo = memo

    def take_new(self) -> list[dict[str, Any]]:
        """What was learned of answers and ratings since the last call; for ``restore``."""
        return self.memo.take_new() + self.ratings.take_new()

    def restore(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Know what these records say, and nothing else."""
        self.memo.restore(records)
        self.ratings.restore(records)

    def close(self) -> None:
        """Hang up a judge of its own; the target is its owner's to close."""
        if self.judge is not None and self.judge.target is not self._target:
            self.judge.target.close()

    def cost(self) -> dict[str, Any]:
        """The ledger, and the dollars; None where nobody knows a price."""
        dollars = self.limits.dollars(self.ledger)
        return {**self.ledger.to_dict(), "dollars": dollars and round(dollars, 6)}

    def weather(self) -> dict[str, Any]:
        """What differs between equal runs: seconds, requests and retries, answers from disk."""
        found: dict[str, Any] = {
            "seconds": round(self.limits.seconds, 3),
            "target_seconds": {name: round(spent, 3) for name, spent in self.seconds.items()},
            "requests": dict(self._target.requests),
        }
        if self.judge is not None and self.judge.target is not self._target:
            found["judge_requests"] = dict(self.judge.target.requests)
        return found

    def wait_since(self, started: float, purpose: Purpose | None) -> None:
        """Count the time since a moment of ``perf_counter``; without a purpose nobody was asked."""
        if purpose is not None:
            self.seconds[purpose] += time.perf_counter() - started
            self.limits.waited = sum(self.seconds.values())
