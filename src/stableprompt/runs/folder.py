"""The run folder: what a run leaves behind, written so that a kill leaves no half files.

config.json        every setting, resolved
task.json          the examples, so that a run can be resumed and evaluated from its folder
steps.jsonl        one line a step
prompts.jsonl      one line a prompt, with its reward parts
pairs.jsonl        what the target said of each pair of prompt and example, so that it is asked once
checkpoints/       the last few states of the run
test.json          what the prompts that were scored on test achieved, example by example
curve.json         how good the leader was after each step, where that was asked for
best_prompt.txt    the result, plain
result.json        the result, with figures
"""

import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from stableprompt.errors import RunError

CONFIG, TASK, RESULT = "config.json", "task.json", "result.json"
STEPS, PROMPTS, PAIRS = "steps.jsonl", "prompts.jsonl", "pairs.jsonl"
BEST_PROMPT = "best_prompt.txt"
TEST, CURVE = "test.json", "curve.json"
WRITES, WRITER, TIMING = "writes.jsonl", "writer", "timing.json"
CHECKPOINTS = "checkpoints"


def default_run_dir(name: str) -> Path:
    """``runs/NAME-TIME``, one folder whatever the name."""
    return Path("runs") / f"{name.replace('/', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"


class RunFolder:
    """One run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def require_free(path: Path) -> None:
        """Check that a new run could go there, without touching anything.

        Raises:
            RunError: the path is a file, or a folder that holds something.
        """
        if path.exists() and not path.is_dir():
            raise RunError(f"run folder {path} is a file; choose another --run-dir")
        if path.is_dir() and next(path.iterdir(), None) is not None:
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
            (path / CHECKPOINTS).mkdir(parents=True)
        except OSError as error:
            raise RunError(
                f"run folder {path} cannot be made ({error.strerror}); choose another --run-dir"
            ) from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """An existing run folder.

        Raises:
            RunError: there is none.
        """
        if not (path / CONFIG).is_file() or not (path / TASK).is_file():
            raise RunError(
                f"{path} is not a run folder (no {CONFIG} and {TASK} in it); give the folder that "
                "`stableprompt tune` printed"
            )
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

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file in one piece."""
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        self.write_text(name, text + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file in one piece: a reader sees the old file or the new one."""
        scratch = self.path / f".{name}.part"
        with scratch.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(self.path / name)

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the folder.

        Raises:
            RunError: it is missing or damaged.
        """
        try:
            content: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / name} cannot be read ({error})") from error
        return content

    def append(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Append records to a JSON Lines file."""
        with (self.path / name).open("a", encoding="utf-8", newline="\n") as file:
            for record in records:
                file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())  # before the checkpoint that counts these lines

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
                return [json.loads(line) for line in file]
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read ({error})") from error

    def lengths(self) -> dict[str, int]:
        """Bytes of the JSON Lines files, for a checkpoint."""
        files = {name: self.path / name for name in (STEPS, PROMPTS, PAIRS)}
        return {name: f.stat().st_size if f.exists() else 0 for name, f in files.items()}

    def cut_back(self, lengths: Mapping[str, int]) -> None:
        """Drop what was appended after a checkpoint; the steps are about to be run again.

        Raises:
            RunError: a file is shorter than the checkpoint says: lines of it are lost.
        """
        for name, length in lengths.items():
            with (self.path / name).open("ab") as file:
                found = file.tell()
                if found < length:
                    raise RunError(
                        f"{self.path / name} has {found} bytes, its checkpoint counted {length}; "
                        "lines are lost, so start a new run"
                    )
                file.truncate(length)
