"""The controls for scoring, of standard parts alone: transformers, torch, no reuse of anything.

* ``naive_scoring`` is what the paper's released code does: one prompt at a time, batches of four
  examples as they come, padded on the left, logits of every position and the whole vocabulary.
* ``bucketed_scoring`` is what one would write first to make that faster: rows of like length
  together, large batches, the needed logits alone.

Both tokenise through the model's chat template, as part of what is timed: so does the package.
Both run without a key-value cache, which they would fill for nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import distinct_tokens
from benchmarks.workload import answer_ids, plain_ids
from stableprompt.tasks.templates import Message

BATCH_SIZE = 4  # of the released code

Blocks = Sequence[Sequence[Sequence[Message]]]
"""For each prompt its conversations, one an example."""


@dataclass(frozen=True, slots=True)
class Row:
    """A sequence to read, and what is read off it."""

    ids: list[int]
    asks: list[tuple[int, int, int]]
    """Position, token whose probability is wanted there, place of the answer in the table."""


def make_rows(contexts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[Row]:
    """One row a context where every answer is one token, else one row an answer.

    Answers are numbered context by context. An answer's last token need not be read.
    """
    rows = []
    for number, context in enumerate(contexts):
        last = len(context) - 1
        first = number * len(answers)
        if all(len(answer) == 1 for answer in answers):
            asks = [(last, answer[0], first + c) for c, answer in enumerate(answers)]
            rows.append(Row(list(context), asks))
            continue
        for c, answer in enumerate(answers):
            asks = [(last + i, token, first + c) for i, token in enumerate(answer)]
            rows.append(Row([*context, *answer[:-1]], asks))
    return rows


@torch.no_grad()
def naive_scoring(
    model: Any,
    tokenizer: Any,
    blocks: Blocks,
    words: Sequence[str],
    *,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Probabilities of the label words, prompt by prompt, (P * N, C), float32 on the CPU."""
    answers = answer_ids(tokenizer, words)
    tables = []
    for conversations in blocks:
        for start in range(0, len(conversations), batch_size):
            contexts = plain_ids(tokenizer, conversations[start : start + batch_size])
            rows = make_rows(contexts, answers)
            found = _read_whole(model, tokenizer.pad_token_id, rows)
            tables.append(_probabilities(found, rows, len(contexts), len(answers)))
    return torch.cat(tables)


def _read_whole(model: Any, pad_id: int, rows: Sequence[Row]) -> Tensor:
    """What is asked of each row, from logits of all positions, on the CPU."""
    longest = max(len(row.ids) for row in rows)
    short = [longest - len(row.ids) for row in rows]
    ids = [[pad_id] * gap + row.ids for gap, row in zip(short, rows, strict=True)]
    mask = [[0] * gap + [1] * len(row.ids) for gap, row in zip(short, rows, strict=True)]
    seen = torch.tensor(mask, device=model.device)
    logits = model(
        input_ids=torch.tensor(ids, device=model.device),
        attention_mask=seen,
        position_ids=(seen.cumsum(dim=1) - 1).clamp(min=0),
        use_cache=False,
    ).logits  # (rows, longest, V), all of them
    if any(len({position for position, _, _ in row.asks}) > 1 for row in rows):
        # Several tokens are summed: each must be normalised.
        logits = logits.float().log_softmax(dim=-1)
    places = [
        (r, gap + position, token)
        for r, (gap, row) in enumerate(zip(short, rows, strict=True))
        for position, token, _ in row.asks
    ]
    numbers, positions, tokens = (list(column) for column in zip(*places, strict=True))
    return logits[numbers, positions, tokens].float().cpu()


@torch.no_grad()
def bucketed_scoring(
    model: Any,
    tokenizer: Any,
    blocks: Blocks,
    words: Sequence[str],
    *,
    max_batch_tokens: int,
) -> Tensor:
    """The same numbers from batches of like length, padded on the right."""
    answers = answer_ids(tokenizer, words)
    contexts = plain_ids(tokenizer, [c for conversations in blocks for c in conversations])
    rows = sorted(make_rows(contexts, answers), key=lambda row: len(row.ids))
    found = [
        _read_needed(model, tokenizer.pad_token_id, batch)
        for batch in buckets(rows, max_batch_tokens)
    ]
    return _probabilities(torch.cat(found), rows, len(contexts), len(answers))


def buckets(rows: Sequence[Row], max_batch_tokens: int) -> Iterator[list[Row]]:
    """Batches of rows in rising order of length, as large as the limit allows with padding."""
    batch: list[Row] = []
    for row in rows:  # in rising order: the newest is the longest
        if batch and len(row.ids) * (len(batch) + 1) > max_batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    yield batch


def _read_needed(model: Any, pad_id: int, rows: Sequence[Row]) -> Tensor:
    longest = max(len(row.ids) for row in rows)
    ids = [row.ids + [pad_id] * (longest - len(row.ids)) for row in rows]
    mask = [[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows]
    states = model.base_model(
        input_ids=torch.tensor(ids, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        use_cache=False,
    ).last_hidden_state
    wanted = sorted({(r, position) for r, row in enumerate(rows) for position, _, _ in row.asks})
    numbers, positions = (list(column) for column in zip(*wanted, strict=True))
    logits = model.get_output_embeddings()(states[numbers, positions])
    logprobs = logits.float().log_softmax(dim=-1)
    at = {place: index for index, place in enumerate(wanted)}
    asks = [
        (at[r, position], token) for r, row in enumerate(rows) for position, token, _ in row.asks
    ]
    lines, tokens = (list(column) for column in zip(*asks, strict=True))
    return logprobs[lines, tokens].cpu()


def _probabilities(found: Tensor, rows: Sequence[Row], count: int, width: int) -> Tensor:
    """Sums over the tokens of each answer, as probabilities over those of a context, (count, C).

    Numbers of answers are those of ``make_rows`` for these contexts.
    """
    places = [place for row in rows for _, _, place in row.asks]
    sums = torch.zeros(count * width).index_add_(0, torch.tensor(places), found)
    return sums.view(count, width).softmax(dim=1)


def padded_tokens(
    contexts: Sequence[Sequence[Sequence[int]]],
    answers: Sequence[Sequence[int]],
    batch_size: int = BATCH_SIZE,
) -> int:
    """Tokens that ``naive_scoring`` reads, padding included.

    Args:
        contexts: For each prompt the token ids of its conversations.
        answers: Token ids of the label words.
        batch_size: Examples of a batch.
    """
    total = 0
    for own in contexts:
        for start in range(0, len(own), batch_size):
            lengths = [len(row.ids) for row in make_rows(own[start : start + batch_size], answers)]
            total += len(lengths) * max(lengths)
    return total


def needed(contexts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Tokens that any plan must read to score every answer, and places where it needs logits."""
    rows = make_rows(contexts, answers)
    places = {tuple(row.ids[: position + 1]) for row in rows for position, _, _ in row.asks}
    return distinct_tokens([row.ids for row in rows]), len(places)
