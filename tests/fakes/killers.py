"""Observers that end a run where it must survive it."""

from stableprompt.tuning.records import Silence, StepRecord


class Killed(Exception):
    """Stands for a kill signal."""


class KillAfter(Silence):
    """Dies when a step has been written down, or when a phase begins."""

    def __init__(self, step: int | None = None, phase: str | None = None) -> None:
        self._step, self._phase = step, phase

    def on_step(self, record: StepRecord) -> None:
        if record.step == self._step:
            raise Killed

    def on_phase(self, phase: str) -> None:
        if self._phase and phase.startswith(self._phase):
            raise Killed
