"""The benchmark suite: its controls compute what we compute, and its figures are what they say."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from benchmarks import measure, report
from benchmarks.naive import (
    Row,
    bucketed_scoring,
    buckets,
    make_rows,
    naive_scoring,
    needed,
    padded_tokens,
)
from benchmarks.naive_training import (
    Speaker,
    full_rows,
    load_three_copies,
    naive_step,
    rewards_of,
    unshared_update,
)
from benchmarks.session import Session, replay_of, require_read, score_afresh
from benchmarks.workload import Workload, answer_ids, load_workload, plain_ids
from hypothesis import given
from hypothesis import strategies as st

from stableprompt.build import load_models
from stableprompt.config import PPOConfig, make_config
from stableprompt.models.adapters import Role
from stableprompt.models.responses import Responses
from stableprompt.models.targets.local import LocalTarget
from stableprompt.models.training import prepare_training
from stableprompt.ppo.rollout import Rollout
from stableprompt.tasks.prompt_checks import PromptFault
from stableprompt.tasks.readability import Readability
from stableprompt.tasks.task import Task
from stableprompt.tuning.guards import Inspection
from stableprompt.tuning.update import ppo_update
from tests.fakes.agents import disturb, make_agent, make_loaded, plain_logprobs
from tests.fakes.tiny_model import save_tiny_model

# --- measure ---


def test_contestants_take_turns_and_are_prepared_before_each() -> None:
    seen: list[str] = []

    def contestant(name: str) -> Callable[[], Callable[[], str]]:
        def prepare() -> Callable[[], str]:
            seen.append(f"prepare {name}")
            return lambda: seen.append(name) or name  # type: ignore[func-returns-value]

        return prepare

    timings = measure.take_turns({"a": contestant("a"), "b": contestant("b")}, rounds=2)

    assert seen == ["prepare a", "a", "prepare b", "b"] * 2
    assert timings.results == {"a": "a", "b": "b"}
    assert [len(seconds) for seconds in timings.seconds.values()] == [2, 2]


def test_a_round_that_would_not_fit_the_budget_is_not_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(1000))
    looked_at = SimpleNamespace(perf_counter=lambda: float(next(clock)))
    monkeypatch.setattr(measure, "time", looked_at)
    idle: dict[str, measure.Contestant] = {"a": lambda: lambda: None}

    # The clock moves by 1 at each look. Before the second round 4 have gone by, so two rounds take
    # 8; before the third 7, so three take 10.5.
    timings = measure.take_turns(idle, rounds=9, budget_seconds=9)

    assert len(timings.seconds["a"]) == 2
    assert len(measure.take_turns(idle, rounds=9, budget_seconds=0).seconds["a"]) == 1


def test_summary_and_ratio_by_hand() -> None:
    assert measure.summary([5.0, 1.0, 3.0]) == {"median": 3.0, "min": 1.0, "max": 5.0, "n": 3}
    # Medians 20 and 4; by round 10/5, 20/4, 60/1.
    assert measure.ratio([10.0, 20.0, 60.0], [5.0, 4.0, 1.0]) == {
        "median": 5.0,
        "min": 2.0,
        "max": 60.0,
        "n": 3,
    }


@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(0.1, 100)), min_size=1, max_size=7))
def test_the_ratio_of_medians_lies_within_the_rounds(rounds: list[tuple[float, float]]) -> None:
    found = measure.ratio([a for a, _ in rounds], [b for _, b in rounds])

    assert found["min"] * (1 - 1e-9) <= found["median"] <= found["max"] * (1 + 1e-9)


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=8))
def test_distinct_tokens_are_the_distinct_beginnings(sequences: list[list[int]]) -> None:
    beginnings = {tuple(ids[:stop]) for ids in sequences for stop in range(1, len(ids) + 1)}

    assert measure.distinct_tokens(sequences) == len(beginnings)


def test_flops_of_a_forward_pass_by_hand() -> None:
    model = make_loaded().model
    # Two layers, hidden size 32, 4 heads and 2 for keys and values, 64 in between.
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64
    vocabulary = model.config.vocab_size

    assert measure.layer_parameters(model) == 2 * layer
    assert measure.forward_flops(model, tokens=7, positions=3) == 2 * (
        7 * 2 * layer + 3 * 32 * vocabulary
    )


def test_memory_of_this_process_is_below_its_peak() -> None:
    assert 2**20 < measure.resident_bytes() <= measure.peak_resident_bytes()


# --- scoring ---


def make_workload(words: tuple[str, str]) -> Workload:
    rows = [
        {"text": f"text number {n} " + "or so " * (n % 4), "label": "ab"[n % 2]} for n in range(40)
    ]
    task = Task.from_records(
        rows,
        name="letters",
        seed_prompt="Pick a letter.",
        label_words=dict(zip("ab", words, strict=True)),
    )
    prompts = ("Answer.", "Choose one of the words, please.", "Classify the message: which one?")
    config = make_config({"target": {"max_batch_tokens": 300}})
    return Workload(task, config, prompts, task.train[:7], prompts, task.train[:4])


@pytest.mark.parametrize("words", [("a", "b"), ("red paint", "no")])
def test_the_controls_score_as_we_do(words: tuple[str, str]) -> None:
    workload = make_workload(words)
    loaded = make_loaded()
    blocks = workload.conversations(workload.prompts, workload.examples)
    target = LocalTarget(loaded, max_batch_tokens=300)

    naive = naive_scoring(loaded.model, loaded.tokenizer, blocks, workload.words)
    bucketed = bucketed_scoring(
        loaded.model, loaded.tokenizer, blocks, workload.words, max_batch_tokens=300
    )
    conversations = [c for block in blocks for c in block]
    ours = target.label_scores(conversations, [workload.words] * len(conversations)).label_probs

    assert naive.shape == (3 * 7, 2)
    torch.testing.assert_close(naive, ours, rtol=0, atol=1e-5)
    torch.testing.assert_close(bucketed, ours, rtol=0, atol=1e-5)
    # One pair from a plain forward pass over each word.
    [context] = plain_ids(loaded.tokenizer, [blocks[1][2]])
    told = [
        plain_logprobs(loaded.model, context, answer).sum()
        for answer in answer_ids(loaded.tokenizer, workload.words)
    ]
    torch.testing.assert_close(naive[7 + 2], torch.stack(told).softmax(0), rtol=0, atol=1e-5)
    # And the rewards that follow.
    scores = score_afresh(workload, target, loaded.tokenizer, workload.prompts, workload.examples)()
    rewards = rewards_of(naive.split(7), workload, workload.examples)
    assert rewards == pytest.approx([score.reward for score in scores], abs=1e-5)


def test_what_must_be_read_and_what_padding_adds_by_hand() -> None:
    contexts = [[1, 2, 3], [1, 2, 4, 5]]
    short, long = [[7], [8]], [[7, 9, 9], [8]]

    assert [len(row.ids) for row in make_rows(contexts, short)] == [3, 4]
    assert [len(row.ids) for row in make_rows(contexts, long)] == [5, 3, 6, 4]
    # 1 2, then 3 and 4 5; logits behind 3 and 5.
    assert needed(contexts, short) == (5, 2)
    # Besides 7 9 behind each; logits there too.
    assert needed(contexts, long) == (9, 6)
    # One batch of two rows of 4; one of four rows of 6; two of their own of two rows.
    assert padded_tokens([contexts], short) == 8
    assert padded_tokens([contexts], long) == 24
    assert padded_tokens([contexts], long, batch_size=1) == 2 * 5 + 2 * 6


def test_buckets_are_as_large_as_the_limit_allows() -> None:
    rows = [Row([0] * length, []) for length in (1, 2, 2, 5, 5, 9)]

    found = [[len(row.ids) for row in batch] for batch in buckets(rows, 10)]

    # 3 x 2 fit and 4 x 5 do not; 2 x 5 fit and 3 x 9 do not.
    assert found == [[1, 2, 2], [5, 5], [9]]


def test_a_score_that_was_only_remembered_is_refused() -> None:
    remembering: Any = SimpleNamespace(ledger=SimpleNamespace(total_tokens=9))

    require_read(remembering, 9)
    with pytest.raises(RuntimeError, match="9 tokens were read where 10"):
        require_read(remembering, 10)


# --- learning ---


def make_rollout(agent: Any) -> Rollout:
    query = agent.query_ids([{"role": "user", "content": "Write a better instruction."}])
    written = agent.sample(query, torch.rand(3, 9, generator=torch.Generator().manual_seed(1)))
    policy = agent.evaluate(query, written.ids, written.mask, role=Role.POLICY)
    anchor = agent.evaluate(query, written.ids, written.mask, role=Role.ANCHOR)
    return Rollout(
        query_ids=query,
        response_ids=written.ids,
        mask=written.mask,
        old_logprobs=policy.logprobs,
        anchor_logprobs=anchor.logprobs,
        entropies=policy.entropies,
        old_values=policy.values,
        rewards=torch.tensor([0.1, 0.9, -0.5]),
    )


def test_the_unshared_update_learns_what_ours_learns() -> None:
    config = PPOConfig(ppo_epochs=2, minibatch_size=2, advantage="gae", learning_rate=1e-2)
    ours, control = make_agent(temperature=0.7), make_agent(temperature=0.7)
    for agent in (ours, control):
        disturb(agent.learned_parameters())
    rollout = make_rollout(ours)
    one, other = prepare_training(ours, 1e-2), prepare_training(control, 1e-2)
    speaker = Speaker(control.model, control.value_heads[Role.POLICY], control.temperature)
    logprobs, values = full_rows(speaker, rollout.query_ids, rollout.response_ids, rollout.mask)
    torch.testing.assert_close(logprobs, rollout.old_logprobs, rtol=0, atol=1e-5)
    torch.testing.assert_close(values, rollout.old_values, rtol=0, atol=1e-5)

    stats = ppo_update(one, rollout, config, seed=3)
    losses = unshared_update(speaker, other.optimizer, rollout, config, seed=3)

    assert len(losses) == 4  # two epochs of two minibatches
    assert sum(losses) / 4 == pytest.approx(stats.policy_loss, abs=1e-5)
    for mine, theirs in zip(ours.learned_parameters(), speaker.learned(), strict=True):
        # Adam divides by the size of the gradient, so rounding in a tiny one shows.
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-3)


def test_a_naive_step_with_three_copies_does_the_same_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STABLEPROMPT_DATA", raising=False)
    tiny = str(save_tiny_model(tmp_path / "model"))
    settings = {"agent": {"model": tiny, "max_prompt_tokens": 9}, "target": {"model": tiny}}
    settings |= {"device": "cpu", "dtype": "float32"}
    workload = load_workload(None, settings, num_prompts=3, num_examples=4)
    session = Session.of(workload, *load_models(workload.config))
    # What random weights write is babble; two of three shall pass.
    faults = [None, PromptFault.BABBLE, None]
    plain = Readability(0.0, 1, True)

    def inspect(responses: Responses, inputs: object = ()) -> list[Inspection]:
        return [Inspection(t, f, plain) for t, f in zip(responses.texts, faults, strict=True)]

    monkeypatch.setattr(session.guards, "inspect", inspect)
    rollout, candidates = session.step()
    loaded = session.agent.loaded
    copies = load_three_copies(
        tiny,
        session.save_adapters(tmp_path),
        loaded.tokenizer,
        loaded.end_of_turn_ids,
        device=loaded.device,
        dtype=torch.float32,
        temperature=session.agent.temperature,
    )
    optimizer = torch.optim.AdamW(copies.policy.learned(), lr=1e-3)
    laps: list[str] = []

    replay = replay_of(rollout, candidates)
    found = naive_step(copies, optimizer, workload, session.examples, replay, clock=laps.append)

    assert laps == ["writing", "evaluation", "scoring", "update"]
    assert torch.equal(found.response_ids, rollout.response_ids)
    torch.testing.assert_close(found.old_logprobs, rollout.old_logprobs, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.anchor_logprobs, rollout.anchor_logprobs, rtol=0, atol=1e-5)
    assert not torch.equal(found.old_logprobs, found.anchor_logprobs)  # else the two prove nothing
    torch.testing.assert_close(found.rewards, rollout.rewards, rtol=0, atol=1e-5)
    assert len(set(rollout.rewards.tolist())) == 3


# --- the report ---


def test_the_table_fits_a_terminal_and_leaves_out_what_was_not_measured() -> None:
    entry = {"median": 9.5, "min": 9.0, "max": 10.0, "n": 3, "unit": "x", "what": "", "met": True}
    results = {
        "scoring_fp32_vs_naive": {**entry, "target": ">= 8.0"},
        "update_vs_unshared": {**entry, "target": ">= 2.5", "met": False},
        "limits": {"update_vs_unshared": {"at_best": 5.25}},
        "checks": {"values": {"largest_difference": 1e-6, "allowed": 1e-4, "equal": True}},
    }

    lines = report.table(json.loads(json.dumps(results))).splitlines()

    assert max(map(len, lines)) <= 80
    assert lines[2].split()[-7:] == ["9.50", "9.00", "10.00", "3", ">=", "8.0", "yes"]
    assert lines[3].split()[-2:] == ["NO", "5.25"]
    assert not any("step" in line for line in lines)
