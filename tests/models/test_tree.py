from collections.abc import Iterator, Sequence
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stableprompt.models.tree import (
    MAX_LEVELS,
    MIN_LENGTH,
    MIN_SAVED,
    Ask,
    Node,
    num_tokens,
    plan,
)

Shape = tuple[str, list["Shape"]]


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def grown(contexts: Sequence[str], answers: Sequence[Sequence[str]], *, share: bool) -> list[Node]:
    """One letter a token."""
    return plan(
        [letters(c) for c in contexts], [[letters(a) for a in own] for own in answers], share=share
    )


def shape(forest: Sequence[Node]) -> list[Shape]:
    """The letters of each node and what is below, sorted."""
    return sorted(("".join(map(chr, node.ids)), shape(node.children)) for node in forest)


def with_paths(
    forest: Sequence[Node], above: tuple[int, ...] = ()
) -> Iterator[tuple[Node, tuple[int, ...]]]:
    """Every node with all tokens from its root to its end."""
    for node in forest:
        path = above + node.ids
        yield node, path
        yield from with_paths(node.children, path)


def asked(forest: Sequence[Node]) -> list[tuple[str, str, int]]:
    """What each ask stands behind, the token that it wants, and the answer."""
    found = []
    for node, path in with_paths(forest):
        for ask in node.asks:
            behind = "".join(map(chr, path[: ask.position + 1]))
            found.append((behind, chr(ask.token), ask.answer))
    return sorted(found)


# --- by hand ---


def test_one_context_and_words_of_one_token_are_one_node() -> None:
    [node] = grown(["abc"], [["x", "y"]], share=True)
    assert (node.ids, node.start, node.children) == (tuple(letters("abc")), 0, [])
    assert node.asks == [Ask(2, ord("x"), 0), Ask(2, ord("y"), 1)]


def test_the_last_token_of_a_word_is_asked_for_but_never_read() -> None:
    [node] = grown(["ab"], [["xyz"]], share=True)
    assert node.ids == tuple(letters("abxy"))
    assert node.asks == [Ask(1, ord("x"), 0), Ask(2, ord("y"), 0), Ask(3, ord("z"), 0)]


def test_a_prompt_that_comes_first_is_read_once_for_its_inputs() -> None:
    prompts, inputs = ["TTTTTTTTTTPPPPPPPP", "TTTTTTTTTTQQQQQQQQ"], ["aa", "bb", "cc"]
    forest = grown([p + i for p, i in product(prompts, inputs)], [["x"]] * 6, share=True)
    leaves: list[Shape] = [("aa", []), ("bb", []), ("cc", [])]
    assert shape(forest) == [("T" * 10, [("P" * 8, leaves), ("Q" * 8, leaves)])]
    assert num_tokens(forest) == 10 + 2 * (8 + 3 * 2)
    assert asked(forest) == sorted(
        (p + i, "x", number) for number, (p, i) in enumerate(product(prompts, inputs))
    )


def test_an_input_that_comes_first_is_read_once_for_its_prompts() -> None:
    prompts, inputs = ["PP", "QQ", "RR"], ["TTTTTTTTTTaaaaaaaa", "TTTTTTTTTTbbbbbbbb"]
    forest = grown([i + p for p, i in product(prompts, inputs)], [["x"]] * 6, share=True)
    leaves: list[Shape] = [("PP", []), ("QQ", []), ("RR", [])]
    assert shape(forest) == [("T" * 10, [("a" * 8, leaves), ("b" * 8, leaves)])]


def test_words_of_several_tokens_branch_behind_their_context() -> None:
    context = "c" * 16
    forest = grown([context], [["xa", "yb", "z"]], share=True)
    assert shape(forest) == [(context, [("x", []), ("y", [])])]
    [root] = forest
    assert {(ask.position, chr(ask.token), ask.answer) for ask in root.asks} == {
        (15, "x", 0),
        (15, "y", 1),
        (15, "z", 2),
    }
    for child, token, answer in zip(
        sorted(root.children, key=lambda node: node.ids), "ab", (0, 1), strict=True
    ):
        assert (child.start, child.asks) == (16, [Ask(16, ord(token), answer)])


def test_a_context_that_begins_another_is_read_along_with_it() -> None:
    [node] = grown(["ab", "abcd"], [["x", "cy"], ["z"]], share=True)
    assert node.ids == tuple(letters("abcd"))
    assert asked([node]) == [
        ("ab", "c", 1),
        ("ab", "x", 0),
        ("abc", "y", 1),
        ("abcd", "z", 2),
    ]


