"""A run on machines that are not here, planned from the forecast and the cost model."""

import json
from typing import Any

import pytest

from stableprompt.config import TuneConfig, make_config
from stableprompt.errors import ConfigError
from stableprompt.planning.plan import (
    DECISIONS,
    JUDGING,
    LEARNING,
    TARGET,
    WRITING,
    RunPlan,
    plan_run,
)
from stableprompt.planning.tokens import PaperCount, tokens_of, written_prompts
from stableprompt.scaling import memory
from stableprompt.scaling.machines import MachineOrder
from stableprompt.scaling.roles import WAITING
from stableprompt.scaling.shapes import SHAPES
from stableprompt.scaling.work import COMPUTE, LINKS, Held
from stableprompt.tasks.bundled_tasks import load_bundled
from stableprompt.tasks.task import Task
from stableprompt.tuning.forecast import most_calls

TASK = load_bundled("support")
LARGE = {"target_on": "8xh200", "agent_size": "llama-3-8b", "target_size": "llama-3-405b"}
OPENAI = {"model": "openai/gpt-4o-mini", "api": {"price_read": 2.0, "price_written": 8.0}}


def plan(task: Task = TASK, on: str = "h100", order: Any = None, **settings: Any) -> RunPlan:
    return plan_run(task, make_config(settings), MachineOrder(on, **(order or LARGE)))


def seconds(found: RunPlan, part: str) -> float:
    return sum(found.seconds[part].values())


def test_calls_are_those_of_the_forecast_and_within_what_is_possible() -> None:
    found = plan()
    assert found.at_most == most_calls(TASK, TuneConfig()).total
    assert sum(found.calls.values()) <= found.at_most
    # All prompts differ and none is refused: 16 on 8 examples in 10 steps, and the seed prompt.
    assert 1280 < found.calls["training"] <= 1360
    assert found.calls["test"] == 2 * len(TASK.test)
    assert plan(budget=800).steps < found.steps == 10


def test_the_size_of_the_target_changes_neither_calls_nor_the_agents_time() -> None:
    small, large = plan(order={**LARGE, "target_size": "llama-3-8b"}), plan()
    assert small.calls == large.calls
    assert small.tokens == large.tokens
    for part in (WRITING, JUDGING, LEARNING, DECISIONS):
        assert small.seconds[part] == large.seconds[part]
    # The products are in proportion to the parameters, but for attention and the output layer.
    ratio = large.seconds[TARGET][COMPUTE] / small.seconds[TARGET][COMPUTE]
    sizes = SHAPES["llama-3-405b"].linear_parameters / SHAPES["llama-3-8b"].linear_parameters
    assert ratio == pytest.approx(sizes, rel=0.05)


def test_more_servers_take_less_time() -> None:
    api = {"api": {"concurrency": 64}}
    one, four = (plan(order={**LARGE, "replicas": n}, target=api) for n in (1, 4))
    assert seconds(four, TARGET) == pytest.approx(seconds(one, TARGET) / 4, rel=0.02)
    assert four.machine_dollars == pytest.approx((3 + 4 * 8 * 4) * four.total_seconds / 3600)


def test_devices_of_the_agent_share_its_prompts() -> None:
    one, four = plan(), plan(on="4xh100")
    for part in (WRITING, JUDGING, LEARNING):
        assert seconds(one, part) / 4 < seconds(four, part) < seconds(one, part)
    assert any("hold the agent each" in note for note in four.notes)
    assert not any("hold the agent each" in note for note in one.notes)


def test_devices_that_hold_the_agent_together_hold_less_and_fetch_the_rest() -> None:
    large = {**LARGE, "agent_size": "llama-3-70b"}
    whole = plan(on="2xh200", order=large)
    split = plan(on="2xh200", order={**large, "split": True})
    assert not whole.fits
    assert split.fits
    shape = SHAPES["llama-3-70b"]
    linear = 2.0 * shape.linear_parameters
    kept = 2.0 * shape.parameters - linear + linear / 2 + 3 * linear / 80  # 80 layers, three whole
    assert split.memory[0].lasting["agent"] == pytest.approx(kept)
    for part in (WRITING, JUDGING, LEARNING):
        assert split.seconds[part][LINKS] > whole.seconds[part][LINKS]
    assert split.bottleneck == (WRITING, LINKS)  # all weights for every token
    assert split.seconds[TARGET] == whole.seconds[TARGET]
    assert any("hold the agent together" in note for note in split.notes)


def test_a_target_that_is_the_split_agent_is_fetched_too() -> None:
    sizes = {"agent_size": "qwen2.5-7b", "target_size": "qwen2.5-7b"}
    whole, split = (plan(on="2xh100", order={**sizes, "split": s}) for s in (False, True))
    assert whole.seconds[TARGET][LINKS] == 0
    assert split.seconds[TARGET][LINKS] > 0
    [apart] = plan(on="2xh100", order={**sizes, "split": True, "target_size": "yi-1.5-9b"}).memory
    assert apart.lasting["target"] == 2 * SHAPES["yi-1.5-9b"].parameters  # held whole by each


def test_one_checkpoint_held_alike_is_one_copy() -> None:
    order = {"agent_size": "qwen2.5-7b", "target_size": "qwen2.5-7b"}
    [alike] = plan(order=order).memory
    [apart] = plan(order=order, target={"dtype": "float32"}).memory
    assert "target" not in alike.lasting
    assert apart.lasting["target"] == memory.weights(Held(SHAPES["qwen2.5-7b"], 4.0))
    [other] = plan(order={**order, "target_size": "yi-1.5-9b"}).memory
    assert other.lasting["target"] == 2 * SHAPES["yi-1.5-9b"].parameters


