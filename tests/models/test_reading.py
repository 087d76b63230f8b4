from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stableprompt.models.reading import Reader, Reading
from stableprompt.models.tree import Node, plan
from tests.fakes.agents import make_loaded
from tests.fakes.architectures import loaded_architecture

CONTINUING = ["llama", "gpt2", "mistral", "gemma2", "bloom"]


def ids(number: int, length: int) -> list[int]:
    generator = torch.Generator().manual_seed(number)
    return torch.randint(3, 300, (length,), generator=generator).tolist()


def forest(sizes: list[int], *, share: bool = True) -> list[Node]:
    """A template, two prompts of unequal length, inputs of the sizes given."""
    head, prompts = ids(1, 20), [ids(2, 9), ids(3, 13)]
    contexts = [
        [*head, *prompt, *ids(10 + number, size)]
        for prompt in prompts
        for number, size in enumerate(sizes)
    ]
    return plan(contexts, [[[5], [6]]] * len(contexts), share=share)


def paths(nodes: list[Node], above: tuple[int, ...] = ()) -> dict[int, tuple[int, ...]]:
    """All tokens up to the end of each node."""
    found = {}
    for node in nodes:
        found[id(node)] = above + node.ids
        found |= paths(node.children, above + node.ids)
    return found


@torch.no_grad()
def plain_states(model: Any, path: tuple[int, ...]) -> Tensor:
    return model.base_model(torch.tensor([path]), use_cache=False).last_hidden_state[0]


def assert_right(model: Any, reading: Reading, whole: dict[int, tuple[int, ...]]) -> None:
    for row, node in enumerate(reading.nodes):
        expected = plain_states(model, whole[id(node)])[node.start :]
        got = reading.states[row, : len(node.ids)]
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("limit", [1, 120, 4096])
@pytest.mark.parametrize("name", CONTINUING)
def test_states_are_those_of_whole_paths_and_each_node_is_read_once(name: str, limit: int) -> None:
    loaded = loaded_architecture(name)
    nodes = forest([3, 8, 1, 12])
    whole = paths(nodes)
    assert len(whole) == 1 + 2 + 8
    read = []
    for reading in Reader(loaded, max_batch_tokens=limit).read(nodes):
        assert_right(loaded.model, reading, whole)
        read += [id(node) for node in reading.nodes]
    assert sorted(read) == sorted(whole)


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 15), min_size=1, max_size=6),
    limit=st.integers(1, 500),
    share=st.booleans(),
)
def test_any_tree_is_read_as_it_stands(sizes: list[int], limit: int, share: bool) -> None:
    loaded = loaded_architecture("llama")
    nodes = forest(sizes, share=share)
    whole = paths(nodes)
    read = []
    for reading in Reader(loaded, max_batch_tokens=limit).read(nodes):
        assert_right(loaded.model, reading, whole)
        read += [id(node) for node in reading.nodes]
    assert sorted(read) == sorted(whole)


def test_a_node_is_read_after_the_one_above_it() -> None:
    nodes = forest([3, 8, 1])
    parent = {id(c): id(n) for n in [*nodes, *nodes[0].children] for c in n.children}
    seen: set[int] = set()
    for reading in Reader(make_loaded(), max_batch_tokens=100).read(nodes):
        for node in reading.nodes:
            assert id(node) not in parent or parent[id(node)] in seen
        seen |= {id(node) for node in reading.nodes}


def test_a_cache_is_kept_where_something_follows_and_nowhere_else() -> None:
    for reading in Reader(make_loaded(), max_batch_tokens=4096).read(forest([3, 8])):
        follows = any(node.children for node in reading.nodes)
        assert (reading.cache is not None) is follows


def test_with_room_every_cache_is_kept() -> None:
    readings = Reader(make_loaded(), max_batch_tokens=4096, room=5).read(forest([3, 8]))
    assert all(reading.cache is not None for reading in readings)


def test_room_counts_for_the_batch() -> None:
    loaded, nodes = make_loaded(), forest([4] * 8, share=False)
    length = max(len(node.ids) for node in nodes)
    limit = 3 * (length + 10)
    tight = Reader(loaded, max_batch_tokens=limit, room=10).read(nodes)
    assert max(len(reading.nodes) for reading in tight) == 3
    wide = Reader(loaded, max_batch_tokens=limit).read(nodes)
    assert max(len(reading.nodes) for reading in wide) > 3


@pytest.mark.parametrize("name", CONTINUING)
@torch.no_grad()
def test_beginnings_of_paths_go_on_behind_their_padding(name: str) -> None:
    """The same row several times, at different lengths, as a writer continues it."""
    loaded = loaded_architecture(name)
    nodes = forest([3, 8, 12])
    whole = paths(nodes)
    tails = torch.tensor([[7, 8, 9], [40, 41, 42], [5, 6, 200]])
    checked = 0
    for reading in Reader(loaded, max_batch_tokens=4096, room=3).read(nodes):
        if reading.before == 0:
            continue
        last = len(reading.nodes) - 1
        full = [node.start + len(node.ids) for node in reading.nodes]
        chosen = [(0, full[0]), (last, full[last]), (0, full[0] - 1)]
        cache = reading.continued(chosen)
        longest = max(length for _, length in chosen)
        assert cache.get_seq_length() == longest
        mask = torch.ones((3, longest + 3), dtype=torch.long)
        for row, (_, length) in enumerate(chosen):
            mask[row, : longest - length] = 0
        options: dict[str, Any] = {}
        if name != "bloom":
            starts = torch.tensor([[length] for _, length in chosen])
            options["position_ids"] = starts + torch.arange(3)
        out = loaded.model.base_model(
            tails, attention_mask=mask, past_key_values=cache, use_cache=True, **options
        )
        for row, (number, length) in enumerate(chosen):
            path = (*whole[id(reading.nodes[number])][:length], *tails[row].tolist())
            expected = plain_states(loaded.model, path)[-3:]
            torch.testing.assert_close(out.last_hidden_state[row], expected, rtol=1e-4, atol=2e-5)
        checked += 1
    assert checked == 2  # the prompts, the inputs


def test_continuing_leaves_what_was_read_alone() -> None:
    loaded, nodes = make_loaded(), forest([3, 8])
    [reading, *_] = Reader(loaded, max_batch_tokens=4096, room=3).read(nodes)
    before = [layer.keys.clone() for layer in reading.cache.layers]
    cache = reading.continued([(0, 5), (0, 20)])
    loaded.model(torch.tensor([[7], [8]]), past_key_values=cache)
    for layer, keys in zip(reading.cache.layers, before, strict=True):
        assert torch.equal(layer.keys, keys)


def test_no_gradient_is_kept() -> None:
    loaded = make_loaded()
    loaded.model.requires_grad_(True)
    for reading in Reader(loaded, max_batch_tokens=4096).read(forest([3, 8])):
        assert not reading.states.requires_grad


def test_reading_nothing_runs_nothing() -> None:
    assert list(Reader(make_loaded(), max_batch_tokens=10).read([])) == []
