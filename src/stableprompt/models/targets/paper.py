"""A target on paper: nobody is asked, and the tokens are counted that asking would take."""

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from stableprompt.models.chat import Message
from stableprompt.models.likelihood import ONE_TREE, continues_exactly
from stableprompt.models.loading import LoadedModel
from stableprompt.models.targets.interface import Answers, LabelScores, TargetLLM, Usage
from stableprompt.models.targets.local import LocalTarget
from stableprompt.models.tree import num_tokens, plan


class PaperTarget(LocalTarget):
    """Stands in for a target: all words are equally probable to it, and what it writes is empty.

    Args:
        loaded: Whose tokenizer and chat template count.
        shared: Whether what conversations have in common is read once, as in this process.
        written: Tokens of an answer, on average; 0 where only probabilities are read.
        told: Whether the target that it stands for gives probabilities.
        plain: Whether that one reads raw texts instead of a chat template.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        shared: bool,
        written: float = 0.0,
        told: bool = True,
        plain: bool = False,
    ) -> None:
        super().__init__(loaded, plain=plain)
        self.name = "a target on paper"
        self._shared, self._written, self._told = shared, written, told

    @property
    def gives_probabilities(self) -> bool:
        """As the one that it stands for."""
        return self._told

    @property
    def how(self) -> str:
        """Not at all."""
        return "on paper"

    def fits(self, conversation: Sequence[Message], room: int) -> bool:
        """Of a context elsewhere nobody knows the length."""
        return not self._shared or super().fits(conversation, room)

    def generate(self, conversations: Sequence[Sequence[Message]], max_tokens: int) -> Answers:
        """Nothing, at the price of an answer each."""
        inputs = [self._encode(conversation) for conversation in conversations]
        # Written is behind the last token, which is read apart from what is shared.
        usage = self._usage([ids[:-1] for ids in inputs], [[ids[-1:]] for ids in inputs])
        read = usage.read + len(inputs)
        return Answers(("",) * len(inputs), Usage(read, usage.written))

    def label_scores(
        self, conversations: Sequence[Sequence[Message]], words: Sequence[Sequence[str]]
    ) -> LabelScores:
        """All words alike."""
        inputs = [self._encode(conversation) for conversation in conversations]
        labels = [self._encode_labels(tuple(own)) if self._shared else [] for own in words]
        rows = [torch.full((len(own),), 1 / len(own)) for own in words]
        return LabelScores(pad_sequence(rows, batch_first=True), self._usage(inputs, labels))

    def _usage(self, inputs: list[list[int]], answers: list[list[list[int]]]) -> Usage:
        if self._shared:
            read = num_tokens(plan(inputs, answers, share=True))
        else:
            read = sum(map(len, inputs))
        return Usage(read, round(self._written * len(inputs)))


def read_by_one(
    target: TargetLLM,
    conversations: Sequence[Sequence[Message]],
    words: Sequence[Sequence[str]] | None,
) -> int | None:
    """Tokens that a target reads where it alone is asked all: what they share counts once.

    Args:
        target: Of those that share the conversations; it is not asked.
        conversations: All of them, N.
        words: For each conversation what may be answered; None where it answers freely.

    Returns:
        None where nothing is shared, so that what each one reads adds up.
    """
    if not isinstance(target, LocalTarget) or not continues_exactly(target.loaded):
        return None
    paper = PaperTarget(target.loaded, shared=True, plain=target.plain)
    if words is None:
        return paper.generate(conversations, 0).usage.read
    starts = range(0, len(conversations), ONE_TREE)
    parts = [(conversations[at : at + ONE_TREE], words[at : at + ONE_TREE]) for at in starts]
    return sum(paper.label_scores(*part).usage.read for part in parts)