def test_it_is_read_along_without_sharing_too() -> None:
    # Nothing is continued: the longer one holds all its beginnings.
    assert shape(grown(["ab", "abcd", "abce"], [["x"]] * 3, share=False)) == [
        ("abcd", []),
        ("abce", []),
    ]


def test_identical_contexts_are_read_once_and_keep_their_own_numbers() -> None:
    [node] = grown(["abc", "abc"], [["x", "y"], ["x", "x"]], share=True)
    assert num_tokens([node]) == 3
    assert asked([node]) == [("abc", "x", 0), ("abc", "x", 2), ("abc", "x", 3), ("abc", "y", 1)]


def test_without_sharing_each_path_is_one_node() -> None:
    contexts = ["T" * 30 + letter for letter in "abc"]
    forest = grown(contexts, [["x"]] * 3, share=False)
    assert shape(forest) == [(context, []) for context in contexts]
    assert num_tokens(forest) == 93


@pytest.mark.parametrize(
    ("length", "rows", "shared"),
    [
        (MIN_LENGTH, MIN_SAVED // MIN_LENGTH + 1, True),
        (MIN_LENGTH, MIN_SAVED // MIN_LENGTH, False),  # saves too little
        (MIN_LENGTH - 1, 3 * MIN_SAVED, False),  # too short, however much it saves
        (MIN_SAVED, 2, True),
        (MIN_SAVED - 1, 2, False),
    ],
)
def test_what_saves_too_little_is_not_shared(length: int, rows: int, shared: bool) -> None:
    contexts = ["T" * length + chr(ord("a") + n) * 2 for n in range(rows)]
    forest = grown(contexts, [["x"]] * rows, share=True)
    assert len(forest) == (1 if shared else rows)
    assert num_tokens(forest) == 2 * rows + length * (1 if shared else rows)


def test_a_beginning_too_short_to_share_stays_with_what_follows() -> None:
    contexts = ["TT" + "a" * 20 + end for end in "xy"] + ["TT" + "b" * 20 + end for end in "xy"]
    forest = grown(contexts, [["."]] * 4, share=True)
    leaves: list[Shape] = [("x", []), ("y", [])]
    assert shape(forest) == [("TT" + "a" * 20, leaves), ("TT" + "b" * 20, leaves)]


def nested(depth: int) -> list[str]:
    """Every level shares 20 letters and parts in two."""
    if depth == 0:
        return ["."]
    return [letter * 20 + rest for letter in "ab" for rest in nested(depth - 1)]


def levels(forest: Sequence[Node]) -> int:
    return max((1 + levels(node.children) for node in forest), default=0)


@pytest.mark.parametrize("depth", [1, 2, MAX_LEVELS, MAX_LEVELS + 1, MAX_LEVELS + 3])
def test_no_more_levels_than_allowed(depth: int) -> None:
    contexts = ["T" * 20 + rest for rest in nested(depth)]
    forest = grown(contexts, [["x"]] * len(contexts), share=True)
    assert levels(forest) == min(depth + 1, MAX_LEVELS)
    assert asked(forest) == sorted((c, "x", n) for n, c in enumerate(contexts))


def test_the_last_level_holds_all_that_is_left() -> None:
    contexts = ["T" * 20 + rest for rest in nested(MAX_LEVELS)]
    leaves = [node for node, _ in with_paths(grown(contexts, [["x"]] * len(contexts), share=True))]
    assert {len(node.ids) for node in leaves if not node.children} == {41}  # two levels and "."


def test_nothing_is_planned_for_nothing() -> None:
    assert plan([], [], share=True) == plan([], [], share=False) == []
    assert plan([[1, 2]], [[]], share=True) == []
    assert num_tokens([]) == 0


def test_contexts_and_answers_must_be_as_many() -> None:
    with pytest.raises(ValueError):
        plan([[1], [2]], [[[3]]], share=True)


# --- by chance ---


tokens = st.integers(0, 2)
rows = st.lists(st.lists(tokens, min_size=1, max_size=4), max_size=3)


@st.composite
def workloads(draw: st.DrawFn) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Few tokens and common beginnings: every kind of tree comes up."""
    heads = draw(st.lists(st.lists(tokens, max_size=25), min_size=1, max_size=4))
    contexts = [
        draw(st.sampled_from(heads)) + draw(st.sampled_from(heads)) + tail
        for tail in draw(st.lists(st.lists(tokens, min_size=1, max_size=5), max_size=12))
    ]
    return contexts, [draw(rows) for _ in contexts]


@given(work=workloads(), share=st.booleans())
@example(work=([[1]], [[[1]]]), share=True)
@example(work=([[1] * n for n in range(1, 30)], [[[1] * 3]] * 29), share=True)
def test_every_answer_is_spelt_behind_its_context_exactly_once(
    work: tuple[list[list[int]], list[list[list[int]]]], share: bool
) -> None:
    forest = plan(*work, share=share)
    found: dict[int, list[tuple[int, ...]]] = {}
    for node, path in with_paths(forest):
        assert node.ids
        assert node.start == len(path) - len(node.ids)
        assert all(node.start <= ask.position < len(path) for ask in node.asks)
        for ask in node.asks:
            found.setdefault(ask.answer, []).append((*path[: ask.position + 1], ask.token))
    contexts, answers = work
    expected = [
        [(*context, *answer[: i + 1]) for i in range(len(answer))]
        for context, own in zip(contexts, answers, strict=True)
        for answer in own
    ]
    assert {number: sorted(spelt, key=len) for number, spelt in found.items()} == dict(
        enumerate(expected)
    )


@given(work=workloads(), share=st.booleans())
def test_no_path_of_the_tree_is_needless(
    work: tuple[list[list[int]], list[list[list[int]]]], share: bool
) -> None:
    contexts, answers = work
    sequences = {
        (*context, *answer[:-1])
        for context, own in zip(contexts, answers, strict=True)
        for answer in own
    }
    longest = {s for s in sequences if not any(o != s and o[: len(s)] == s for o in sequences)}
    forest = plan(*work, share=share)
    paths = [path for node, path in with_paths(forest) if not node.children]
    assert sorted(paths) == sorted(longest)
    assert levels(forest) <= (MAX_LEVELS if share else 1)
    assert all(len(node.children) != 1 for node, _ in with_paths(forest))


@given(work=workloads())
def test_the_number_of_tokens_is_their_sum_and_sharing_never_reads_more(
    work: tuple[list[list[int]], list[list[list[int]]]],
) -> None:
    shared, plain = plan(*work, share=True), plan(*work, share=False)
    assert num_tokens(shared) == sum(len(node.ids) for node, _ in with_paths(shared))
    assert num_tokens(plain) == sum(len(node.ids) for node in plain)
    assert num_tokens(shared) <= num_tokens(plain)


@given(work=workloads(), order=st.randoms(use_true_random=False))
def test_the_order_of_the_work_does_not_change_what_is_read(
    work: tuple[list[list[int]], list[list[list[int]]]], order: "object"
) -> None:
    pairs = list(zip(*work, strict=True))
    order.shuffle(pairs)  # type: ignore[attr-defined]
    turned = plan([c for c, _ in pairs], [a for _, a in pairs], share=True)
    assert shape(turned) == shape(plan(*work, share=True))


@pytest.mark.parametrize("share", [True, False])
def test_thousands_of_sequences_inside_each_other_are_one_path(share: bool) -> None:
    count = 3000
    [node] = plan([[7] * n for n in range(1, count + 1)], [[[8]]] * count, share=share)
    assert len(node.ids) == count
    assert sorted((ask.position, ask.answer) for ask in node.asks) == [(n, n) for n in range(count)]


def test_thousands_of_branches_off_one_path_are_a_flat_tree() -> None:
    count = 1500
    contexts = [[7] * n + [8] for n in range(count)]
    forest = plan(contexts, [[[9]]] * count, share=True)
    assert levels(forest) <= MAX_LEVELS
    assert sum(len(node.asks) for node, _ in with_paths(forest)) == count


def test_beginnings_that_some_prompts_share_do_not_keep_inputs_from_being_shared() -> None:
    """As a policy that has settled on a phrasing writes them, with labels of several tokens."""
    template, phrase, more = range(100, 106), range(200, 206), range(300, 306)
    prompts = [
        [*template, *phrase, *more, *range(400 + 10 * p, 406 + 10 * p)] for p in range(3)
    ] + [[*template, *phrase, *range(500 + 10 * p, 506 + 10 * p)] for p in range(2)]
    inputs = [[*range(600 + 20 * n, 617 + 20 * n)] for n in range(4)]
    contexts = [[*prompt, *own] for prompt in prompts for own in inputs]
    answers = [[[1, 2], [3, 4], [5, 6]]] * len(contexts)
    once = 6 + 6 + 6 + 5 * 6 + 20 * 17 + 20 * 3  # each part once, the labels' first tokens behind
    assert num_tokens(plan(contexts, answers, share=True)) == once


@pytest.mark.parametrize(("context", "answer"), [([], [1]), ([1], [])])
def test_nothing_to_read_or_to_ask_for_is_an_error(context: list[int], answer: list[int]) -> None:
    with pytest.raises(ValueError, match="has no token"):
        plan([context], [[answer]], share=True)
