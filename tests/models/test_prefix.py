import torch
from hypothesis import example, given
from hypothesis import strategies as st

from stableprompt.models.prefix import head_inputs, repeat_cache, right_pad, shared_prefix_length
from tests.fakes.tiny_model import make_model

rows_of_ids = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=5)


def count_shared(rows: list[list[int]]) -> int:
    """Place by place, as long as every row agrees and has another token left."""
    length = 0
    while all(len(row) > length + 1 and row[length] == rows[0][length] for row in rows):
        length += 1
    return length


@given(rows_of_ids)
@example([[1, 1, 1]])
@example([[1, 1], [1, 1]])
@example([[1], [1, 2]])
@example([[0, 2, 1, 1], [0, 2, 0], [0, 2, 1, 2]])
def test_shared_prefix_length_is_that_of_a_naive_loop(rows: list[list[int]]) -> None:
    assert shared_prefix_length(rows) == count_shared(rows)


def test_every_row_keeps_a_token_of_its_own() -> None:
    assert shared_prefix_length([[5, 6, 7]]) == 2
    assert shared_prefix_length([[5, 6], [5, 6, 7]]) == 1
    assert shared_prefix_length([[5, 6], [4, 6]]) == 0


def test_rows_are_padded_on_the_right() -> None:
    ids, mask = right_pad([[5], [6, 0, 8], [9, 9]], 0, torch.device("cpu"))
    assert ids.tolist() == [[5, 0, 0], [6, 0, 8], [9, 9, 0]]
    # A real token that has the padding's id is real.
    assert mask.tolist() == [[1, 0, 0], [1, 1, 1], [1, 1, 0]]
    assert ids.dtype == mask.dtype == torch.long


def test_padding_uses_the_given_id() -> None:
    ids, _ = right_pad([[5], [6, 7]], 3, torch.device("cpu"))
    assert ids.tolist() == [[5, 3], [6, 7]]


@torch.no_grad()
def test_a_repeated_cache_continues_every_row() -> None:
    model = make_model(50)
    cache = model(input_ids=torch.tensor([[1, 7, 8, 9]]), use_cache=True).past_key_values
    tails = torch.tensor([[4, 5], [6, 30], [1, 2]])
    continued = model(input_ids=tails, past_key_values=repeat_cache(cache, 3)).logits
    whole = torch.cat([torch.tensor([[1, 7, 8, 9]]).expand(3, -1), tails], dim=1)
    torch.testing.assert_close(
        continued, model(input_ids=whole, use_cache=False).logits[:, 4:], rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
def test_head_inputs_are_the_last_hidden_states_and_the_hook_is_gone_after() -> None:
    model = make_model(50)
    ids = torch.tensor([[1, 7, 8]])
    with head_inputs(model) as seen:
        out = model(input_ids=ids, output_hidden_states=True)
    assert len(seen) == 1
    assert torch.equal(seen[0], out.hidden_states[-1])
    model(input_ids=ids)
    assert len(seen) == 1
