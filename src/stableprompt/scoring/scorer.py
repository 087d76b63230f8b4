"""Score a prompt: send it to the target with examples, and read what comes back."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stableprompt.errors import ModelError
from stableprompt.models.targets.interface import TargetLLM
from stableprompt.scoring.ledger import Ledger, Purpose
from stableprompt.scoring.reward import correctness, prompt_reward, softmax_difference
from stableprompt.tasks.example import Example
from stableprompt.tasks.templates import TargetTemplate
from stableprompt.tasks.verbalizer import Verbalizer


@dataclass(frozen=True, slots=True)
class PromptScore:
    """What the target made of one prompt on given examples."""

    accuracy: float
    """Share of correct examples, 0-1."""
    softmax_difference: float
    """Mean over the examples, in [-1, 1]."""
    reward: float
    """The two, weighted (eq. 13)."""
    correct: tuple[bool, ...]
    """Example by example."""


class Scorer:
    """Scores prompts on examples, and counts what that costs.

    Args:
        target: The frozen LLM that follows the prompt.
        template: How prompt and text become its messages.
        verbalizer: Labels and label words.
        ledger: Where calls and tokens are counted.
        accuracy_weight: c_a of eq. 13.
        softmax_weight: c_s of eq. 13.
    """

    def __init__(
        self,
        target: TargetLLM,
        template: TargetTemplate,
        verbalizer: Verbalizer,
        ledger: Ledger,
        *,
        accuracy_weight: float,
        softmax_weight: float,
    ) -> None:
        self.ledger = ledger
        self._target = target
        self.template = template
        self._verbalizer = verbalizer
        self._weights = {"accuracy_weight": accuracy_weight, "softmax_weight": softmax_weight}

    def score(self, prompt: str, examples: Sequence[Example], purpose: Purpose) -> PromptScore:
        """Score one prompt.

        Args:
            prompt: As it will be shipped; exactly this is sent.
            examples: At least one.
            purpose: For the ledger.
        """
        scores = self._target.label_scores(
            [self.template.messages(prompt, example.text) for example in examples],
            self._verbalizer.label_words,
        )
        if not scores.label_probs.isfinite().all():
            raise ModelError(
                f"the target {self._target.name!r} gave probabilities that are not finite; use "
                "--set dtype=float32, or another target"
            )
        self.ledger.add_target(purpose, calls=len(examples), tokens=scores.num_tokens)
        labels = torch.tensor([self._verbalizer.index(example.label) for example in examples])
        correct = correctness(scores.label_probs, labels)
        accuracy = float(correct.double().mean())
        difference = float(softmax_difference(scores.label_probs, labels).double().mean())
        reward = prompt_reward(accuracy, difference, **self._weights)
        return PromptScore(accuracy, difference, reward, tuple(correct.tolist()))
