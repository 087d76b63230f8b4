"""A problem with a scripted target, and an agent that hits on a liked word now and then."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from stableprompt.config import RewardConfig, TargetConfig
from stableprompt.models.targets.interface import LabelScores
from stableprompt.scoring.ledger import Ledger
from stableprompt.scoring.scorer import Scorer
from stableprompt.studies.peers.problem import Problem
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import TargetTemplate
from tests.fakes.word_agent import LIKED, WORDS, ScriptedTarget, make_task


class Target(ScriptedTarget):
    """Likes or dislikes the instruction alone: demonstrations behind it change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[tuple[str, str]] = []

    def label_scores(
        self, conversations: Sequence[Sequence[dict[str, str]]], words: Sequence[Sequence[str]]
    ) -> LabelScores:
        self.read += [(system["content"], user["content"]) for system, user in conversations]
        cut = [
            [{**system, "content": system["content"].split("\n\n")[0]}, user]
            for system, user in conversations
        ]
        return super().label_scores(cut, words)


class Writer:
    """Three random words to every message, unmarked as of a small agent; each fourth is liked."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.read: list[str] = []

    def __call__(self, message: str) -> str:
        self.read.append(message)
        words = self.rng.choices(WORDS, k=3)
        return " ".join([*LIKED, words[0]] if self.rng.random() < 0.25 else words)


class Scene:
    """A problem, and what its target and its writer have seen."""

    def __init__(
        self,
        *,
        budget: int = 1000,
        seed: int = 0,
        task: Task | None = None,
        write: Callable[[str], str] | None = None,
    ) -> None:
        self.target, self.ledger = Target(), Ledger()
        self.task = task or make_task()
        self.writer: Any = write or Writer()
        self.scorer = Scorer(
            self.target,
            TargetTemplate("system", input_format="{text}"),
            self.task,
            self.ledger,
            answers=TargetConfig(max_answer_tokens=5),
            reward=RewardConfig(),
        )
        self.problem = Problem(
            self.task, seed, write=self.writer, scorer=self.scorer, budget=budget
        )
