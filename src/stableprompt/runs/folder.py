"""The run folder: what a run leaves behind, written so that a kill leaves no half files.

config.json        every setting, resolved
task.json          the examples, so that a run can be resumed and evaluated from its folder
basis.json         what the run rests on, so that nothing of it changes unseen before it is resumed
steps.jsonl        one line a step
prompts.jsonl      one line a prompt, with its reward parts
pairs.jsonl        what the target said of each pair of prompt and example, so that it is asked once
checkpoints/       the last few states of the run
test.json          what the prompts that were scored on test achieved, example by example
curve.json         how good the leader was after each step, where that was asked for
best_prompt.txt    the result, plain
result.json        the result, with figures
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Self

from stableprompt.errors import RunError
from stableprompt.runs.lock import HOLDER, LOCK
from stableprompt.runs.names import folder_name, require_no_links
from stableprompt.runs.writing import sync, write_whole, writing

CONFIG, TASK, BASIS, RESULT = "config.json", "task.json", "basis.json", "result.json"
STEPS, PROMPTS, PAIRS = "steps.jsonl", "prompts.jsonl", "pairs.jsonl"
BEST_PROMPT = "best_prompt.txt"
TEST, CURVE = "test.json", "curve.json"
WRITES, WRITER, TIMING = "writes.jsonl", "writer", "timing.json"
CHECKPOINTS = "checkpoints"
_BEFORE_ALL: Final = {LOCK, HOLDER, CHECKPOINTS, TASK, f".{TASK}.part", f".{CONFIG}.part"}

_BLOCK: Final = 1 << 20

Marks = Mapping[str, Mapping[str, Any]]
"""Of JSON Lines files by name: how many ``bytes`` were written, and their ``sha256``."""


def default_run_dir(name: str) -> Path:
    """``runs/NAME-TIME``, one folder whatever the name; numbered where there is one already."""
    own = folder_name(name, apart="-")
    first = Path("runs") / f"{own}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = first, 1
    while path.exists():
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    return path


class RunFolder:
    """One run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Of what was appended, not of what is read back: a disk that loses something is found out.
        self._sums = {name: hashlib.sha256() for name in (STEPS, PROMPTS, PAIRS)}
        self._bytes = dict.fromkeys(self._sums, 0)

    @staticmethod
    def require_free(path: Path) -> None:
        """Check that a new run could go there, without touching anything.

        Raises:
            RunError: the path is a file, or a folder that holds something.
        """
        # os.path, not pathlib: it answers False for a name that cannot exist.
        if os.path.exists(path) and not os.path.isdir(path):
            raise RunError(f"run folder {path} is a file; choose another --run-dir")
        if os.path.isdir(path) and not _nothing_begun(path):
            raise RunError(
                f"run folder {path} is not empty and is never overwritten; continue it with "
                f"--resume {path}, or choose another --run-dir"
            )

    @classmethod
    def create(cls, path: Path) -> Self:
        """A new run folder; one that holds anything is never touched.

        Raises:
            RunError: the path holds something already, or cannot be written.
        """
        cls.require_free(path)
        try:
            (path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:  # ValueError: a NUL, or half a character
            reason = getattr(error, "strerror", None) or error
            raise RunError(
                f"run folder {path} cannot be made ({reason}); choose another --run-dir"
            ) from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """An existing run folder.

        Raises:
            RunError: there is none.
        """
        if not os.path.isfile(path / CONFIG) or not os.path.isfile(path / TASK):
            raise RunError(
                f"{path} is not a run folder (no {CONFIG} and {TASK} in it); give the folder that "
                "`stableprompt tune` printed"
            )
        require_no_links(path)
        return cls(path)

    @classmethod
    def open_unfinished(cls, path: Path) -> Self:
        """A run folder that can be continued.

        Raises:
            RunError: there is none, or the run is finished.
        """
        folder = cls.open(path)
        if (path / RESULT).is_file():
            raise RunError(f"the run in {path} is finished; its result is in {path / RESULT}")
        return folder

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.path / CHECKPOINTS

    def make_checkpoints(self) -> None:
        """Have a folder for them: an empty one is lost where a run is copied by git or as objects.

        Raises:
            RunError: it cannot be made.
        """
        with writing(self.checkpoints):
            self.checkpoints.mkdir(exist_ok=True)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file in one piece."""
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        self.write_text(name, text + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file in one piece: a reader sees the old file or the new one.

        Raises:
            RunError: it could not be written.
        """
        write_whole(self.path / name, text)

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the folder.

        Raises:
            RunError: it is missing or damaged.
        """
        try:
            content = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunError(
                f"{self.path / name} cannot be read (it is missing): the run is not finished, or "
                "it is damaged"
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{self.path / name} cannot be read ({error}); it is damaged") from error
        return self._required(name, content)

    def _required(self, name: str, content: Any) -> dict[str, Any]:
        if not isinstance(content, dict):
            raise RunError(
                f"{self.path / name} cannot be read (found {type(content).__name__}, not a mapping)"
                "; it is damaged"
            )
        return content

    def append(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Append records to a JSON Lines file.

        Raises:
            RunError: it could not be written; half a line may be there, for ``cut_back``.
        """
        lines = [json.dumps(record, ensure_ascii=False, allow_nan=False) for record in records]
        content = "".join(f"{line}\n" for line in lines).encode("utf-8")
        path = self.path / name
        with writing(path):
            new = not path.exists()
            with path.open("ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # before the checkpoint that counts these lines
            if new:
                sync(self.path)
        if name in self._sums:
            self._sums[name].update(content)
            self._bytes[name] += len(content)

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """Read a JSON Lines file of the folder; none where it is missing.

        Raises:
            RunError: it is damaged.
        """
        path = self.path / name
        if not path.exists():
            return []
        try:
            with path.open(encoding="utf-8") as file:
                return [self._required(name, json.loads(line)) for line in file]
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{path} cannot be read ({error}); it is damaged") from error

    def marks(self) -> dict[str, dict[str, Any]]:
        """How far the JSON Lines files of the steps go, for a checkpoint."""
        sums = self._sums.items()
        return {n: {"bytes": self._bytes[n], "sha256": s.hexdigest()} for n, s in sums}

    def lost(self, marks: Marks) -> str | None:
        """Which of the lines that a checkpoint counts are not there any more; None: all are.

        Raises:
            RunError: a file cannot be read.
        """
        for name, mark in marks.items():
            path = self.path / name
            found = path.stat().st_size if path.exists() else 0
            if found < mark["bytes"]:
                return f"{name} has {found} bytes, {mark['bytes']} were written"
            try:
                if mark["bytes"] and self._sum(name, mark["bytes"]).hexdigest() != mark["sha256"]:
                    return f"{name} is not what was written"
            except OSError as error:
                raise RunError(f"{path} cannot be read ({error.strerror})") from error
        return None

    def cut_back(self, marks: Marks) -> None:
        """Drop what was appended after a checkpoint; the steps are about to be run again.

        Raises:
            RunError: lines that the checkpoint counts are lost, or a file cannot be written.
        """
        if lost := self.lost(marks):
            raise RunError(f"lines of the run in {self.path} are lost ({lost}); start a new run")
        for name, mark in marks.items():
            with writing(self.path / name), (self.path / name).open("ab") as file:
                file.truncate(mark["bytes"])
            if name in self._sums:
                self._sums[name] = self._sum(name, mark["bytes"])
                self._bytes[name] = mark["bytes"]

    def clear(self, *names: str) -> None:
        """Have no lines in JSON Lines files."""
        self.cut_back({name: {"bytes": 0, "sha256": ""} for name in names})

    def _sum(self, name: str, length: int) -> "hashlib._Hash":
        found = hashlib.sha256()
        with (self.path / name).open("rb") as file:
            while length > 0 and (block := file.read(min(length, _BLOCK))):
                found.update(block)
                length -= len(block)
        return found


def _nothing_begun(path: Path) -> bool:
    """Whether a folder is empty, or a run in it was killed before its settings were written."""
    found = {entry.name for entry in path.iterdir()}
    if not found:
        return True
    checkpoints = path / CHECKPOINTS
    held = checkpoints.is_dir() and next(checkpoints.iterdir(), None) is not None
    return found <= _BEFORE_ALL and (LOCK in found or found == {CHECKPOINTS}) and not held
