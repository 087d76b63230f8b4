"""The error tree. Every error a user can meet is one of these.

* StablePromptError
  x ConfigError      a setting is unknown, out of range, or contradicts another
  x DataError        the examples cannot be used as they are
  x ModelError       a model cannot be found, loaded or used for this
    x TargetError    the target outside this process refuses, or answers too rarely
  x NumberError      what a run computes is no finite number, again and again
  x RunError         a run folder is in the way, missing, damaged, held or cannot be written
  x RunStopped       the observer asked for it; the run can be resumed

Each message says what was wrong, what was found, and what to do. The command
line prints the message on one line and exits with code 2; from Python, catch
``StablePromptError``.
"""


class StablePromptError(Exception):
    """Root of all errors that a user can act on."""


class ConfigError(StablePromptError, ValueError):
    """A setting is unknown, out of range, or contradicts another one."""


class DataError(StablePromptError, ValueError):
    """The examples cannot be used as they are."""


class ModelError(StablePromptError, RuntimeError):
    """A model cannot be found, loaded, or used in this role."""


class TargetError(ModelError):
    """The target outside this process refuses to answer, or answers too rarely to go on.

    What it answered so far is kept: the run can be resumed.
    """


class NumberError(StablePromptError, ArithmeticError):
    """What a run computes is no finite number, again and again.

    The weights are those from before it, and so is the last checkpoint: the run can be resumed.
    """


class RunError(StablePromptError, RuntimeError):
    """A run folder is in the way, missing, damaged, held by another process, or cannot be written.

    Also: what a run rests on is not what it was when the run began.
    """


class RunStopped(StablePromptError):
    """The observer asked the run to stop. All steps so far are written down: resume it."""
