"""Score a prompt: send it to the target with examples, and read what comes back."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stableprompt.config import RewardConfig, TargetConfig
from stableprompt.errors import ModelError
from stableprompt.models.targets.interface import TargetLLM
from stableprompt.scoring.answers import extract_answer
from stableprompt.scoring.judge import Judge
from stableprompt.scoring.ledger import Ledger, Purpose
from stableprompt.scoring.reward import best_words, prompt_reward, softmax_difference
from stableprompt.tasks.example import Example, TaskKind
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import TargetTemplate


@dataclass(frozen=True, slots=True)
class PromptScore:
    """What the target made of one prompt on given examples."""

    score: float
    """By the task's metric, 0-1."""
    softmax_difference: float | None
    """Mean over the examples, in [-1, 1]; None where answers are generated."""
    reward: float
    """The two, weighted (eq. 13)."""
    values: tuple[float, ...]
    """What each example is worth, 0-1; for right or wrong 1 or 0."""
    predictions: tuple[str, ...]
    """Label, choice or generated answer of each example; "" for a tie or no answer."""


class Scorer:
    """Scores prompts on examples, and counts what that costs.

    Args:
        target: The frozen LLM that follows the prompt.
        template: How prompt and input become its messages.
        task: What may be answered, and the metric.
        ledger: Where calls and tokens are counted.
        answers: How a generated answer is read; its ``max_answer_tokens`` is set.
        reward: The two weights of eq. 13.
        judge: Rates generated answers, where the metric is a judge's.
    """

    def __init__(
        self,
        target: TargetLLM,
        template: TargetTemplate,
        task: Task,
        ledger: Ledger,
        *,
        answers: TargetConfig,
        reward: RewardConfig,
        judge: Judge | None = None,
    ) -> None:
        self.ledger = ledger
        self.template = template
        self._target = target
        self._task = task
        self._answers = answers
        self._reward = reward
        self._judge = judge

    def score(self, prompt: str, examples: Sequence[Example], purpose: Purpose) -> PromptScore:
        """Score one prompt.

        Args:
            prompt: As it will be shipped; exactly this is sent.
            examples: At least one.
            purpose: For the ledger.
        """
        difference: float | None = None
        if self._task.kind is TaskKind.GENERATION:
            predictions = self._generated(prompt, examples, purpose)
        else:
            predictions, difference = self._chosen(prompt, examples, purpose)
        values = self._values(examples, predictions)
        score = self._task.metric.score(examples, predictions, values)
        reward = prompt_reward(
            score,
            difference or 0.0,
            accuracy_weight=self._reward.accuracy_weight,
            softmax_weight=self._reward.softmax_weight,
        )
        return PromptScore(score, difference, reward, tuple(values), tuple(predictions))

    def _values(self, examples: Sequence[Example], predictions: Sequence[str]) -> list[float]:
        if self._judge is None:
            metric = self._task.metric
            return [metric.value(e, p) for e, p in zip(examples, predictions, strict=True)]
        ratings = self._judge.rate(examples, predictions)
        self.ledger.add_judge(calls=ratings.calls, tokens=ratings.tokens)
        return ratings.values

    def _conversations(
        self, prompt: str, examples: Sequence[Example]
    ) -> list[list[dict[str, str]]]:
        return [self.template.messages(prompt, example) for example in examples]

    def _chosen(
        self, prompt: str, examples: Sequence[Example], purpose: Purpose
    ) -> tuple[list[str], float]:
        """The most probable answer to each example, and the mean softmax difference."""
        words = [self._task.answer_words(example) for example in examples]
        scores = self._target.label_scores(self._conversations(prompt, examples), words)
        if not scores.label_probs.isfinite().all():
            raise ModelError(
                f"the target {self._target.name!r} gave probabilities that are not finite; use "
                "--set dtype=float32, or another target"
            )
        self.ledger.add_target(purpose, calls=len(examples), tokens=scores.num_tokens)
        names = [self._task.labels or example.choices for example in examples]
        chosen = best_words(scores.label_probs)
        predictions = ["" if c is None else own[c] for c, own in zip(chosen, names, strict=True)]
        right = self._right(examples, names, scores.label_probs.shape[1])
        difference = softmax_difference(scores.label_probs, right).double().mean()
        return predictions, float(difference)

    @staticmethod
    def _right(examples: Sequence[Example], names: Sequence[Sequence[str]], width: int) -> Tensor:
        """Which answers are correct, (N, C)."""
        right = torch.zeros(len(examples), width, dtype=torch.bool)
        for row, (example, own) in enumerate(zip(examples, names, strict=True)):
            for answer in example.answers:
                right[row, own.index(answer)] = True
        return right

    def _generated(self, prompt: str, examples: Sequence[Example], purpose: Purpose) -> list[str]:
        settings = self._answers
        assert settings.max_answer_tokens is not None
        answers = self._target.generate(
            self._conversations(prompt, examples), settings.max_answer_tokens
        )
        self.ledger.add_target(purpose, calls=len(examples), tokens=answers.num_tokens)
        return [
            extract_answer(text, lines=settings.answer_lines, after=settings.answer_after)
            for text in answers.texts
        ]
