import gc
from collections.abc import Sequence
from typing import Any
from weakref import ref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stableprompt.errors import ModelError, TargetError
from stableprompt.models import memory
from stableprompt.models.adapters import Role
from stableprompt.models.agent import AgentLLM
from stableprompt.models.likelihood import Likelihood
from stableprompt.models.memory import halve_when_full, ran_out_of_memory, told_when_full
from stableprompt.models.targets.local import LocalTarget
from tests.fakes.agents import MESSAGES, disturb, make_agent, make_loaded, plain_logprobs


@pytest.fixture(autouse=True)
def freed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """When memory was given back; the collection itself takes a while."""
    calls: list[str] = []
    monkeypatch.setattr(memory, "free_memory", lambda: calls.append("freed"))
    return calls


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
        "memory: you tried to allocate 8 bytes. Error code 12 (Cannot allocate memory)"
    ),
    torch.OutOfMemoryError(),
    RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


class Full:
    """Runs parts of at most ``most`` items and writes down how many it was asked for."""

    def __init__(self, most: int, error: Exception = FULL[0]) -> None:
        self.most, self.error = most, error
        self.tried: list[int] = []

    def __call__(self, part: Sequence[int]) -> list[int]:
        self.tried.append(len(part))
        if len(part) > self.most:
            raise self.error
        return list(part)


def test_a_batch_that_fits_is_run_once() -> None:
    run = Full(5)
    assert list(halve_when_full(range(5), run)) == [[0, 1, 2, 3, 4]]
    assert run.tried == [5]


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_a_batch_that_does_not_fit_is_run_in_halves(error: Exception) -> None:
    run = Full(2, error)
    parts = list(halve_when_full(range(7), run))
    assert parts == [[0], [1, 2], [3, 4], [5, 6]]
    assert run.tried == [7, 3, 1, 2, 4, 2, 2]


@given(count=st.integers(1, 40), most=st.integers(1, 40))
def test_every_item_is_run_once_and_in_order(count: int, most: int) -> None:
    parts = list(halve_when_full(range(count), Full(most, MemoryError())))
    assert [item for part in parts for item in part] == list(range(count))
    assert all(1 <= len(part) <= most for part in parts)


def test_memory_is_given_back_after_each_failed_try_and_before_the_next(freed: list[str]) -> None:
    def run(part: Sequence[int]) -> None:
        freed.append(f"run {len(part)}")
        if len(part) > 1:
            raise MemoryError

    assert list(halve_when_full(range(3), run)) == [None] * 3
    assert freed == ["run 3", "freed", "run 1", "run 2", "freed", "run 1", "run 1"]


def test_an_item_that_does_not_fit_alone_is_an_error_after_those_before_it() -> None:
    done = []

    def run(part: Sequence[int]) -> Sequence[int]:
        if 2 in part:
            raise FULL[0]
        return part

    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        for part in halve_when_full(range(4), run):
            done.append(list(part))
    assert done == [[0, 1]]


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), ValueError("out of memory."), KeyError("x")]
)
def test_other_errors_pass_through_at_once(error: Exception) -> None:
    run = Full(1, error)
    with pytest.raises(type(error)):
        list(halve_when_full(range(4), run))
    assert run.tried == [4]


def test_nothing_is_run_before_it_is_asked_for() -> None:
    run = Full(2, MemoryError())
    parts = halve_when_full(range(4), run)
    assert run.tried == []
    next(parts)
    assert run.tried == [4, 2]


def test_a_result_that_is_dropped_is_gone_before_the_next_part_runs() -> None:
    alive: list[Any] = []

    def run(part: Sequence[int]) -> torch.Tensor:
        assert all(seen() is None for seen in alive)
        if len(part) > 1:
            raise MemoryError
        result = torch.zeros(1)
        alive.append(ref(result))
        return result

    gc.disable()
    try:
        for result in halve_when_full(range(4), run):
            del result
    finally:
        gc.enable()
    assert len(alive) == 4


