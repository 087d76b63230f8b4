import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from stableprompt.models import head as head_module
from stableprompt.models.head import Head, next_token
from tests.fakes.architectures import loaded_architecture, make_architecture

PLAIN = ["llama", "gpt2", "gemma3", "mamba"]
OWN = ["gemma2", "cohere", "granite"]  # cap, scale and divide their logits
IDS = torch.tensor([[1, 40, 41, 7, 0, 260], [9, 8, 77, 3, 3, 120]])


@torch.no_grad()
def states_of(model: Any) -> Tensor:
    """Last hidden states, (K, H)."""
    return model.base_model(input_ids=IDS, use_cache=False).last_hidden_state.flatten(0, 1)


@torch.no_grad()
def logits_of(model: Any) -> Tensor:
    return model(input_ids=IDS, use_cache=False).logits.flatten(0, 1)


def limit(monkeypatch: pytest.MonkeyPatch, model: Any, rows: int) -> None:
    """So many states' logits at a time."""
    size = model.get_output_embeddings().weight.shape[0]
    monkeypatch.setattr(head_module, "MAX_LOGITS", rows * size)


def gradients(
    head: Head, states: Tensor, tokens: Tensor, others: Sequence[Tensor] = ()
) -> list[Tensor]:
    logprobs, _ = head.told(states, tokens, temperature=1.3)
    weights = torch.linspace(-1, 2, len(tokens))
    return list(torch.autograd.grad((weights * logprobs).sum(), [states, *others]))


@pytest.mark.parametrize("name", [*PLAIN, *OWN])
def test_logits_are_those_of_the_whole_model(name: str) -> None:
    model = loaded_architecture(name).model
    got = Head(model).logits(states_of(model))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, logits_of(model), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", OWN)
def test_the_output_layer_alone_would_be_wrong_there(name: str) -> None:
    model = loaded_architecture(name).model
    raw = model.get_output_embeddings()(states_of(model))
    assert (raw - logits_of(model)).abs().max() > 0.1


@pytest.mark.parametrize(("name", "passes"), [("llama", 0), ("granite", 3)])
def test_only_where_it_must_be_is_the_whole_model_run(name: str, passes: int) -> None:
    model = make_architecture(name)
    head, states = Head(model), states_of(model)
    head.logits(states)  # measures
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        head.logits(states)
    assert len(calls) == passes


def test_the_model_is_as_before_after_its_own_code_was_used() -> None:
    model = make_architecture("gemma2")
    before = logits_of(model)
    head, states = Head(model), states_of(model)
    head.logits(states)
    head.logits(states)
    assert torch.equal(logits_of(model), before)

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    hook = model.base_model.register_forward_hook(broken)
    with pytest.raises(RuntimeError, match="broken"):
        head.logits(states)
    hook.remove()
    assert torch.equal(logits_of(model), before)


