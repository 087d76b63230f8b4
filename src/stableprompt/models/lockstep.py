"""Processes that hold one model together call it together, however unequal their work is.

Where the weights of a model are split over processes, each of its layers is put together from all
of them whenever it is called: a call that one process makes alone would wait for ever. So before
each call the processes tell each other what they want, and who has nothing to do makes an idle
call, of one token, that changes nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from functools import wraps
from typing import Any, Final

import torch
from torch import Tensor

from stableprompt.errors import RunError, StablePromptError
from stableprompt.models.memory import ran_out_of_memory

_SIGNS: Final = ("Connection ", "connection ", "gloo", "NCCL")  # of calls that others left
_FULL: Final = (
    "memory ran out where weights are split over processes, and no part of a batch can be tried "
    "again; set a smaller ppo.minibatch_size or target.max_batch_tokens, or launch more processes"
)


class Want(IntEnum):
    """What a process is about to do; what the highest one asks for, all do first.

    Something may be measured between a call with gradient and its backward pass, so READ comes
    first; a backward pass waits for all calls.
    """

    NOTHING = 0
    BACKWARD = 1
    """The backward pass of all calls with gradient since the last one."""
    LEARN = 2
    """Call the model with gradient."""
    READ = 3
    """Call it without."""


class Lockstep:
    """One process among those that hold a model together; where each holds all of it, idle.

    Args:
        highest: What any of the processes wants most; all of them ask alike.

    Attributes:
        broken: Whether this process left a call that others are in: they cannot go on.
    """

    def __init__(self, highest: Callable[[Want], Want]) -> None:
        self._highest = highest
        self._body: Any = None
        self._idling = False
        self._unpaid: list[Tensor] = []  # of calls whose backward pass is still to come
        self.broken = False

    def keep(self, body: Any) -> None:
        """From now on have all calls of a model's layers made together."""
        self._body = body
        # Before the hooks that gather weights.
        body.register_forward_pre_hook(self._before_call, prepend=True)
        call = body.forward

        @wraps(call)  # whoever asks for its arguments gets them
        def together(*args: Any, **kwargs: Any) -> Any:
            with self._with_others():
                out = call(*args, **kwargs)
            if torch.is_grad_enabled():
                self._unpaid.append(out.last_hidden_state)
            return out

        body.forward = together

    def finish(self) -> None:
        """Go along with the calls that others still make."""
        self._agree(Want.NOTHING)

    def backward(self, loss: Tensor, run: Callable[[Tensor], None]) -> None:
        """Run the backward pass of this process's calls, together with those of the others.

        Args:
            loss: Of the calls.
            run: Is given the loss.

        Raises:
            RunError: memory ran out, which leaves the others waiting; or another process has ended.
        """
        if self._body is None:
            run(loss)
            return
        self._agree(Want.BACKWARD)
        with self._with_others():
            run(self._with_all_calls(loss))

    def require_alone(self, error: BaseException) -> None:
        """Check that a batch which was too large can be tried again in parts.

        Raises:
            RunError: the others wait for the rest of what this process began with them.
        """
        if self._body is not None:
            self.broken = True
            raise RunError(_FULL) from error

    def _before_call(self, *_: Any) -> None:
        if not self._idling:
            self._agree(Want.LEARN if torch.is_grad_enabled() else Want.READ)

    def _agree(self, mine: Want) -> None:
        """Do what others want first, until they want what this one wants."""
        if self._body is None:
            return
        while (wanted := self._asked(mine)) is not mine:
            if wanted is Want.BACKWARD:
                with self._with_others():
                    nothing = torch.zeros((), device=self._unpaid[0].device)
                    self._with_all_calls(nothing).backward()  # type: ignore[no-untyped-call]
            else:
                self._call_idly(wanted)

    def _asked(self, mine: Want) -> Want:
        try:
            return self._highest(mine)
        except StablePromptError:
            self.broken = True
            raise

    def _call_idly(self, wanted: Want) -> None:
        device = self._body.get_input_embeddings().weight.device
        token = torch.zeros((1, 1), dtype=torch.long, device=device)
        self._idling = True
        try:
            with torch.set_grad_enabled(wanted is Want.LEARN):
                self._body(input_ids=token, use_cache=False)
        finally:
            self._idling = False

    def _with_all_calls(self, loss: Tensor) -> Tensor:
        """The same loss, whose backward pass goes through every call, idle ones too: weights are
        gathered for the backward pass of a call only where its output has a gradient."""
        calls = [states for states in self._unpaid if states.requires_grad]
        self._unpaid.clear()
        along: Tensor = _Along.apply(loss, *calls)  # type: ignore[no-untyped-call]
        return along

    @contextmanager
    def _with_others(self) -> Iterator[None]:
        """Half a batch is no help here: the others are in the middle of this very call."""
        try:
            yield
        except StablePromptError:
            raise
        except (RuntimeError, MemoryError) as error:
            if ran_out_of_memory(error):
                self.require_alone(error)
            if any(sign in str(error) for sign in _SIGNS):
                self.broken = True
                raise gone(error) from error
            raise


class _Along(torch.autograd.Function):
    """A loss as it is; further tensors get a gradient of exactly 0."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *along: Tensor) -> Tensor:
        ctx.save_for_backward(*along)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], *(torch.zeros_like(tensor) for tensor in ctx.saved_tensors)


def gone(error: BaseException) -> RunError:
    """That others do not answer, in a user's words."""
    reason = str(error).strip().splitlines()[0]
    return RunError(
        f"another process of the run has ended or hangs ({reason}); see what it said, then resume "
        "the run, with as many processes as you like"
    )