def test_what_a_failed_try_held_is_gone_before_the_halves_run() -> None:
    alive: list[Any] = []

    def run(part: Sequence[int]) -> None:
        assert all(seen() is None for seen in alive)
        held = torch.zeros(1)
        if len(part) > 1:
            alive.append(ref(held))
            raise MemoryError

    assert list(halve_when_full(range(4), run)) == [None] * 4
    assert len(alive) == 3


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_running_out_of_memory_is_recognised(error: Exception) -> None:
    assert ran_out_of_memory(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), ValueError(), KeyboardInterrupt()]
)
def test_other_errors_are_not_taken_for_it(error: BaseException) -> None:
    assert not ran_out_of_memory(error)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("most", [1, 2, 3])
@torch.no_grad()
def test_a_model_that_holds_few_rows_tells_the_same_logprobs(most: int, share: bool) -> None:
    loaded = make_loaded()
    generator = torch.Generator().manual_seed(0)

    def ids(length: int) -> list[int]:
        return torch.randint(3, 300, (length,), generator=generator).tolist()

    head, prompts = ids(20), [ids(9), ids(7)]
    contexts = [head + prompt + ids(3 + n) for prompt in prompts for n in range(4)]
    answers = [[ids(2), ids(3)] for _ in contexts]
    expected = [
        torch.stack([plain_logprobs(loaded.model, c, a).sum() for a in own])
        for c, own in zip(contexts, answers, strict=True)
    ]
    refused = []

    def full(_module: Any, _arguments: Any, options: dict[str, Any]) -> None:
        if len(options["input_ids"]) > most:
            refused.append(len(options["input_ids"]))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    loaded.model.base_model.register_forward_pre_hook(full, with_kwargs=True)
    got, _ = Likelihood(loaded, max_batch_tokens=100_000).logprobs(contexts, answers, share=share)
    assert refused
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def hold_few(model: Any, most: int) -> list[int]:
    """From now on a forward pass of more rows finds no memory; the rows of those refused."""
    refused: list[int] = []

    def full(_module: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        ids = options["input_ids"] if "input_ids" in options else arguments[0]
        if len(ids) > most:
            refused.append(len(ids))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model.base_model.register_forward_pre_hook(full, with_kwargs=True)
    return refused


def trained_agent() -> AgentLLM:
    agent = make_agent()
    disturb(agent.learned_parameters())
    return agent


@pytest.mark.parametrize("most", [1, 2, 3])
def test_an_agent_that_holds_few_rows_writes_the_same(most: int) -> None:
    uniforms = torch.rand(7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole, short = trained_agent(), trained_agent()
    expected = whole.sample(whole.query_ids(MESSAGES), uniforms)
    refused = hold_few(short.loaded.model, most)
    got = short.sample(short.query_ids(MESSAGES), uniforms)
    assert refused
    assert got.texts == expected.texts
    assert torch.equal(got.ids, expected.ids)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_an_agent_that_holds_few_rows_judges_the_same(most: int) -> None:
    uniforms = torch.rand(7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    agent = trained_agent()
    query = agent.query_ids(MESSAGES)
    written = agent.sample(query, uniforms)
    expected = agent.evaluate(query, written.ids, written.mask, role=Role.POLICY)
    refused = hold_few(agent.loaded.model, most)
    got = agent.evaluate(query, written.ids, written.mask, role=Role.POLICY)
    assert refused
    for name in ("logprobs", "entropies", "values"):
        torch.testing.assert_close(
            getattr(got, name), getattr(expected, name), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_target_that_holds_few_rows_answers_the_same(most: int) -> None:
    texts = ["yes or no", "red", "name the colour of the text", "one word", "label"]
    conversations = [[{"role": "user", "content": text}] for text in texts]
    expected = LocalTarget(make_loaded()).generate(conversations, 6)
    loaded = make_loaded()
    refused = hold_few(loaded.model, most)
    got = LocalTarget(loaded).generate(conversations, 6)
    assert refused
    assert got.texts == expected.texts


@pytest.mark.parametrize("error", FULL)
def test_memory_that_is_too_small_for_one_row_is_told_in_one_line(error: Exception) -> None:
    @told_when_full()
    def run() -> None:
        raise error

    with pytest.raises(ModelError, match=r"even with a batch of one row \(.+\); .*resume") as told:
        run()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("error", [ValueError("no"), RuntimeError("a bug"), TargetError("closed")])
def test_what_is_no_lack_of_memory_is_told_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as told, told_when_full():
        raise error
    assert told.value is error
