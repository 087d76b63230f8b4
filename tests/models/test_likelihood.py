import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from stableprompt.models import head, likelihood
from stableprompt.models.adapters import Role
from stableprompt.models.likelihood import Likelihood, continues_exactly
from stableprompt.models.loading import LoadedModel
from stableprompt.models.tree import num_tokens, plan
from tests.fakes.agents import MESSAGES, disturb, make_agent, make_loaded, plain_logprobs
from tests.fakes.architectures import (
    WINDOW,
    loaded_architecture,
    make_architecture,
    make_gemma3_with_eyes,
)

CONTINUING = ["llama", "gpt2", "mistral", "gemma2", "gemma3", "bloom", "cohere", "granite"]
STATEFUL = ["mamba", "mamba2", "bamba", "qwen3-next"]

Contexts = list[list[int]]
Answers = list[list[list[int]]]


def ids(number: int, length: int) -> list[int]:
    """Random tokens; the same number begins with the same tokens."""
    generator = torch.Generator().manual_seed(number)
    return torch.randint(3, 300, (length,), generator=generator).tolist()


HEAD, ONE, OTHER = ids(1, 21), ids(2, 6), ids(3, 9)
# Three levels of contexts, one that shares nothing, one that begins another; answers of unequal
# length, of which some begin like others.
CONTEXTS = [
    [*HEAD, *ONE, *ids(4, 17)],
    [*HEAD, *ONE, *ids(5, 4)],
    [*HEAD, *OTHER],
    ids(6, 3),
    [*HEAD, *ONE],
    [*HEAD, *ONE, *ids(7, 8)],
]
ANSWERS = [
    [ids(8, 3), ids(9, 2)],
    [ids(8, 1)],
    [ids(8, 3), ids(8, 2), ids(10, 1)],
    [ids(11, 2)],
    [[ids(4, 1)[0], 7], ids(4, 3)],
    [ids(12, 1), ids(13, 1), ids(14, 6)],
]


@torch.no_grad()
def naive(loaded: LoadedModel, contexts: Contexts, answers: Answers) -> list[Tensor]:
    """One forward pass a context and answer: no cache, no padding, no batch."""
    return [
        torch.stack([plain_logprobs(loaded.model, c, a).float().sum() for a in own])
        for c, own in zip(contexts, answers, strict=True)
    ]


def logprobs(
    loaded: LoadedModel,
    contexts: Contexts = CONTEXTS,
    answers: Answers = ANSWERS,
    *,
    share: bool = True,
    max_batch_tokens: int = 150,
) -> list[Tensor]:
    reader = Likelihood(loaded, max_batch_tokens=max_batch_tokens)
    told, count = reader.logprobs(contexts, answers, share=share)
    assert count == num_tokens(plan(contexts, answers, share=share))
    return told


