"""Score prompts: send them to the target with examples, and read what comes back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from stableprompt.config import RewardConfig, TargetConfig
from stableprompt.errors import ModelError
from stableprompt.models.targets.interface import TargetLLM
from stableprompt.scoring.answers import extract_answer
from stableprompt.scoring.judge import Judge
from stableprompt.scoring.ledger import Ledger, Purpose
from stableprompt.scoring.memo import PairMemo
from stableprompt.scoring.reward import best_words, prompt_reward, softmax_difference
from stableprompt.tasks.example import Example, TaskKind
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import Message, TargetTemplate


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
    rewards: tuple[float, ...]
    """What each example earns: its value and its softmax difference, weighted as in the reward."""
    predictions: tuple[str, ...]
    """Label, choice or generated answer of each example; "" for a tie or no answer."""


class Scorer:
    """Scores prompts on examples, each pair once, and counts what that costs.

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
        self.memo = PairMemo()
        self.template = template
        self._target = target
        self._task = task
        self._answers = answers
        self._reward = reward
        self.judge = judge

    @contextmanager
    def nothing_known(self) -> Iterator[None]:
        """Ask everything anew in this block, and forget it: for what a use would cost."""
        memo, self.memo = self.memo, PairMemo()
        try:
            yield
        finally:
            self.memo = memo

    def score(self, prompt: str, examples: Sequence[Example], purpose: Purpose) -> PromptScore:
        """Score one prompt; see ``score_all``."""
        [score] = self.score_all([prompt], examples, purpose)
        return score

    def score_all(
        self, prompts: Sequence[str], examples: Sequence[Example], purpose: Purpose
    ) -> list[PromptScore]:
        """Score several prompts on the same examples; see ``score_each``."""
        return self.score_each([(prompt, examples) for prompt in prompts], purpose)

    def score_each(
        self, asked: Sequence[tuple[str, Sequence[Example]]], purpose: Purpose
    ) -> list[PromptScore]:
        """Score prompts, each on examples of its own, in one plan: what they share is read once.

        Args:
            asked: Prompts as they will be shipped, exactly these are sent; and for each at least
                one example.
            purpose: For the ledger.
        """
        pairs = [(prompt, example) for prompt, examples in asked for example in examples]
        conversations = [self.template.messages(prompt, example) for prompt, example in pairs]
        differences: list[float] | None = None
        if self._task.kind is TaskKind.GENERATION:
            predictions = self._generated(conversations, purpose)
        else:
            found = self._chosen(conversations, [example for _, example in pairs], purpose)
            predictions, differences = found[0], found[1].double().tolist()
        scores, start = [], 0
        for _, examples in asked:
            part = slice(start, start + len(examples))
            start = part.stop
            own = differences[part] if differences is not None else None
            scores.append(self._score(examples, predictions[part], own))
        return scores

    def _score(
        self, examples: Sequence[Example], predictions: list[str], differences: list[float] | None
    ) -> PromptScore:
        values = self._values(examples, predictions)
        score = self._task.metric.score(examples, predictions, values)
        mean = None if differences is None else sum(differences) / len(differences)
        each = zip(values, differences or [0.0] * len(values), strict=True)
        return PromptScore(
            score,
            mean,
            self._weighted(score, mean or 0.0),
            tuple(values),
            tuple(self._weighted(value, difference) for value, difference in each),
            tuple(predictions),
        )

    def _weighted(self, score: float, difference: float) -> float:
        return prompt_reward(
            score,
            difference,
            accuracy_weight=self._reward.accuracy_weight,
            softmax_weight=self._reward.softmax_weight,
        )

    def _values(self, examples: Sequence[Example], predictions: Sequence[str]) -> list[float]:
        if self.judge is None:
            metric = self._task.metric
            return [metric.value(e, p) for e, p in zip(examples, predictions, strict=True)]
        ratings = self.judge.rate(examples, predictions)
        self.ledger.add_judge(calls=ratings.calls, tokens=ratings.tokens)
        return ratings.values

    def _chosen(
        self, conversations: list[list[Message]], examples: Sequence[Example], purpose: Purpose
    ) -> tuple[list[str], Tensor]:
        """The most probable answer in each conversation, and the softmax differences, (N,)."""
        words = [self._task.answer_words(example) for example in examples]

        def ask(numbers: list[int]) -> list[list[float]]:
            scores = self._target.label_scores(
                [conversations[n] for n in numbers], [words[n] for n in numbers]
            )
            if not scores.label_probs.isfinite().all():
                raise ModelError(
                    f"the target {self._target.name!r} gave probabilities that are not finite; use "
                    "--set target.dtype=float32, or another target"
                )
            self.ledger.add_target(purpose, calls=len(numbers), tokens=scores.num_tokens)
            rows = scores.label_probs.tolist()
            return [row[: len(words[n])] for n, row in zip(numbers, rows, strict=True)]

        questions = [[c, list(own)] for c, own in zip(conversations, words, strict=True)]
        known = [torch.tensor(row) for row in self.memo.ask(questions, ask)]
        label_probs = pad_sequence(known, batch_first=True)
        names = [self._task.labels or example.choices for example in examples]
        chosen = best_words(label_probs)
        predictions = ["" if c is None else own[c] for c, own in zip(chosen, names, strict=True)]
        right = self._right(examples, names, label_probs.shape[1])
        return predictions, softmax_difference(label_probs, right)

    @staticmethod
    def _right(examples: Sequence[Example], names: Sequence[Sequence[str]], width: int) -> Tensor:
        """Which answers are correct, (N, C)."""
        right = torch.zeros(len(examples), width, dtype=torch.bool)
        for row, (example, own) in enumerate(zip(examples, names, strict=True)):
            for answer in example.answers:
                right[row, own.index(answer)] = True
        return right

    def _generated(self, conversations: list[list[Message]], purpose: Purpose) -> list[str]:
        settings = self._answers
        longest = settings.max_answer_tokens
        assert longest is not None

        def ask(numbers: list[int]) -> tuple[str, ...]:
            answers = self._target.generate([conversations[n] for n in numbers], longest)
            self.ledger.add_target(purpose, calls=len(numbers), tokens=answers.num_tokens)
            return answers.texts

        return [
            extract_answer(text, lines=settings.answer_lines, after=settings.answer_after)
            for text in self.memo.ask(conversations, ask)
        ]
