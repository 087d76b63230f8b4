"""The run folder as the loop uses it: the first process writes and reads, all know the same."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from stableprompt.models.ranks import Ranks
from stableprompt.models.training import checksum
from stableprompt.runs.checkpoints import (
    Checkpoint,
    keep_last,
    load_last_checkpoint,
    save_checkpoint,
)
from stableprompt.runs.folder import PAIRS, PROMPTS, STEPS, Marks, RunFolder

T = TypeVar("T")

Lines = Sequence[Mapping[str, Any]]


class Keeper:
    """Keeps what a run must know again after it was killed.

    Args:
        folder: Of the run; touched by the first process alone.
        ranks: The processes of the run.
        most: Checkpoints that are kept.
        tell: Told of damaged ones.
    """

    def __init__(
        self, folder: RunFolder, ranks: Ranks, *, most: int, tell: Callable[[str], None]
    ) -> None:
        self._folder, self._ranks = folder, ranks
        self._most, self._tell = most, tell

    @property
    def path(self) -> Path:
        """Of the folder."""
        return self._folder.path

    def once(self, work: Callable[[RunFolder], T]) -> T:
        """What the first process found or did in the folder.

        Raises:
            RunError: the folder cannot be written or read.
        """
        return self._ranks.first_does(lambda: work(self._folder))

    def save(
        self,
        next_step: int,
        tensors: dict[str, Tensor],
        state: Callable[[], dict[str, Any]],
        lines: Mapping[str, Lines],
    ) -> None:
        """Write a step down: its lines, and the checkpoint that counts them.

        Raises:
            RunError: the folder cannot be written; or the processes do not hold the same weights,
                and nothing was written.
        """
        self._ranks.require_same("weights after a step", lambda: checksum(tensors))

        def write(folder: RunFolder) -> None:
            for name, records in lines.items():
                folder.append(name, records)
            checkpoint = Checkpoint(next_step, tensors, {**state(), "lines": folder.marks()})
            save_checkpoint(folder.checkpoints, checkpoint, keep=self._most)

        self.once(write)

    def restore(self, setting: Mapping[str, Any]) -> tuple[Checkpoint, Lines] | None:
        """The last checkpoint that is whole, and what the target had said by then.

        What was appended to the lines of the run since then is cut off.

        Args:
            setting: Where it is another one than that of the checkpoint, the target's figures may
                differ: what it had said is forgotten.
        """
        return self.once(lambda folder: self._restore(folder, setting))

    def _restore(
        self, folder: RunFolder, setting: Mapping[str, Any]
    ) -> tuple[Checkpoint, Lines] | None:
        checkpoint = load_last_checkpoint(
            folder.checkpoints,
            fault=lambda found: folder.lost(_marks(found, setting)),
            tell=self._tell,
        )
        if checkpoint is None:
            folder.clear(STEPS, PROMPTS, PAIRS)
            return None
        keep_last(folder.checkpoints, self._most)  # a kill may have kept more
        folder.cut_back(_marks(checkpoint, setting))
        return checkpoint, folder.read_lines(PAIRS)


def _marks(checkpoint: Checkpoint, setting: Mapping[str, Any]) -> Marks:
    """What of the JSON Lines files is as old as a checkpoint, and still good."""
    lines: dict[str, Any] = dict(checkpoint.state["lines"])
    if checkpoint.state["setting"] != setting:
        # On another machine the target's figures may differ: old and new must not be mixed.
        lines[PAIRS] = {"bytes": 0, "sha256": ""}
    return lines
