"""Answers on disk, over all runs: what was paid for once is not paid for again.

A row is an answer by all that it depends on: server, model, exact messages, parameters and the
number of the sample. Errors are never kept. SQLite: several processes may read and write.
"""

import hashlib
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any, Final

from stableprompt.errors import ConfigError, TargetError
from stableprompt.models.embedded import cache_dir

ANSWERS: Final = "answers.sqlite"
_VERSION: Final = 1  # of what a row holds; others are not read
_PATIENCE: Final = 60.0  # seconds, while another process writes


class AnswerCache:
    """Answers by question, in one file.

    Args:
        path: Of the file; made where there is none. None keeps nothing.

    Raises:
        ConfigError: the file cannot be used.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._one_at_a_time = threading.Lock()
        self.hits = 0
        """Questions that were answered from here."""
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Used by the thread of the event loop, and by the one that waits for it.
            self._file = sqlite3.connect(
                path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
            )
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = NORMAL")
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS answers (question TEXT PRIMARY KEY, answer TEXT)"
            )
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"the answers kept in {path} cannot be used ({error}); delete the file, name "
                "another folder by STABLEPROMPT_CACHE, or use --set target.api.cache=false"
            ) from error

    @classmethod
    def of_user(cls, *, wanted: bool) -> "AnswerCache":
        """The one in the user's cache folder, or one that keeps nothing."""
        return cls(cache_dir() / ANSWERS if wanted else None)

    def close(self) -> None:
        """Close the file."""
        if self._path is not None:
            self._file.close()

    def find(self, question: Any) -> Any:
        """What was answered before, or None."""
        row = self._look(question)
        if row is None:
            return None
        self.hits += 1
        return json.loads(row[0])

    def has(self, question: Any) -> bool:
        """Whether it was answered before; that is no hit."""
        return self._look(question) is not None

    def _look(self, question: Any) -> Any:
        if self._path is None:
            return None
        return self._execute("SELECT answer FROM answers WHERE question = ?", (_key(question),))

    def keep(self, question: Any, answer: Any) -> None:
        """Keep an answer: a plain JSON value, not None."""
        if self._path is not None:
            text = json.dumps(answer, ensure_ascii=False, allow_nan=False)
            statement = "INSERT OR REPLACE INTO answers VALUES (?, ?)"
            self._execute(statement, (_key(question), text))

    def _execute(self, statement: str, values: tuple[str, ...]) -> Any:
        """The first row of what is found.

        Raises:
            TargetError: the disk refuses; the run can go on when it does not.
        """
        try:
            with self._one_at_a_time:
                return self._file.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            raise TargetError(
                f"the answers kept in {self._path} cannot be used any more ({error}); see to the "
                "disk, or name another folder by STABLEPROMPT_CACHE, and resume the run: what it "
                "finished before is kept"
            ) from error


def _key(question: Any) -> str:
    text = json.dumps([_VERSION, question], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
