"""The guards: which prompts are refused, at what cost, and which checks can be switched off."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import torch

from stableprompt.config import GuardConfig
from stableprompt.models.agent import Responses
from stableprompt.tasks.prompt_checks import PromptFault
from stableprompt.tasks.task import Task
from stableprompt.tuning.guards import Guards, leaks_of, texts_not_to_copy

SEED = "Name the colour."
TEXT = "the delivery came two days late and nobody called"
COPY = f"Like this: {TEXT}"
NAN = float("nan")
ROWS = [
    {"text": f"{TEXT} {i}", "label": label, "split": split}
    for i, (split, label) in enumerate(product(("train", "validation", "test"), ("red", "green")))
]
TASK = Task.from_records(ROWS, seed_prompt=SEED)


class FakeAgent:
    """Gives fixed perplexities; the seed prompt's is 20."""

    def __init__(self, **figures: float) -> None:
        self.figures = {SEED: 20.0, **figures}
        self.asked: list[str] = []

    def perplexities(self, texts: Sequence[str]) -> list[float]:
        self.asked += texts
        return [self.figures[text] for text in texts]


def guards(agent: Any, **switches: Any) -> Guards:
    return Guards(GuardConfig(**switches), agent, TASK, ["<|im_end|>"])


def responses(*texts: str, cut: Sequence[str] = ()) -> Responses:
    nothing = torch.zeros(len(texts), 1)
    return Responses(nothing.long(), nothing.bool(), texts, tuple(text in cut for text in texts))


def test_the_limit_is_the_ratio_times_the_seed_prompts_perplexity() -> None:
    agent = FakeAgent(plain=20.0, edge=60.0, above=60.1, babble=1e6)
    found = guards(agent, max_perplexity_ratio=3).faults(
        responses("plain", "edge", "above", "babble")
    )
    assert found == [None, None, PromptFault.BABBLE, PromptFault.BABBLE]


@pytest.mark.parametrize("perplexity", [NAN, float("inf")])
def test_a_perplexity_that_is_no_number_is_babble(perplexity: float) -> None:
    assert guards(FakeAgent(odd=perplexity)).faults(responses("odd")) == [PromptFault.BABBLE]


def test_faults_keep_their_places() -> None:
    agent = FakeAgent(good=1.0, fine=2.0, babble=1e6)
    texts = ("", "good", "stopped", "babble", COPY, "a <|im_end|>", "a\x07b", "fine")
    assert guards(agent).faults(responses(*texts, cut=["stopped"])) == [
        PromptFault.EMPTY,
        None,
        PromptFault.TRUNCATED,
        PromptFault.BABBLE,
        PromptFault.COPY,
        PromptFault.MARKUP,
        PromptFault.MARKUP,
        None,
    ]


def test_refused_prompts_get_no_perplexity_call() -> None:
    agent = FakeAgent(good=1.0)
    guards(agent).faults(responses("", "stopped", "good", COPY, cut=["stopped"]))
    assert agent.asked == [SEED, "good"]


def test_every_perplexity_is_asked_once() -> None:
    agent = FakeAgent(good=1.0)
    checked = guards(agent)
    for _ in range(3):
        assert checked.faults(responses("good", "good")) == [None, None]
    assert agent.asked == [SEED, "good"]


def test_without_a_ratio_no_perplexity_is_asked_at_all() -> None:
    agent = FakeAgent()
    assert guards(agent, max_perplexity_ratio=None).faults(responses("anything")) == [None]
    assert agent.asked == []


def test_truncated_prompts_may_be_allowed() -> None:
    cut = responses("stopped", cut=["stopped"])
    assert guards(FakeAgent(stopped=1.0), reject_truncated=False).faults(cut) == [None]
    assert guards(FakeAgent(stopped=1.0)).faults(cut) == [PromptFault.TRUNCATED]


def test_copies_may_be_allowed() -> None:
    agent = FakeAgent(**{COPY: 1.0})
    assert guards(agent, reject_copies=False).faults(responses(COPY)) == [None]
    assert guards(agent).faults(responses(COPY)) == [PromptFault.COPY]


def test_markup_and_emptiness_are_never_allowed() -> None:
    lax = guards(
        FakeAgent(), reject_copies=False, reject_truncated=False, max_perplexity_ratio=None
    )
    assert lax.faults(responses("...", "a <|im_end|>")) == [PromptFault.EMPTY, PromptFault.MARKUP]


def test_stated_answers_may_be_allowed() -> None:
    stated = "The answer is red."
    agent = FakeAgent(**{stated: 1.0})
    assert guards(agent).faults(responses(stated)) == [PromptFault.LEAK]
    assert guards(agent, reject_leaks=False).faults(responses(stated)) == [None]


def test_placeholders_of_the_seed_prompt_must_be_kept_and_no_others_be_invented() -> None:
    agent = FakeAgent(**{"Name {text}.": 20.0, "Say {text}.": 1.0})
    placing = Task.from_records(ROWS, seed_prompt="Name {text}.")
    checked = Guards(GuardConfig(), agent, placing, [])  # type: ignore[arg-type]
    lost, kept = checked.faults(responses("Say it.", "Say {text}."))
    assert (lost, kept) == (PromptFault.PLACEHOLDER, None)
    assert guards(agent).faults(responses("Say {text}.")) == [PromptFault.PLACEHOLDER]


def test_fields_and_references_of_train_must_not_be_copied() -> None:
    rows = [
        {"q": "a b c", "hint": f"d e f {i}", "answer": ["g h i", f"j k {i}"], "split": split}
        for i, split in enumerate(("train", "train", "validation", "test"))
    ]
    task = Task.from_records(
        [*rows[1:], {**rows[0], "q": "other one here"}],
        text=["q", "hint"],
        label="answer",
        kind="generation",
    )
    texts = texts_not_to_copy(task)
    # Two examples share "g h i": it says what may be answered, and gives no example away.
    assert {"a b c", "other one here", "d e f 0", "d e f 1", "j k 0", "j k 1"} == set(texts)
    assert "g h i" not in texts
    assert not any("2" in text or "3" in text for text in texts)  # not of train


def test_the_answers_of_each_kind_that_must_not_be_stated() -> None:
    assert leaks_of(TASK).is_stated_in("Output: green")
    rows = [
        {"q": f"{s} {i}", "options": ["x", "y"], "label": 0, "split": s}
        for s in ("train", "validation", "test")
        for i in range(2)
    ]
    choice = leaks_of(Task.from_records(rows, text="q"))
    assert choice.is_stated_in("The answer is B.")
    assert not choice.is_stated_in("The answer is x.")
    free = [{"q": r["q"], "label": "dark blue", "split": r["split"]} for r in rows]
    task = Task.from_records(free, text="q", kind="generation")
    assert leaks_of(task).is_stated_in("The answer is dark blue.")
    assert not leaks_of(task).is_stated_in("The answer is dark blue or red.")


def test_a_field_that_all_examples_share_may_be_named_by_a_prompt() -> None:
    rows = [{**row, "topic": "customer service chat"} for row in ROWS]
    task = Task.from_records(rows, text=["topic", "text"], label="label", seed_prompt=SEED)
    assert "customer service chat" not in texts_not_to_copy(task)
    assert f"{TEXT} 0" in texts_not_to_copy(task)