def test_half_precision_gives_float32_logits() -> None:
    for name in ("llama", "granite"):
        model = make_architecture(name).to(torch.bfloat16)
        got = Head(model).logits(states_of(model))
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, logits_of(model).float(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_told_are_logprobs_and_entropies_at_the_temperature(name: str, temperature: float) -> None:
    model = loaded_architecture(name).model
    tokens = torch.arange(12) * 17
    logprobs, entropies = Head(model).told(states_of(model), tokens, temperature=temperature)
    expected = (logits_of(model).double() / temperature).log_softmax(dim=1)
    assert logprobs.dtype == entropies.dtype == torch.float32
    torch.testing.assert_close(
        logprobs.double(), expected[torch.arange(12), tokens], rtol=1e-5, atol=1e-5
    )
    entropy = -(expected.exp() * expected).sum(dim=1)
    torch.testing.assert_close(entropies.double(), entropy, rtol=1e-5, atol=1e-5)


def test_the_temperature_is_1_where_none_is_given() -> None:
    model = loaded_architecture("llama").model
    states, tokens = states_of(model), torch.arange(12)
    head = Head(model)
    for one, other in zip(
        head.told(states, tokens), head.told(states, tokens, temperature=1.0), strict=True
    ):
        assert torch.equal(one, other)


def test_a_certain_token_has_logprob_0_and_no_entropy() -> None:
    model = make_architecture("llama")
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[7] = 1000.0
    states = torch.ones((2, 32))
    logprobs, entropies = Head(model).told(states, torch.tensor([7, 8]))
    assert logprobs.tolist() == [0.0, -32000.0]
    assert entropies.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("rows", [1, 5, 12])
@pytest.mark.parametrize("name", ["llama", "gemma2", "granite"])
def test_a_few_rows_at_a_time_tell_the_same_forward_and_backward(
    name: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_architecture(name)
    states = states_of(model).requires_grad_()
    weight = model.get_output_embeddings().weight
    tokens = torch.arange(12) * 17
    whole_head = Head(model)
    whole = whole_head.told(states, tokens, temperature=1.3)
    whole_gradients = gradients(whole_head, states, tokens, [weight])
    assert all(gradient.abs().max() > 0 for gradient in whole_gradients)
    limit(monkeypatch, model, rows)
    head = Head(model)
    assert head.rows_at_once == rows
    parts = head.told(states, tokens, temperature=1.3)
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    for one, other in zip(gradients(head, states, tokens, [weight]), whole_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        for one, other in zip(head.told(states, tokens, temperature=1.3), whole, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_gradients_are_those_of_the_plain_formula(name: str) -> None:
    model = make_architecture(name)
    tokens = torch.arange(12) * 17
    states = states_of(model).requires_grad_()
    [got] = gradients(Head(model), states, tokens)
    raw = model.get_output_embeddings()(states)
    logits = 2.0 * torch.tanh(raw / 2.0) if name == "gemma2" else raw
    logprobs = (logits / 1.3).log_softmax(dim=1)[torch.arange(12), tokens]
    [expected] = torch.autograd.grad((torch.linspace(-1, 2, 12) * logprobs).sum(), [states])
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [3, 100])
def test_the_entropy_has_no_gradient(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_architecture("llama")
    limit(monkeypatch, model, rows)
    states = states_of(model).requires_grad_()
    logprobs, entropies = Head(model).told(states, torch.arange(12))
    assert logprobs.requires_grad
    [alone] = torch.autograd.grad(logprobs.sum(), [states], retain_graph=True)
    if entropies.requires_grad:  # through a part that is made again, but with nothing behind it
        [both] = torch.autograd.grad((logprobs + 5 * entropies).sum(), [states])
        assert torch.equal(alone, both)


def test_the_logits_of_parts_are_not_kept_for_the_backward_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_architecture("llama")
    size = model.lm_head.weight.shape[0]
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.shape[-1] if tensor.dim() == 2 and len(tensor) <= 12 else 0)
        return tensor

    for rows, kept in ((100, True), (4, False)):
        limit(monkeypatch, model, rows)
        head, states = Head(model), states_of(model).requires_grad_()
        head.logits(states[:1])
        sizes.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            head.told(states, torch.arange(12))
        assert (size in sizes) is kept


def test_at_least_one_row_is_taken_however_wide_the_vocabulary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(head_module, "MAX_LOGITS", 10)
    assert Head(loaded_architecture("llama").model).rows_at_once == 1


# --- drawing a token ---


def mixed(bits: int) -> int:
    """lowbias32, as it is printed."""
    bits &= 2**32 - 1
    bits = (bits ^ bits >> 16) * 0x7FEB352D % 2**32
    bits = (bits ^ bits >> 15) * 0x846CA68B % 2**32
    return bits ^ bits >> 16


def test_noise_by_hand() -> None:
    rows = [0.0, 0.3, 1 - 2**-53]
    found = head_module._gumbel(torch.tensor(rows, dtype=torch.float64), 300)
    for row, number in enumerate(rows):
        bits = int(number * 2**53)
        for token in (0, 1, 77, 299):
            own = (mixed(token) ^ bits >> 22) * ((2 * bits + 1) % 2**23)
            chance = (mixed(own) % 2**31 + 0.5) / 2**31
            wanted = -math.log(-math.log1p(-chance))
            assert found[row, token].item() == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    alone = head_module._gumbel(torch.tensor(rows[1:2], dtype=torch.float64), 9)
    assert torch.equal(found[1:2, :9], alone)


@pytest.mark.parametrize("apart", [1e-5, 0.1])
def test_nearly_equal_distributions_draw_the_same_token_nearly_always(apart: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4000, generator=generator)
    near = logits + apart * torch.randn(4000, generator=generator)
    one, other = (x.double().softmax(dim=0) for x in (logits, near))
    distance = 0.5 * (one - other).abs().sum().item()
    uniforms = torch.rand(2000, generator=generator, dtype=torch.float64)
    drawn, again = (next_token(x.expand(2000, -1), uniforms, 1.0) for x in (logits, near))
    # The bound of arXiv 1612.01041; looked up in cumulative sums, half of them differ.
    bound = 2 * distance / (1 + distance)
    differ = (drawn != again).double().mean().item()
    assert differ <= bound + 4 * math.sqrt(bound / 2000)
    assert len(set(drawn.tolist())) > 100
