"""Score prompts: send them to the target with examples, and read what comes back."""

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from stableprompt.config import RewardConfig, TargetConfig
from stableprompt.errors import TargetError
from stableprompt.models.numbers import not_finite
from stableprompt.models.targets.ahead import AsksAhead
from stableprompt.models.targets.interface import TargetLLM, Usage
from stableprompt.scoring.accounts import Accounts
from stableprompt.scoring.ahead import Ahead
from stableprompt.scoring.answers import extract_answer
from stableprompt.scoring.judge import Judge
from stableprompt.scoring.ledger import Ledger, Purpose
from stableprompt.scoring.prompt_score import PromptScore as PromptScore
from stableprompt.scoring.refusals import unanswered, worth_asking
from stableprompt.scoring.reward import best_words, prompt_reward, softmax_difference
from stableprompt.tasks.example import Example, TaskKind
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import Message, TargetTemplate

_SHORT: Final = 200  # characters of a reason
_Pair = tuple[str, float | None]  # a prediction, and its softmax difference if there is one


class Scorer(Accounts):
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
        super().__init__(target, ledger, judge)
        self.template = template
        self._task = task
        self._answers = answers
        self._reward = reward

    def score(self, prompt: str, examples: Sequence[Example], purpose: Purpose) -> PromptScore:
        """Score one prompt; see ``score_all``."""
        [score] = self.score_all([prompt], examples, purpose)
        return score

    def score_all(
        self, prompts: Sequence[str], examples: Sequence[Example], purpose: Purpose
    ) -> list[PromptScore]:
        """Score several prompts on the same examples; see ``score_each``.

        Raises:
            TargetError: there is a prompt that was answered on less than half of them.
        """
        scores = self.score_each([(prompt, examples) for prompt in prompts], purpose)
        found = [score for score in scores if score is not None]
        if len(found) < len(scores):
            raise TargetError(
                f"the target {self._target.name!r} answered a prompt on less than half of "
                f"{len(examples)} examples ({self.trouble}); what was answered is kept, so see to "
                "the target and resume the run"
            )
        return found

    def score_each(
        self, asked: Sequence[tuple[str, Sequence[Example]]], purpose: Purpose
    ) -> list[PromptScore | None]:
        """Score prompts, each on examples of its own, in one plan: what they share is read once.

        An example that gets no answer with one of the prompts, because the call failed for good,
        is left out for all of them: they stay comparable; and it is not asked again. But a prompt
        that is answered on less than half of its examples, as where a server filters it, is left
        out itself, and takes no example from the others.

        Args:
            asked: Prompts as they will be shipped, exactly these are sent; and for each at least
                one example.
            purpose: For the ledger.

        Returns:
            A score for each prompt; None where there is none.

        Raises:
            LimitReached: a limit of the run cut it short; see ``remembered``.
            TargetError: the target refuses, or too many calls failed.
        """
        scores, complete = self._scores(asked, purpose)
        if not complete:
            raise self.limits.reached(self.ledger)
        return scores

    def ahead(self, purpose: Purpose, calls: int) -> Ahead:
        """Sends prompts to the target before they are scored, where it is outside this process and
        no limit could come between these calls."""
        target = self._target if isinstance(self._target, AsksAhead) else None
        fits = self.limits.leaves(self.ledger, purpose, calls)
        return Ahead(target if fits else None, self._unknown, self._answers.max_answer_tokens or 0)

    def _unknown(
        self, prompt: str, examples: Sequence[Example]
    ) -> tuple[list[list[Message]], list[list[str]] | None]:
        free = self._task.kind is TaskKind.GENERATION
        conversations = [self.template.messages(prompt, example) for example in examples]
        words = [[] if free else list(self._task.answer_words(example)) for example in examples]
        new = [
            (conversation, own)
            for conversation, own in zip(conversations, words, strict=True)
            if not self.memo.knows(conversation if free else [conversation, own])
        ]
        return [one for one, _ in new], None if free else [own for _, own in new]

    def remembered(
        self, asked: Sequence[tuple[str, Sequence[Example]]]
    ) -> list[PromptScore | None]:
        """What is known of prompts without asking the target; see ``score_each``."""
        return self._scores(asked, None)[0]

    def _scores(
        self, asked: Sequence[tuple[str, Sequence[Example]]], purpose: Purpose | None
    ) -> tuple[list[PromptScore | None], bool]:
        """The scores, and whether all was asked that had to be; with no purpose nothing is."""
        pairs = [(prompt, example) for prompt, examples in asked for example in examples]
        conversations = [self.template.messages(prompt, example) for prompt, example in pairs]
        self._cut_short = False
        if self._task.kind is TaskKind.GENERATION:
            found = self._generated(pairs, conversations, purpose)
        else:
            found = self._chosen(pairs, conversations, purpose)
        values = self._values([example for _, example in pairs], found, purpose)
        self.limits.watch(self.ledger)
        # Where a limit cut it short, what was paid for is used, prompt by prompt.
        refused, lost = set[str](), set[Example]()
        if not self._cut_short:
            refused, lost = unanswered(pairs, [pair is not None for pair in found])
        scores: list[PromptScore | None] = []
        rest = zip(found, values, strict=True)
        for prompt, examples in asked:
            part = list(islice(rest, len(examples)))
            scores.append(None if prompt in refused else self._score(examples, part, lost))
        return scores, not self._cut_short

    def _score(
        self,
        asked: Sequence[Example],
        found: Sequence[tuple[_Pair | None, float | None]],
        lost: set[Example],
    ) -> PromptScore | None:
        known = [
            (number, example, pair, value)
            for number, (example, (pair, value)) in enumerate(zip(asked, found, strict=True))
            if pair is not None and value is not None and example not in lost
        ]
        if not known:
            return None
        examples = [example for _, example, _, _ in known]
        predictions = [prediction for _, _, (prediction, _), _ in known]
        differences = [own for _, _, (_, own), _ in known if own is not None]
        values = [value for *_, value in known]
        score = self._task.metric.score(examples, predictions, values)
        mean = sum(differences) / len(differences) if differences else None
        each = zip(values, differences or [0.0] * len(values), strict=True)
        numbers = {number for number, *_ in known}
        return PromptScore(
            score,
            mean,
            self._weighted(score, mean or 0.0),
            tuple(values),
            tuple(self._weighted(value, difference) for value, difference in each),
            tuple(predictions),
            tuple(number for number in range(len(asked)) if number not in numbers),
        )

    def _weighted(self, score: float, difference: float) -> float:
        return prompt_reward(
            score,
            difference,
            accuracy_weight=self._reward.accuracy_weight,
            softmax_weight=self._reward.softmax_weight,
        )

    def _values(
        self,
        examples: Sequence[Example],
        found: Sequence[_Pair | None],
        purpose: Purpose | None,
    ) -> list[float | None]:
        """What each answer is worth; None where there is none, or no rating of it."""
        values: list[float | None] = [None] * len(found)
        known = [(n, pair[0]) for n, pair in enumerate(found) if pair is not None]
        if self.judge is None:
            for n, prediction in known:
                values[n] = self._task.metric.value(examples[n], prediction)
            return values
        size = self._target.at_once or max(1, len(known))
        for start in range(0, len(known), size):
            part = known[start : start + size]
            full = purpose is None or self.limits.room(self.ledger, purpose) == 0
            rated = self._rate(
                [examples[n] for n, _ in part], [p for _, p in part], None if full else purpose
            )
            for (n, _), value in zip(part, rated, strict=True):
                values[n] = value
        self._cut_short |= any(values[n] is None for n, _ in known)
        return values

    def _rate(
        self, examples: Sequence[Example], answers: Sequence[str], purpose: Purpose | None
    ) -> Sequence[float | None]:
        """The judge's ratings; without a purpose those that are known, and None."""
        assert self.judge is not None
        started = time.perf_counter()
        ratings = self.judge.rate(examples, answers, self.ratings, ask=purpose is not None)
        self.ledger.add_judge(ratings.usage, calls=ratings.calls)
        self.wait_since(started, purpose)
        return ratings.values

    def _chosen(
        self,
        asked: Sequence[tuple[str, Example]],
        conversations: list[list[Message]],
        purpose: Purpose | None,
    ) -> list[_Pair | None]:
        """The most probable answer in each conversation, and its softmax difference."""
        examples = [example for _, example in asked]
        words = [self._task.answer_words(example) for example in examples]

        def send(numbers: list[int]) -> tuple[list[list[float]], Usage, Mapping[int, str], int]:
            scores = self._target.label_scores(
                [conversations[n] for n in numbers], [words[n] for n in numbers]
            )
            if not scores.label_probs.isfinite().all():
                raise not_finite(self._target.name)
            rows = scores.label_probs.tolist()
            own = [row[: len(words[n])] for n, row in zip(numbers, rows, strict=True)]
            named = sum(not any(row) for row in own) - len(scores.failed)
            return own, scores.usage, scores.failed, named

        questions = [[c, list(own)] for c, own in zip(conversations, words, strict=True)]
        rows = self.memo.ask(
            questions, lambda numbers: self._portions(asked, numbers, send, purpose)
        )
        known = [number for number, row in enumerate(rows) if row is not None]
        pairs: list[_Pair | None] = [None] * len(rows)
        if known:
            label_probs = pad_sequence([torch.tensor(rows[n]) for n in known], batch_first=True)
            names = [self._task.labels or examples[n].choices for n in known]
            right = self._right([examples[n] for n in known], names, label_probs.shape[1])
            differences = softmax_difference(label_probs, right).double().tolist()
            told = self._target.gives_probabilities
            for n, own, best, difference in zip(
                known, names, best_words(label_probs), differences, strict=True
            ):
                pairs[n] = ("" if best is None else own[best], difference if told else None)
        return pairs

    def _portions(
        self,
        asked: Sequence[tuple[str, Example]],
        numbers: list[int],
        send: Any,
        purpose: Purpose | None,
    ) -> Iterator[tuple[int, Any]]:
        """Send conversations, portion by portion, as far as the limits go; count what it cost."""
        size = self._target.at_once or len(numbers)
        answered: dict[int, bool] = {}
        while numbers:
            room = self.limits.room(self.ledger, purpose) if purpose is not None else 0
            portion = numbers[: size if room is None else min(size, room)]
            if purpose is None or not portion:
                self._cut_short = True
                return
            started = time.perf_counter()
            found, usage, failed, unmatched = send(portion)
            self.wait_since(started, purpose)
            if failed:
                self.trouble = " ".join(next(iter(failed.values())).split())[:_SHORT]
                if not any(self.ledger.failed.values()):
                    told = f"a call failed for good and is left out: {self.trouble}"
                    self.limits.listener.on_note(told)
            calls = len(portion) - len(failed)
            self.ledger.add_target(
                purpose, usage, calls=calls, failed=len(failed), unmatched=unmatched
            )
            yield from (
                (number, answer)
                for place, (number, answer) in enumerate(zip(portion, found, strict=True))
                if place not in failed
            )
            if self.judge is not None:  # before the next portion: it costs, too
                known = [(n, found[at]) for at, n in enumerate(portion) if at not in failed]
                self._rate(
                    [asked[n][1] for n, _ in known], [self._read(t) for _, t in known], purpose
                )
            self.limits.watch(self.ledger)
            answered |= {n: place not in failed for place, n in enumerate(portion)}
            numbers = worth_asking(asked, answered, numbers[len(portion) :])

    @staticmethod
    def _right(examples: Sequence[Example], names: Sequence[Sequence[str]], width: int) -> Tensor:
        """Which answers are correct, (N, C)."""
        right = torch.zeros(len(examples), width, dtype=torch.bool)
        for row, (example, own) in enumerate(zip(examples, names, strict=True)):
            for answer in example.answers:
                right[row, own.index(answer)] = True
        return right

    def _generated(
        self,
        asked: Sequence[tuple[str, Example]],
        conversations: list[list[Message]],
        purpose: Purpose | None,
    ) -> list[_Pair | None]:
        longest = self._answers.max_answer_tokens
        assert longest is not None

        def send(numbers: list[int]) -> tuple[Sequence[str], Usage, Mapping[int, str], int]:
            answers = self._target.generate([conversations[n] for n in numbers], longest)
            return answers.texts, answers.usage, answers.failed, 0

        texts = self.memo.ask(
            conversations, lambda numbers: self._portions(asked, numbers, send, purpose)
        )
        return [None if text is None else (self._read(text), None) for text in texts]

    def _read(self, text: str) -> str:
        settings = self._answers
        return extract_answer(text, lines=settings.answer_lines, after=settings.answer_after)