def test_the_check_of_a_target_in_4_bits_needs_its_full_weights() -> None:
    order = {"agent_size": "qwen2.5-7b", "target_size": "qwen2.5-7b"}
    [checked] = plan(on="rtx-4090", order=order, quantize="4bit").memory
    unchecked = plan(on="rtx-4090", order=order, quantize="4bit", target={"check_labels": False})
    assert checked.passing["checking labels"] > 4 * SHAPES["qwen2.5-7b"].parameters
    assert not checked.fits
    assert unchecked.fits
    assert "checking labels" not in unchecked.memory[0].passing


def test_a_minibatch_that_does_not_fit_is_learned_from_in_parts() -> None:
    order = {"agent_size": "llama-3-8b", "target_size": "llama-3-8b"}
    whole, parts = plan(order=order), plan(on="rtx-4090", order=order)
    assert whole.rows_at_once == 24
    assert parts.rows_at_once is not None
    assert 0 < parts.rows_at_once < 24
    assert parts.fits
    none = plan(on="rtx-4090", order={**order, "agent_size": "llama-3-70b"})
    assert (none.rows_at_once, none.fits) == (0, False)


def test_a_target_elsewhere_costs_tokens_and_no_memory() -> None:
    found = plan(order={"agent_size": "1b"}, target=OPENAI)
    read = sum(usage.read for usage in found.tokens.values())
    written = sum(usage.written for usage in found.tokens.values())
    assert found.token_dollars == pytest.approx((2 * read + 8 * written) / 1e6)
    assert found.target_parameters is None
    assert len(found.memory) == 1
    assert list(found.seconds[TARGET]) == [WAITING]
    # A second a call, 8 at once.
    assert seconds(found, TARGET) == pytest.approx(sum(found.calls.values()) / 8, rel=0.02)


def test_what_is_not_learned_takes_no_time_and_no_memory() -> None:
    found = plan(method="best-of-n")
    assert LEARNING not in found.seconds
    assert "learning" not in found.memory[0].passing
    assert found.rows_at_once is None
    assert plan(method="seed").steps == 0


def test_the_bottleneck_is_the_part_that_takes_longest() -> None:
    found = plan(target={"api": {"concurrency": 1}})
    part, limit = found.bottleneck
    assert part == TARGET
    assert seconds(found, part) == max(sum(p.values()) for p in found.seconds.values())
    assert found.seconds[part][limit] == max(found.seconds[part].values())
    assert found.total_seconds == pytest.approx(sum(seconds(found, p) for p in found.seconds))


def test_free_answers_are_written() -> None:
    rows = [{"text": f"Say {i}.", "label": "yes " * 10} for i in range(60)]
    task = Task.from_records(rows, kind="generation", seed_prompt="Repeat.")
    served, here = plan(task), plan(task, order={"agent_size": "1b", "target_size": "1b"})
    for found in (served, here):
        each = {u.written / found.calls[p] for p, u in found.tokens.items() if u.written}
        assert each == {10.0}
        assert "checking labels" not in found.memory[0].passing
    labels = plan(order={"agent_size": "1b", "target_size": "1b"})
    assert sum(usage.written for usage in labels.tokens.values()) == 0


def test_a_plan_is_plain_data() -> None:
    told = json.loads(json.dumps(plan().to_dict()))
    assert told["fits"] is True
    assert told["memory"][1]["needed"] < told["memory"][1]["size"]
    assert told["bottleneck"] == list(plan().bottleneck)


@pytest.mark.parametrize(
    ("order", "told"),
    [
        ({"replicas": 2}, "2 replicas of what"),
        ({"agent_size": "some/model-of-mine"}, "is not known"),
        ({"target_on": "8xtpu"}, "'8xtpu' is not known"),
        ({**LARGE, "split": True}, "is to be split, and there is one device, h100"),
    ],
)
def test_what_cannot_be_planned_is_refused(order: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        plan(order=order)


# --- tokens ---


def test_tokens_by_hand() -> None:
    assert [tokens_of(text) for text in ("", "abcd", "abcde")] == [0, 1, 2]
    [one, two] = TASK.train[:2]
    pairs = [("a" * 40, one), ("a" * 40, two), ("b" * 40, one)]
    inputs = sum(tokens_of(example.text) + 7 for example in (one, two, one))
    config = make_config()
    apart = PaperCount(TASK, config, shared=False, answer=0.0)(pairs)
    shared = PaperCount(TASK, config, shared=True, answer=2.0)(pairs)
    assert apart.read == inputs + 3 * 17
    assert (shared.read, shared.written) == (inputs + 2 * 17, 6)
    first = make_config({"target": {"order": "input_first", "position": "user"}})
    turned = PaperCount(TASK, first, shared=True, answer=0.0)(pairs)
    whole = PaperCount(TASK, first, shared=False, answer=0.0)(pairs)
    assert whole.read - turned.read == tokens_of(one.text) + 7  # its second appearance


def test_stand_ins_of_prompts_differ_and_have_the_length_of_the_cap() -> None:
    prompts = written_prompts(make_config({"agent": {"max_prompt_tokens": 25}}))
    assert len(set(prompts)) == 16
    assert {tokens_of(prompt) for prompt in prompts} == {25}


def test_a_server_is_paid_by_the_hour_and_counts_what_it_is_sent() -> None:
    here = plan(order={"agent_size": "1b", "target_size": "llama-3-405b"})
    served, priced = plan(), plan(target=OPENAI)
    for found in (served, priced):
        assert found.token_dollars == 0
        # A label's probabilities are those of one token.
        assert all(usage.written == found.calls[name] for name, usage in found.tokens.items())
    # In this process the prompts are read once for all 8 examples of a step.
    assert served.tokens["training"].read > 1.5 * here.tokens["training"].read
