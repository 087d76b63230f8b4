from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from stableprompt.config import make_config
from stableprompt.errors import ConfigError, RunError
from stableprompt.models.lockstep import Lockstep, Want
from stableprompt.models.memory import halve_when_full
from stableprompt.models.ranks import Ranks
from stableprompt.models.split import _layers, require_splittable
from tests.fakes.tiny_model import make_model


class Body(nn.Module):
    """Two numbers a token; says how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 2)
        self.calls: list[tuple[int, bool]] = []
        self.fails: Callable[[], None] = lambda: None

    def get_input_embeddings(self) -> nn.Embedding:
        return self.table

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        self.calls.append((input_ids.numel(), torch.is_grad_enabled()))
        self.fails()
        return SimpleNamespace(last_hidden_state=self.table(input_ids))


def held(others: Iterator[Want]) -> tuple[Lockstep, Body]:
    """In lockstep with processes that want these things, one after the other."""
    body = Body()
    step = Lockstep(lambda mine: max(mine, next(others)))
    step.keep(body)
    return step, body


TOKENS = torch.zeros((1, 3), dtype=torch.long)


def test_who_has_nothing_to_do_goes_along_with_every_call() -> None:
    wants = [Want.READ, Want.LEARN, Want.LEARN, Want.BACKWARD, Want.NOTHING]
    step, body = held(iter(wants))
    step.finish()
    assert body.calls == [(1, False), (1, True), (1, True)]
    assert body.table.weight.grad is not None  # the pass was made, and adds nothing
    assert not body.table.weight.grad.any()


def test_what_others_want_more_comes_first() -> None:
    step, body = held(iter([Want.NOTHING, Want.LEARN, Want.NOTHING]))
    loss = body(TOKENS).last_hidden_state.sum()
    step.backward(loss, Tensor.backward)
    assert body.calls == [(3, True), (1, True)]  # its own, then one more beside that of another
    wanted = torch.tensor([[3.0, 3.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    assert body.table.weight.grad is not None
    assert torch.equal(body.table.weight.grad, wanted)


def test_what_is_measured_between_a_call_and_its_backward_pass_goes_before_it() -> None:
    step, body = held(iter([Want.NOTHING, Want.READ, Want.NOTHING]))
    loss = body(TOKENS).last_hidden_state.sum()
    step.backward(loss, Tensor.backward)
    assert body.calls == [(3, True), (1, False)]
    assert body.table.weight.grad is not None
    assert body.table.weight.grad[0].tolist() == [3.0, 3.0]


def test_a_call_whose_output_is_not_used_has_a_backward_pass_all_the_same() -> None:
    step, body = held(iter([Want.NOTHING] * 3))
    body(TOKENS)  # its keys and values may be used
    passed = []
    body.table.weight.register_hook(lambda gradient: passed.append(gradient.abs().sum().item()))
    weight = torch.ones(1, requires_grad=True)
    step.backward((2 * weight).sum(), Tensor.backward)
    assert weight.grad is not None and weight.grad.tolist() == [2.0]
    assert passed == [0.0]


def test_a_batch_that_was_too_large_before_its_backward_pass_is_not_tried_again() -> None:
    step, _ = held(iter([]))
    with pytest.raises(RunError, match="memory ran out where weights are split"):
        step.require_alone(torch.OutOfMemoryError("CUDA out of memory."))
    assert step.broken
    Lockstep(lambda mine: mine).require_alone(MemoryError())  # of a whole model it is


def test_of_a_whole_model_nobody_is_asked() -> None:
    step = Lockstep(lambda mine: pytest.fail("asked"))
    step.finish()
    weight = torch.ones(1, requires_grad=True)
    step.backward(2 * weight, Tensor.backward)
    assert weight.grad is not None and weight.grad.tolist() == [2.0]


def test_a_batch_that_others_are_in_is_not_halved() -> None:
    step, body = held(iter([Want.NOTHING] * 9))

    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    body.fails = full
    with pytest.raises(RunError, match="memory ran out where weights are split over processes"):
        list(halve_when_full([1, 2, 3, 4], lambda part: body(TOKENS)))
    assert len(body.calls) == 1
    assert step.broken
    # Not told to the others as a result: they are not there to hear it.
    with pytest.raises(RunError, match="memory ran out"):
        Ranks(0, 2, split=True, lockstep=step).each(lambda: body(TOKENS))


def test_others_that_are_gone_are_told_as_such() -> None:
    step, body = held(iter([Want.NOTHING] * 9))

    def gone() -> None:
        raise RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer")

    body.fails = gone
    with pytest.raises(RunError, match="another process of the run has ended or hangs"):
        body(TOKENS)
    assert step.broken

    def wrong() -> None:
        raise RuntimeError("shapes do not fit")

    step.broken = False
    body.fails = wrong
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        body(TOKENS)
    assert not step.broken  # whatever is wrong with it is wrong everywhere


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"quantize": "4bit"}, "quantize is set"), ({"compile": True}, "compile is set")],
)
def test_weights_that_are_not_held_plainly_are_not_split(
    settings: dict[str, object], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(ConfigError, match=told):
        require_splittable(make_config(settings))


def test_what_accelerate_is_told_and_nobody_does_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("FSDP_ACTIVATION_CHECKPOINTING", "true")
    with pytest.raises(ConfigError, match="fsdp_activation_checkpointing is set"):
        require_splittable(make_config())


def test_layers_are_those_that_must_not_be_torn_apart() -> None:
    body = make_model(10, layers=3).base_model
    assert _layers(body, None) == list(body.layers)[::-1]
    inside = _layers(body, ["LlamaMLP", "LlamaDecoderLayer"])
    assert inside.index(body.layers[1].mlp) < inside.index(body.layers[1])
    with pytest.raises(ConfigError, match="LlamaModel has no layers of the name GPT2Block"):
        _layers(body, ["GPT2Block"])
