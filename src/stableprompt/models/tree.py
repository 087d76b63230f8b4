"""Many token sequences as a small tree, so that what they share is read once.

A scoring plan is P prompts x N inputs x C answers. Whether prompt or input comes first, equal
beginnings meet in one node: template and prompt over the inputs (or the input over the prompts),
prompt and input over the answers. Pure: no tensors, no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

# A node costs a forward pass and a copy of its keys and values: a few tokens are not worth it.
MIN_LENGTH = 4
MIN_SAVED = 16
# Template, prompt, input and answer, and beginnings that some prompts or inputs share by the way.
# The caches of all levels are alive at once.
MAX_LEVELS = 8


@dataclass(frozen=True, slots=True)
class Ask:
    """One probability that is wanted: of ``token``, right behind ``position``."""

    position: int
    """In the whole sequence."""
    token: int
    answer: int
    """Number of the answer that the token belongs to."""


@dataclass(slots=True)
class Node:
    """Tokens that are read together, behind those of the nodes above."""

    ids: tuple[int, ...]
    start: int
    """How many tokens the nodes above hold."""
    asks: list[Ask]
    """What is read off within these tokens."""
    children: list["Node"] = field(default_factory=list)


@dataclass(slots=True)
class _Path:
    """A sequence that no other one continues, with the asks of all that end inside it."""

    ids: tuple[int, ...]
    asks: list[Ask]


def plan(
    contexts: Sequence[Sequence[int]], answers: Sequence[Sequence[Sequence[int]]], *, share: bool
) -> list[Node]:
    """The tree that says how probable every answer is behind its context.

    Answers are numbered in the order given, over all contexts. The last token of an answer is
    asked for, but never read.

    Args:
        contexts: Token ids, none empty, N of them.
        answers: For each context the token ids of each answer, none empty.
        share: Whether beginnings may be shared; without, each path is one node.

    Raises:
        ValueError: a context or an answer is empty.
    """
    sequences: list[tuple[tuple[int, ...], list[Ask]]] = []
    number = 0
    for context, own in zip(contexts, answers, strict=True):
        if not context or not all(own):
            raise ValueError("a context or an answer has no token: nothing to read, or to ask for")
        ids, last = tuple(context), len(context) - 1
        for answer in own:
            asks = [Ask(last + i, token, number) for i, token in enumerate(answer)]
            # Answers of one token, the usual case, are read off the same tuple.
            sequences.append((ids + tuple(answer[:-1]) if len(answer) > 1 else ids, asks))
            number += 1
    return _grow(_paths(sequences), share=share)


def num_tokens(forest: Sequence[Node]) -> int:
    """Tokens that are read, shared ones once."""
    return sum(len(node.ids) + num_tokens(node.children) for node in forest)


def _paths(sequences: list[tuple[tuple[int, ...], list[Ask]]]) -> list[_Path]:
    """Sorted; a sequence that begins another one is read along with it."""
    paths: list[_Path] = []
    for ids, asks in sorted(sequences, key=lambda sequence: sequence[0], reverse=True):
        # In falling order what continues a sequence stands right before it.
        if paths and paths[-1].ids[: len(ids)] == ids:
            paths[-1].asks.extend(asks)
        else:
            paths.append(_Path(ids, list(asks)))
    return paths[::-1]


def _grow(paths: list[_Path], *, share: bool) -> list[Node]:
    roots: list[Node] = []
    work = [(paths, 0, 1, roots)] if paths else []
    while work:
        group, depth, level, home = work.pop()
        if len(group) == 1 or not share or level == MAX_LEVELS:
            home.extend(Node(p.ids[depth:], depth, _within(p, depth, len(p.ids))) for p in group)
            continue
        common = common_length(group[0].ids, group[-1].ids)  # sorted: the others share it too
        length = common - depth
        if length >= MIN_LENGTH and length * (len(group) - 1) >= MIN_SAVED:
            asks = [ask for path in group for ask in _within(path, depth, common)]
            node = Node(group[0].ids[depth:common], depth, asks)
            home.append(node)
            depth, level, home = common, level + 1, node.children
        # None begins another, so every path goes on behind what is common.
        for _, branch in groupby(group, key=lambda path: path.ids[common]):
            work.append((list(branch), depth, level, home))
    return roots


def _within(path: _Path, start: int, stop: int) -> list[Ask]:
    return [ask for ask in path.asks if start <= ask.position < stop]


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginnings."""
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length
