"""GEPA on our task and target: its search, our scores."""

from typing import Any

import pytest

from stableprompt.tasks.task import Task
from tests.fakes.word_agent import LABELS, LIKED, make_task
from tests.integrations.test_classifier import answer

gepa = pytest.importorskip("gepa", reason="gepa is not installed: the extra gepa")


def liking(messages: list[dict[str, str]]) -> str:
    """Right where the prompt has a word that is liked."""
    right = next(label for label in LABELS if label in messages[-1]["content"].split())
    wrong = next(label for label in LABELS if label != right)
    return right if set(messages[0]["content"].split()) & set(LIKED) else wrong


def search(task: Task, adapter: Any, reflect: Any) -> Any:
    return gepa.optimize(
        adapter.seed_candidate,
        trainset=list(task.train),
        valset=list(task.validation),
        adapter=adapter,
        reflection_lm=reflect,
        max_metric_calls=100,
    )


def test_a_liked_prompt_is_found_by_what_our_target_says() -> None:
    from stableprompt.integrations.gepa import TargetAdapter

    read: list[str] = []

    def reflect(prompt: str) -> str:
        read.append(prompt)
        return "```\nplease sort\n```"

    task = make_task()
    with TargetAdapter(task, target=liking) as adapter:
        found = search(task, adapter, reflect)
    assert found.best_candidate == {"prompt": "please sort"}
    assert found.val_aggregate_scores[found.best_idx] == 1.0
    # The reflection reads what was asked, said and right.
    assert task.seed_prompt in read[0]
    assert "The generated response is incorrect. The correct answer is 'red'" in read[0]


def test_an_example_without_an_answer_scores_0() -> None:
    from stableprompt.integrations.gepa import TargetAdapter

    task = make_task()
    broken = task.train[1]

    def speak(messages: list[dict[str, str]]) -> str:
        if broken.text in messages[-1]["content"]:
            raise ValueError("no")
        return answer(messages)

    target = {"model": speak, "api": {"attempts": 1, "longest_pause_seconds": 0.0}}
    with TargetAdapter(task, target=target) as adapter:
        batch = list(task.train[:4])
        found = adapter.evaluate(batch, {"prompt": "go"}, capture_traces=True)
    assert found.scores == [1.0, 0.0, 1.0, 1.0]
    assert found.outputs[1] == ""
    assert len(found.trajectories) == 4
