"""Free answers: batches and padding change nothing, and only the new text is ever returned."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from stableprompt.models.chat import Message, encode_chat
from stableprompt.models.loading import LoadedModel
from stableprompt.models.targets.local import LocalTarget
from tests.fakes.agents import make_loaded
from tests.models.targets.test_local import CONVERSATIONS, make_gpt2


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return make_loaded(model=make_gpt2() if request.param == "gpt2" else None)


@torch.no_grad()
def naive_answer(loaded: LoadedModel, query: Sequence[int], max_tokens: int) -> list[int]:
    """One token after the other, the whole row run anew each time."""
    row = list(query)
    for _ in range(max_tokens):
        row.append(int(loaded.model(torch.tensor([row]), use_cache=False).logits[0, -1].argmax()))
        if row[-1] in loaded.end_of_turn_ids:
            break
    return row[len(query) :]


@pytest.mark.parametrize("max_batch_tokens", [1, 150, 10_000])
def test_answers_are_those_of_plain_greedy_decoding(
    loaded: LoadedModel, max_batch_tokens: int
) -> None:
    target = LocalTarget(loaded, max_batch_tokens=max_batch_tokens)
    got = target.generate(CONVERSATIONS, 12)
    queries = [encode_chat(loaded.tokenizer, messages) for messages in CONVERSATIONS]
    written = [naive_answer(loaded, query, 12) for query in queries]
    decode = loaded.tokenizer.decode
    assert got.texts == tuple(decode(w, skip_special_tokens=True).strip() for w in written)
    assert got.usage.read + got.usage.written == read_once(queries) + sum(map(len, written))
    assert len(set(got.texts)) > 1  # the examples do differ


def read_once(queries: list[list[int]]) -> int:
    """Tokens of the queries with what all of them begin with counted once."""
    columns = zip(*queries, strict=False)
    shared = next(place for place, column in enumerate(columns) if len(set(column)) > 1)
    return shared + sum(len(query) - shared for query in queries)


@torch.no_grad()
def favour(loaded: LoadedModel, token: int, conversation: list[Message]) -> None:
    """Turn the head so that the token is what the answer begins with."""
    ids = torch.tensor([encode_chat(loaded.tokenizer, conversation)])
    state = loaded.model(ids, output_hidden_states=True).hidden_states[-1][0, -1]
    loaded.model.lm_head.weight[token] += 20 * state / state.norm() ** 2


def test_an_answer_ends_with_the_turn() -> None:
    loaded = make_loaded()
    favour(loaded, loaded.end_of_turn_ids[0], CONVERSATIONS[0])
    got = LocalTarget(loaded).generate(CONVERSATIONS[:1], 12)
    assert got.texts == ("",)
    assert (
        got.usage.read + got.usage.written
        == len(encode_chat(loaded.tokenizer, CONVERSATIONS[0])) + 1
    )


def test_what_stands_behind_the_end_of_a_turn_does_not_count() -> None:
    loaded = make_loaded()
    queries = [encode_chat(loaded.tokenizer, messages) for messages in CONVERSATIONS]
    third = naive_answer(loaded, queries[0], 12)[2]
    loaded.model.generation_config.eos_token_id = third  # so that the first answer ends there
    written = [naive_answer(loaded, query, 12) for query in queries]
    lengths = [len(answer) for answer in written]
    assert min(lengths) < max(lengths)  # one row of the batch is padded while another goes on
    got = LocalTarget(loaded).generate(CONVERSATIONS, 12)
    assert got.usage.read + got.usage.written == read_once(queries) + sum(lengths)


def test_what_was_read_is_never_part_of_the_answer() -> None:
    loaded = make_loaded()
    prompt = "Input: the sky Output: blue. Output: blue"
    messages = [{"role": "user", "content": prompt}]
    [answer] = LocalTarget(loaded).generate([messages], 5).texts
    query = encode_chat(loaded.tokenizer, messages)
    written = naive_answer(loaded, query, 5)
    assert answer == loaded.tokenizer.decode(written, skip_special_tokens=True).strip()
    assert "blue" not in answer and "Output" not in answer


@pytest.mark.parametrize(
    "own",
    [
        {"do_sample": True, "temperature": 5.0, "top_p": 0.5},
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 1},
        {"num_beams": 3},
        {"suppress_tokens": list(range(3, 200))},
        {"min_new_tokens": 8, "max_length": 5},
    ],
)
def test_settings_of_the_checkpoint_do_not_matter(own: dict[str, Any]) -> None:
    loaded = make_loaded()
    expected = LocalTarget(loaded).generate(CONVERSATIONS, 8)
    settings = loaded.model.generation_config
    for name, value in own.items():
        setattr(settings, name, value)
    assert LocalTarget(loaded).generate(CONVERSATIONS, 8) == expected
    assert loaded.model.generation_config is settings  # and is left as it was


def test_answers_come_from_whoever_speaks() -> None:
    entered = []

    class Speaking:
        def __enter__(self) -> None:
            entered.append(True)

        def __exit__(self, *_: object) -> None:
            entered.append(False)

    LocalTarget(make_loaded(), speaking=Speaking).generate(CONVERSATIONS[:1], 1)
    assert entered == [True, False]
