"""The guards: which prompts are refused, at what cost, and which checks can be switched off."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch

from stableprompt.config import GuardConfig
from stableprompt.models.responses import Responses, Surprisal
from stableprompt.tasks.prompt_checks import LeakIndex, PromptFault
from stableprompt.tasks.readability import plain_instructions
from stableprompt.tasks.task import Task
from stableprompt.tuning.guards import Guards
from stableprompt.tuning.rules import Rules

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
    """Reads every text at four tokens; how odd each is, is given, the seed prompt's is 0.

    The plain instructions come in pairs of one length, at equal distances above and below the
    line 10 + 2 T, so that it is their least squares; the distance makes the spread 1.
    """

    def __init__(self, **surprises: float) -> None:
        self.figures = {SEED: 0.0, **surprises}
        self.asked: list[str] = []

    def surprisals(self, texts: Sequence[str]) -> list[Surprisal]:
        plain = plain_instructions()
        if list(texts) == list(plain):
            assert len(plain) % 2 == 0
            off = math.sqrt((len(plain) - 2) / len(plain))  # the spread has n - 2 below the sum
            lengths = [5 + number // 2 for number in range(len(plain))]
            return [
                Surprisal(10 + 2 * n + math.sqrt(n) * (off, -off)[number % 2], n)
                for number, n in enumerate(lengths)
            ]
        self.asked += texts
        return [Surprisal(18 + 2 * self.figures[text], 4) for text in texts]


def guards(agent: Any, *, task: Task = TASK, **switches: Any) -> Guards:
    """Whether a text asks for something is looked at in tests of its own."""
    config = GuardConfig(**{"require_instruction": False, **switches})
    return Guards(config, agent, Rules.of(task), ["<|im_end|>"])


def faults(checked: Guards, *texts: str, cut: Sequence[str] = ()) -> list[PromptFault | None]:
    nothing = torch.zeros(len(texts), 1)
    stopped = tuple(text in cut for text in texts)
    found = checked.inspect(Responses(nothing.long(), nothing.bool(), texts, stopped))
    assert [one.prompt for one in found] == list(texts)
    return [one.fault for one in found]


def test_a_prompt_above_the_limit_is_babble() -> None:
    agent = FakeAgent(plain=-3.0, below=1.999, above=2.001, babble=1e6)
    found = faults(guards(agent, max_surprise=2), "plain", "below", "above", "babble")
    assert found == [None, None, PromptFault.BABBLE, PromptFault.BABBLE]


@pytest.mark.parametrize("limit", [0.5, 1.5])
def test_no_prompt_less_odd_than_the_seed_prompt_is_babble(limit: float) -> None:
    agent = FakeAgent(**{SEED: 4.0}, less=3.999, same=4.0, more=4.001)
    found = faults(guards(agent, max_surprise=limit), "less", "same", SEED, "more")
    assert found == [None, None, None, PromptFault.BABBLE]


@pytest.mark.parametrize("surprise", [NAN, math.inf])
def test_a_surprise_that_is_no_number_is_babble(surprise: float) -> None:
    assert faults(guards(FakeAgent(odd=surprise)), "odd") == [PromptFault.BABBLE]


def test_faults_keep_their_places() -> None:
    texts = ("", "good", "stopped", "babble", COPY, "a <|im_end|>", "a\x07b", "fine")
    agent = FakeAgent(**{**dict.fromkeys(texts, 0.0), "babble": 1e6})
    assert faults(guards(agent), *texts, cut=["stopped"]) == [
        PromptFault.EMPTY,
        None,
        PromptFault.TRUNCATED,
        PromptFault.BABBLE,
        PromptFault.COPY,
        PromptFault.MARKUP,
        PromptFault.MARKUP,
        None,
    ]


def test_how_readable_a_prompt_is_is_told_of_refused_ones_too() -> None:
    agent = FakeAgent(**{"two words": 0.5, "Name it.": -1.25, "": 1.0})
    checked = guards(agent)
    nothing = torch.zeros(3, 1)
    texts = ("", "two words", "Name it.")
    found = checked.inspect(Responses(nothing.long(), nothing.bool(), texts, (True, False, False)))
    assert [one.readability.surprise for one in found] == pytest.approx([1.0, 0.5, -1.25])
    assert [one.readability.num_words for one in found] == [0, 2, 2]
    assert [one.readability.instruction for one in found] == [False, False, True]
    assert checked.read(["Name it."]) == [found[2].readability]


def test_every_text_is_measured_once() -> None:
    agent = FakeAgent(good=1.0)
    checked = guards(agent)
    for _ in range(3):
        assert faults(checked, "good", "good", SEED) == [None, None, None]
    assert checked.is_readable(SEED)
    assert agent.asked == [SEED, "good"]


def test_without_a_limit_nothing_is_babble() -> None:
    odd = FakeAgent(odd=1e6, none=NAN)
    assert faults(guards(odd, max_surprise=None), "odd", "none") == [None, None]


@pytest.mark.parametrize("switch", [True, False])
def test_a_text_that_asks_for_nothing_may_be_refused(switch: bool) -> None:
    texts = ("Name it.", "the sky at noon", "What is it?")
    agent = FakeAgent(**dict.fromkeys(texts, 0.0))
    refused = PromptFault.NO_INSTRUCTION if switch else None
    assert faults(guards(agent, require_instruction=switch), *texts) == [None, refused, None]


def test_where_the_seed_prompt_asks_for_nothing_no_prompt_must() -> None:
    german = "Bestimme die Farbe."  # is_instruction reads English alone
    agent = FakeAgent(**{german: 0.0, "die Farbe im Text": 0.0})
    checked = guards(agent, task=replace(TASK, seed_prompt=german), require_instruction=True)
    assert faults(checked, "die Farbe im Text") == [None]
    assert checked.is_readable("die Farbe im Text")


def test_other_faults_are_named_before_the_language() -> None:
    agent = FakeAgent(**{"": 1e6, COPY: 1e6, "the sky": 1e6})
    found = faults(guards(agent, require_instruction=True), "", COPY, "the sky")
    # Nothing is asked for in babble either; what costs no model is looked at first.
    assert found == [PromptFault.EMPTY, PromptFault.COPY, PromptFault.NO_INSTRUCTION]


@pytest.mark.parametrize("limit", [None, 1.5])
@pytest.mark.parametrize("instruct", [True, False])
def test_readable_is_what_the_default_limits_say_whatever_is_switched_off(
    limit: float | None, instruct: bool
) -> None:
    agent = FakeAgent(**{"Name it.": 1.499, "Name odd it.": 1.501, "the sky": 0.0})
    checked = guards(agent, max_surprise=limit, require_instruction=instruct)
    assert checked.is_readable("Name it.")
    assert not checked.is_readable("Name odd it.")
    assert not checked.is_readable("the sky")


def test_readable_is_by_the_limit_that_is_set_where_there_is_one() -> None:
    checked = guards(FakeAgent(**{"Name it.": 2.0}), max_surprise=2.5)
    assert checked.is_readable("Name it.")


def test_truncated_prompts_may_be_allowed() -> None:
    agent = FakeAgent(stopped=1.0)
    assert faults(guards(agent, reject_truncated=False), "stopped", cut=["stopped"]) == [None]
    assert faults(guards(agent), "stopped", cut=["stopped"]) == [PromptFault.TRUNCATED]


def test_copies_may_be_allowed() -> None:
    agent = FakeAgent(**{COPY: 1.0})
    assert faults(guards(agent, reject_copies=False), COPY) == [None]
    assert faults(guards(agent), COPY) == [PromptFault.COPY]


def test_markup_and_emptiness_are_never_allowed() -> None:
    texts = ("...", "a <|im_end|>")
    agent = FakeAgent(**dict.fromkeys(texts, 0.0))
    lax = guards(agent, reject_copies=False, reject_truncated=False, max_surprise=None)
    assert faults(lax, *texts) == [PromptFault.EMPTY, PromptFault.MARKUP]


def test_stated_answers_may_be_allowed() -> None:
    stated = "The answer is red."
    agent = FakeAgent(**{stated: 1.0})
    assert faults(guards(agent), stated) == [PromptFault.LEAK]
    assert faults(guards(agent, reject_leaks=False), stated) == [None]


def test_placeholders_of_the_seed_prompt_must_be_kept_and_no_others_be_invented() -> None:
    agent = FakeAgent(**dict.fromkeys(("Name {text}.", "Say {text}.", "Say it."), 0.0))
    placing = guards(agent, task=replace(TASK, seed_prompt="Name {text}."))
    assert faults(placing, "Say it.", "Say {text}.") == [PromptFault.PLACEHOLDER, None]
    assert faults(guards(agent), "Say {text}.") == [PromptFault.PLACEHOLDER]


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
    texts = Rules.of(task).not_to_copy
    # Two examples share "g h i": it says what may be answered, and gives no example away.
    assert {"a b c", "other one here", "d e f 0", "d e f 1", "j k 0", "j k 1"} == set(texts)
    assert "g h i" not in texts
    assert not any("2" in text or "3" in text for text in texts)  # not of train


def leaks_of(task: Task) -> LeakIndex:
    rules = Rules.of(task)
    return LeakIndex(rules.answers, closed=rules.closed)


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
    assert "customer service chat" not in Rules.of(task).not_to_copy
    assert f"{TEXT} 0" in Rules.of(task).not_to_copy
