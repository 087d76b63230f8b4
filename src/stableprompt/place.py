"""Where a run is written down, and the processes that share it."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from stableprompt.basis import Basis, Rests
from stableprompt.config import TuneConfig
from stableprompt.errors import ConfigError
from stableprompt.models.hardware import pick_device
from stableprompt.models.ranks import Ranks
from stableprompt.models.split import require_splittable
from stableprompt.runs.folder import RunFolder
from stableprompt.runs.lock import alone
from stableprompt.tasks.task import Task

SAME: Final = "data, settings, models and versions"
"""What the processes of a run must all have."""


@dataclass(frozen=True, slots=True)
class Place:
    """A run folder, as several processes see it."""

    folder: RunFolder
    """Touched by the first process alone."""
    ranks: Ranks
    basis: Basis | None
    """Of the first process."""

    @classmethod
    def of_new(
        cls,
        path: Path,
        ranks: Ranks,
        files: Mapping[str, Mapping[str, Any]],
        known: Rests,
        held: ExitStack,
    ) -> Self:
        """Make the folder of a run, and hold its lock.

        Args:
            path: Of the folder.
            ranks: Of which the first makes it.
            files: What is written into it at once, by name.
            known: What the run rests on.
            held: Gives the lock back.

        Raises:
            RunError: the folder holds something already.
        """

        def begin() -> Basis:
            folder = RunFolder.create(path)
            held.enter_context(alone(path, f"the run in {path}"))
            RunFolder.require_free(path)  # another process may have been faster
            for name, content in files.items():
                folder.write_json(name, content)
            return Basis.of_new(folder, known)

        return cls(RunFolder(path), ranks, ranks.first_keeps(begin))

    def settle(self, task: Task, config: TuneConfig, setting: dict[str, Any]) -> dict[str, Any]:
        """See ``Basis.settle``; done once, by the first process."""

        def settle() -> dict[str, Any]:
            assert self.basis is not None
            return self.basis.settle(task, config, setting)

        return self.ranks.first_does(settle)


def require_shareable(config: TuneConfig, ranks: Ranks, *, searching: bool = False) -> None:
    """Check that several processes could share a run.

    Args:
        config: Every setting.
        ranks: The processes.
        searching: Whether prompts are found in another way than the loop's.

    Raises:
        ConfigError: they would all take one device, or another kind than they were launched for;
            or what finds prompts cannot be shared, or the target is in actors of one process.
    """
    if ranks.count == 1:
        return
    if config.target.ray is not None:
        raise ConfigError(
            f"Ray actors hold the target of one process, it was launched with {ranks.count}; start "
            "it without `accelerate launch`, or leave --target-engine and target.ray out"
        )
    if ranks.split:
        require_splittable(config)
    device = pick_device(config.device)
    if device.index is not None or device.type != ranks.device.type:
        raise ConfigError(
            f"device {config.device!r} cannot be shared by {ranks.count} processes that were "
            f"launched for {ranks.device.type}; leave device out, and launch them with --cpu where "
            "the CPU is meant"
        )
    if searching:
        raise ConfigError(
            f"this way to find prompts works in one process, it was launched with {ranks.count}; "
            "start it without `accelerate launch`"
        )
