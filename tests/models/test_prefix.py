import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from stableprompt.models.prefix import RoomyLayer, cache_of, repeat_cache, right_pad
from tests.fakes.architectures import make_architecture
from tests.fakes.tiny_model import make_model

QUERY = torch.tensor([[1, 7, 8, 9]])
TAILS = torch.tensor([[4, 5, 40], [6, 30, 2], [1, 2, 3]])


def filled(seed: int, tokens: int, rows: int = 2) -> Tensor:
    """(rows, heads, tokens, size of a head)"""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((rows, 3, tokens, 5), generator=generator)


# --- padding ---


def test_rows_are_padded_on_the_right() -> None:
    ids, mask = right_pad([[5], [6, 0, 8], [9, 9]], 0, torch.device("cpu"))
    assert ids.tolist() == [[5, 0, 0], [6, 0, 8], [9, 9, 0]]
    # A real token that has the padding's id is real.
    assert mask.tolist() == [[1, 0, 0], [1, 1, 1], [1, 1, 0]]
    assert ids.dtype == mask.dtype == torch.long


def test_padding_uses_the_given_id() -> None:
    ids, _ = right_pad([[5], [6, 7]], 3, torch.device("cpu"))
    assert ids.tolist() == [[5, 3], [6, 7]]


def test_rows_may_be_tuples() -> None:
    ids, mask = right_pad([(5, 6), (7,)], 0, torch.device("cpu"))
    assert (ids.tolist(), mask.tolist()) == ([[5, 6], [7, 0]], [[1, 1], [1, 0]])


# --- one layer with room ---


def test_a_roomy_layer_gives_back_all_that_was_put_in() -> None:
    keys, values = filled(1, 4), filled(2, 4)
    layer = RoomyLayer(keys, values, room=3)
    assert layer.get_seq_length() == 4
    assert torch.equal(layer.keys, keys)
    assert torch.equal(layer.values, values)
    for number in range(3):
        new = filled(10 + number, 1), filled(20 + number, 1)
        keys, values = torch.cat([keys, new[0]], dim=2), torch.cat([values, new[1]], dim=2)
        got = layer.update(*new)
        assert torch.equal(got[0], keys)
        assert torch.equal(got[1], values)
        assert layer.get_seq_length() == 5 + number


def test_several_tokens_may_be_put_in_at_once() -> None:
    layer = RoomyLayer(filled(1, 4), filled(2, 4), room=3)
    keys, values = layer.update(filled(3, 3), filled(4, 3))
    assert torch.equal(keys, torch.cat([filled(1, 4), filled(3, 3)], dim=2))
    assert torch.equal(values, torch.cat([filled(2, 4), filled(4, 3)], dim=2))


@pytest.mark.parametrize(
    "tokens",
    [
        1,
        2,
    ],
)
def test_more_than_the_room_is_an_error(tokens: int) -> None:
    layer = RoomyLayer(filled(1, 4), filled(2, 4), room=1)
    layer.update(filled(3, 1), filled(4, 1))
    with pytest.raises(RuntimeError):
        layer.update(filled(3, tokens), filled(4, tokens))


def test_what_a_roomy_layer_was_made_of_is_not_written_to() -> None:
    one = filled(1, 4, rows=1)
    layer = RoomyLayer(one.expand(2, -1, -1, -1), one.expand(2, -1, -1, -1), room=2)
    layer.update(filled(3, 1), filled(4, 1))
    layer.keys.zero_()
    assert torch.equal(one, filled(1, 4, rows=1))


def test_nothing_is_copied_where_a_token_is_put_in() -> None:
    layer = RoomyLayer(filled(1, 4), filled(2, 4), room=2)
    place = layer.keys.data_ptr(), layer.values.data_ptr()
    keys, values = layer.update(filled(3, 1), filled(4, 1))
    assert (keys.data_ptr(), values.data_ptr()) == place


# --- a whole cache ---


def test_a_cache_holds_the_very_tensors_that_it_is_made_of() -> None:
    pairs = [(filled(1, 4), filled(2, 4)), (filled(3, 4), filled(4, 4))]
    cache = cache_of(pairs)
    assert cache.get_seq_length() == 4
    assert len(cache.layers) == 2
    for layer, (keys, values) in zip(cache.layers, pairs, strict=True):
        assert layer.keys is keys
        assert layer.values is values


def test_keys_and_values_of_unequal_size_are_no_matter() -> None:
    keys, values = filled(1, 4), filled(2, 4)[..., :2]
    [layer] = cache_of([(keys, values)]).layers
    got = layer.update(filled(3, 1), filled(4, 1)[..., :2])
    assert got[0].shape == (2, 3, 5, 5)
    assert got[1].shape == (2, 3, 5, 2)


@pytest.mark.parametrize("room", [0, 3])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
@torch.no_grad()
def test_a_repeated_cache_continues_every_row_token_by_token(name: str, room: int) -> None:
    model = make_architecture(name)
    cache = model(QUERY, past_key_values=DynamicCache(), use_cache=True).past_key_values
    repeated = repeat_cache(cache, 3, room=room)
    assert repeated.get_seq_length() == 4
    steps = [model(TAILS[:, t : t + 1], past_key_values=repeated).logits for t in range(3)]
    whole = torch.cat([QUERY.expand(3, -1), TAILS], dim=1)
    expected = model(whole, use_cache=False).logits[:, 4:]
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("room", [0, 3])
@torch.no_grad()
def test_a_cache_can_be_repeated_again_after_it_was_continued(room: int) -> None:
    model = make_model(50)
    cache = model(QUERY, past_key_values=DynamicCache(), use_cache=True).past_key_values
    first = model(TAILS, past_key_values=repeat_cache(cache, 3, room=room)).logits
    assert cache.get_seq_length() == 4
    again = model(TAILS, past_key_values=repeat_cache(cache, 3, room=room)).logits
    assert torch.equal(first, again)


def test_without_room_nothing_is_copied() -> None:
    cache = cache_of([(filled(1, 4, rows=1), filled(2, 4, rows=1))])
    [before], [layer] = cache.layers, repeat_cache(cache, 5).layers
    assert layer.keys.shape == (5, 3, 4, 5)
    assert layer.keys.data_ptr() == before.keys.data_ptr()
    assert layer.values.data_ptr() == before.values.data_ptr()


def test_the_gradient_of_what_is_repeated_sums_over_the_rows() -> None:
    keys, values = (filled(n, 4, rows=1).requires_grad_() for n in (1, 2))
    [layer] = repeat_cache(cache_of([(keys, values)]), 3).layers
    weights = torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1, 1)
    (weights * layer.keys).sum().backward(retain_graph=True)
    (2 * layer.values).sum().backward()
    assert keys.grad is not None and (keys.grad == 111).all()
    assert values.grad is not None and (values.grad == 6).all()


def test_gradients_through_a_repeated_cache_are_those_of_whole_rows() -> None:
    model = make_model(50)
    weight = model.model.layers[0].self_attn.k_proj.weight
    first = model(QUERY, past_key_values=DynamicCache(), use_cache=True)
    later = model(TAILS, past_key_values=repeat_cache(first.past_key_values, 3), use_cache=True)
    [got] = torch.autograd.grad(later.logits.square().sum(), [weight])
    whole = model(torch.cat([QUERY.expand(3, -1), TAILS], dim=1), use_cache=False).logits[:, 4:]
    [expected] = torch.autograd.grad(whole.square().sum(), [weight])
    assert expected.abs().max() > 1
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