def assert_same(got: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    assert [row.shape for row in got] == [row.shape for row in expected]
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@contextmanager
def watched(loaded: LoadedModel) -> Iterator[list[dict[str, Any]]]:
    """What the layers below the head are called with."""
    calls: list[dict[str, Any]] = []
    hook = loaded.model.base_model.register_forward_pre_hook(
        lambda _module, _arguments, options: calls.append(options), with_kwargs=True
    )
    try:
        yield calls
    finally:
        hook.remove()


# --- the numbers ---


@pytest.mark.parametrize("max_batch_tokens", [1, 90, 100_000])
@pytest.mark.parametrize("name", CONTINUING)
def test_logprobs_are_those_of_plain_forward_passes(name: str, max_batch_tokens: int) -> None:
    loaded = loaded_architecture(name)
    assert continues_exactly(loaded)
    expected = naive(loaded, CONTEXTS, ANSWERS)
    assert torch.cat(expected).std() > 1  # random answers must not look alike
    got = logprobs(loaded, max_batch_tokens=max_batch_tokens)
    assert_same(got, expected)
    assert_same(logprobs(loaded, share=False, max_batch_tokens=max_batch_tokens), expected)


@pytest.mark.parametrize("name", STATEFUL)
def test_what_cannot_continue_a_cache_says_so_and_is_still_right(name: str) -> None:
    loaded = make_loaded(model=make_architecture(name))
    with pytest.warns(UserWarning, match="tiny cannot go on from a beginning that was read before"):
        assert not continues_exactly(loaded)
    expected = naive(loaded, CONTEXTS, ANSWERS)
    assert torch.cat(expected).std() > 1
    assert_same(logprobs(loaded, share=False), expected)


# The padding's id (0) is a real token, and few tokens make many equal beginnings.
tokens = st.sampled_from([0, 1, 5, 77])


def rows(least: int, most: int, count: int) -> st.SearchStrategy[list[list[int]]]:
    return st.lists(st.lists(tokens, min_size=least, max_size=most), min_size=1, max_size=count)


@st.composite
def workloads(draw: st.DrawFn) -> tuple[Contexts, Answers]:
    """A template, prompts and inputs as a scoring plan has them, and some that do not fit in."""
    template = draw(st.lists(tokens, max_size=10))
    prompts, inputs = draw(rows(0, 9, 3)), draw(rows(1, 14, 3))
    contexts = [template + one + other for one in prompts for other in inputs]
    contexts = draw(st.permutations(contexts))[:5] + draw(rows(1, 6, 1))
    return contexts, [draw(rows(1, 5, 3)) for _ in contexts]


@pytest.mark.parametrize("name", CONTINUING)
@settings(max_examples=8, deadline=None)
@given(work=workloads(), max_batch_tokens=st.sampled_from([1, 20, 60, 4096]), share=st.booleans())
def test_logprobs_of_any_work_are_those_of_plain_forward_passes(
    name: str, work: tuple[Contexts, Answers], max_batch_tokens: int, share: bool
) -> None:
    loaded = loaded_architecture(name)
    got = logprobs(loaded, *work, share=share, max_batch_tokens=max_batch_tokens)
    assert_same(got, naive(loaded, *work))


@pytest.mark.parametrize("name", STATEFUL)
@settings(max_examples=4, deadline=None)
@given(work=workloads(), max_batch_tokens=st.sampled_from([1, 60, 4096]))
def test_any_work_without_sharing_is_right_for_state_spaces(
    name: str, work: tuple[Contexts, Answers], max_batch_tokens: int
) -> None:
    loaded = loaded_architecture(name)
    got = logprobs(loaded, *work, share=False, max_batch_tokens=max_batch_tokens)
    assert_same(got, naive(loaded, *work))


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gemma3"])
def test_the_window_of_the_models_above_is_shorter_than_what_they_read(name: str) -> None:
    windowed = naive(loaded_architecture(name), CONTEXTS, ANSWERS)
    wide = make_loaded(model=make_architecture(name, sliding_window=512))
    assert min(len(context) for context in CONTEXTS[:3]) > 2 * WINDOW
    for one, other in zip(windowed[:3], naive(wide, CONTEXTS, ANSWERS)[:3], strict=True):
        assert (one - other).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2"])
def test_half_precision_agrees_as_far_as_it_goes(name: str) -> None:
    loaded = make_loaded(model=make_architecture(name).to(torch.bfloat16))
    assert continues_exactly(loaded)
    # Eight answers each; the best one must be the same where it is clearly the best.
    answers = [[ids(100 * n + k, 1 + k % 3) for k in range(8)] for n in range(len(CONTEXTS))]
    expected = naive(loaded, CONTEXTS, answers)
    clear = 0
    for share in (True, False):
        got = logprobs(loaded, CONTEXTS, answers, share=share)
        assert_same(got, expected, tolerance=0.15)
        for one, other in zip(got, expected, strict=True):
            first, second = other.topk(2).values
            if first - second > 0.3:
                clear += 1
                assert one.argmax() == other.argmax()
    assert clear >= len(CONTEXTS)  # of twice as many


def test_a_model_that_reads_pictures_too_is_scored_by_its_words() -> None:
    loaded = make_loaded(model=make_gemma3_with_eyes())
    assert continues_exactly(loaded)
    expected = naive(loaded, CONTEXTS, ANSWERS)
    assert torch.cat(expected).std() > 1
    assert_same(logprobs(loaded), expected)


def test_identical_contexts_and_answers_get_identical_numbers() -> None:
    loaded = loaded_architecture("llama")
    answers = [ids(8, 2), ids(9, 1), ids(8, 2)]
    first, again = logprobs(loaded, [CONTEXTS[0]] * 2, [answers] * 2)
    assert torch.equal(first, again)
    assert first[0] == first[2]
    assert_same([first], naive(loaded, CONTEXTS[:1], [answers]))


def test_the_order_of_the_work_changes_nothing() -> None:
    loaded = loaded_architecture("gpt2")
    turned = logprobs(loaded, CONTEXTS[::-1], [own[::-1] for own in ANSWERS[::-1]])
    got = [row.flip(0) for row in turned[::-1]]
    assert all(torch.equal(*pair) for pair in zip(got, logprobs(loaded), strict=True))


def test_logits_of_a_few_places_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("llama", "gemma2"):
        loaded = loaded_architecture(name)
        expected = naive(loaded, CONTEXTS, ANSWERS)
        for rows_at_once in (1, 3):
            size = loaded.model.get_output_embeddings().weight.shape[0]
            monkeypatch.setattr(head, "MAX_LOGITS", size * rows_at_once + 1)
            assert_same(logprobs(loaded), expected)


def test_no_gradient_is_kept() -> None:
    loaded = make_loaded()
    loaded.model.requires_grad_(True)
    assert not any(row.requires_grad for row in logprobs(loaded))


# --- what it costs ---


def test_what_is_shared_is_read_once() -> None:
    loaded = loaded_architecture("llama")
    likelihood_ = Likelihood(loaded, max_batch_tokens=150)
    likelihood_.logprobs(CONTEXTS[:1], ANSWERS[:1], share=False)  # the head is measured here
    counts = {}
    for share in (True, False):
        with watched(loaded) as calls:
            _, counts[share] = likelihood_.logprobs(CONTEXTS, ANSWERS, share=share)
        own = [call["attention_mask"][:, -call["input_ids"].shape[1] :].sum() for call in calls]
        assert sum(own) == counts[share]
    assert counts[True] < counts[False] / 2


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("limit", [60, 200])
def test_a_batch_holds_no_more_tokens_than_allowed(limit: int, share: bool) -> None:
    loaded = make_loaded()
    likelihood_ = Likelihood(loaded, max_batch_tokens=limit)
    contexts = [[*HEAD, *ids(n % 3, 5), *ids(n, 3 + n % 7)] for n in range(4, 24)]
    answers = [[ids(8, 3), ids(9, 2)]] * len(contexts)
    likelihood_.logprobs(contexts[:1], answers[:1], share=False)  # the head is measured here
    with watched(loaded) as calls:
        likelihood_.logprobs(contexts, answers, share=share)
    shapes = [tuple(call["attention_mask"].shape) for call in calls]  # with what stands before
    assert len(shapes) > 3
    assert all(rows_ == 1 or rows_ * length <= limit for rows_, length in shapes)
    assert any(rows_ > 1 for rows_, _ in shapes)


@pytest.mark.parametrize("limit", [1, 100, 4096])
def test_the_caches_of_one_branch_alone_are_alive(limit: int) -> None:
    loaded = make_loaded()
    likelihood_ = Likelihood(loaded, max_batch_tokens=limit)
    alive: WeakSet[Any] = WeakSet()
    counts = []

    def count(_module: Any, _arguments: Any, options: dict[str, Any]) -> None:
        if options.get("past_key_values") is not None:
            alive.add(options["past_key_values"])
        counts.append((len(alive), int(options["position_ids"].min())))

    # Two templates, two prompts in each, three inputs behind each, two answers of two tokens.
    contexts = [
        [*ids(t, 20), *ids(50 + p, 12), *ids(90 + i, 10 + i)]
        for t in (1, 2)
        for p in range(2)
        for i in range(3)
    ]
    answers = [[[5, 9], [6, 9]]] * len(contexts)
    likelihood_.logprobs(contexts[:1], answers[:1], share=False)
    loaded.model.base_model.register_forward_pre_hook(count, with_kwargs=True)
    gc.disable()  # nothing may wait for the collector
    try:
        likelihood_.logprobs(contexts, answers, share=True)
    finally:
        gc.enable()
    depths = {0: 1, 20: 2, 32: 3}
    assert {start for _, start in counts} >= depths.keys()
    for number, start in counts:
        assert number <= depths.get(start, 4)
    assert not alive


# --- whether sharing is safe ---


def test_whether_a_model_continues_is_measured_once_and_warned_of_once() -> None:
    loaded = make_loaded(model=make_architecture("mamba"))
    with pytest.warns(UserWarning, match="which is slower") as caught:
        assert not continues_exactly(loaded)
    assert len(caught) == 1
    with warnings.catch_warnings(), watched(loaded) as calls:
        warnings.simplefilter("error")
        assert not continues_exactly(loaded)
        # The same weights under another name are the same model.
        again = LoadedModel("other", loaded.model, loaded.tokenizer, loaded.device)
        assert not continues_exactly(again)
    assert calls == []


def test_each_model_is_measured_for_itself() -> None:
    one, other = make_loaded(), make_loaded()
    assert continues_exactly(one)
    with watched(other) as calls:
        assert continues_exactly(other)
    assert len(calls) > 2


def test_the_measure_is_forgotten_with_the_model() -> None:
    loaded = make_loaded()
    assert continues_exactly(loaded)
    before = len(likelihood._MEASURED)
    del loaded
    gc.collect()
    assert len(likelihood._MEASURED) < before


def test_a_model_whose_continuation_is_off_by_a_little_is_found_out() -> None:
    loaded = make_loaded()

    def drift(_module: Any, _arguments: Any, options: dict[str, Any], out: Any) -> None:
        if options.get("past_key_values") is not None and options["position_ids"].min() > 0:
            out.last_hidden_state *= 1.01

    hook = loaded.model.base_model.register_forward_hook(drift, with_kwargs=True)
    with pytest.warns(UserWarning, match="log-probabilities differ by 0"):
        assert not continues_exactly(loaded)
    hook.remove()


def test_the_measure_shares_over_three_levels() -> None:
    contexts, answers = likelihood._probe(400)
    levels, nodes = 0, plan(contexts, answers, share=True)
    while nodes:
        levels, nodes = levels + 1, [child for node in nodes for child in node.children]
    assert levels >= 3


@pytest.mark.parametrize("role", list(Role))
def test_an_agent_that_is_measured_speaks_as_before(role: Role) -> None:
    agent = make_agent()
    disturb(agent.learned_parameters())
    agent.copy(Role.POLICY, Role.ANCHOR)
    disturb(agent.learned_parameters(), seed=1)
    query = agent.query_ids(MESSAGES).unsqueeze(0)
    learns = [p.requires_grad for p in agent.parameters()]
    with agent.adapted.role(role) as model, torch.no_grad():
        before = model(input_ids=query).logits
        assert agent._shares
        assert torch.equal(model(input_ids=query).logits, before)
    assert [p.requires_grad for p in agent.parameters()] == learns


@example(vocabulary=2)
@given(vocabulary=st.integers(2, 500))
def test_the_measure_uses_tokens_that_the_model_has(vocabulary: int) -> None:
    contexts, answers = likelihood._probe(vocabulary)
    used = {token for row in [*contexts, *(a for own in answers for a in own)] for token in row}
    assert used <= set(range(vocabulary))


def test_padding_does_not_run_past_a_learned_table_of_positions() -> None:
    loaded = loaded_architecture("gpt2")  # 512 positions
    ids = torch.randint(3, 300, (1200,), generator=torch.Generator().manual_seed(1)).tolist()
    passage, start = ids[:400], ids[400:420]
    # Two short questions behind a long passage; two long texts behind a short beginning.
    contexts = [
        [1, *passage, *ids[420:430]],
        [1, *passage, *ids[430:440]],
        [2, *start, *ids[440:740]],
        [2, *start, *ids[740:1030]],
    ]
    answers = [[[7], [8]]] * 4
    got = logprobs(loaded, contexts, answers, max_batch_tokens=4096)
    assert_same(got, naive(loaded, contexts, answers))


def test_many_contexts_are_planned_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = loaded_architecture("llama")
    expected, once = Likelihood(loaded, max_batch_tokens=150).logprobs(
        CONTEXTS, ANSWERS, share=True
    )
    monkeypatch.setattr(likelihood, "ONE_TREE", 2)
    got, read = Likelihood(loaded, max_batch_tokens=150).logprobs(CONTEXTS, ANSWERS, share=True)
    assert_same(got, expected)
    assert len(CONTEXTS) > 2 and read >= once


def test_out_of_memory_is_no_verdict_on_an_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = make_loaded()
    honest = Likelihood.logprobs

    def full(self: Likelihood, *given: Any, share: bool) -> Any:
        if share:
            raise torch.OutOfMemoryError
        return honest(self, *given, share=share)

    with monkeypatch.context() as patch:
        patch.setattr(Likelihood, "logprobs", full)
        with pytest.raises(torch.OutOfMemoryError):
            continues_exactly(loaded)
    assert continues_exactly(loaded)
