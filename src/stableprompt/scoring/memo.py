"""What the target said already: a pair of prompt and example that comes again costs nothing.

The seed prompt is scored every step, a trained policy repeats itself, and a small training split
is soon drawn a second time. What is remembered is written down with the step (``pairs.jsonl``),
so that a resumed run knows what the uninterrupted one knew.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from stableprompt.errors import RunError


class PairMemo:
    """Answers of the target by everything that it was given to read."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}
        self._new: list[dict[str, Any]] = []

    def ask(
        self,
        questions: Sequence[Any],
        answer: Callable[[list[int]], Iterable[tuple[int, Any]]],
    ) -> list[Any]:
        """What the target says to each question; those not asked before are answered now.

        Args:
            questions: Plain JSON values that hold all that the answer depends on.
            answer: Takes numbers of questions, gives numbers with answers: plain JSON values. It
                may leave some out.

        Returns:
            The answers; None where one was left out, which is asked again the next time.
        """
        keys = [_key(question) for question in questions]
        first = {key: number for number, key in reversed(list(enumerate(keys)))}
        missing = sorted(number for key, number in first.items() if key not in self._known)
        if missing:
            for number, found in answer(missing):
                self._known[keys[number]] = found
                self._new.append({"pair": keys[number], "answer": found})
        return [self._known.get(key) for key in keys]

    def knows(self, question: Any) -> bool:
        """Whether it was answered before."""
        return _key(question) in self._known

    def take_new(self) -> list[dict[str, Any]]:
        """What has come in since the last call."""
        new, self._new = self._new, []
        return new

    def restore(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Know what these records say, and nothing else.

        Raises:
            RunError: one is none that ``take_new`` gave.
        """
        try:
            self._known = {str(record["pair"]): record["answer"] for record in records}
        except KeyError as error:
            raise RunError(
                f"a line of the run's pairs.jsonl has no {error}: it is damaged; start a new run"
            ) from error
        self._new = []


def _key(question: Any) -> str:
    """Half a SHA-256: 128 bits, so that no two questions of any run meet by chance."""
    text = json.dumps(question, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
