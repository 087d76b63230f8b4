"""Which prompts are refused before they cost a target call."""

from collections import Counter
from collections.abc import Sequence

from stableprompt.config import GuardConfig
from stableprompt.models.agent import AgentLLM, Responses
from stableprompt.tasks.example import TaskKind
from stableprompt.tasks.placeholders import WHOLE_INPUT
from stableprompt.tasks.prompt_checks import CopyIndex, LeakIndex, PromptFault, find_fault
from stableprompt.tasks.task import Task


class Guards:
    """Finds the fault of a prompt, if it has one.

    Args:
        config: Which checks are on.
        agent: Its base model gives the perplexity.
        task: Its training examples must not be copied, its answers not be stated, the
            placeholders of its seed prompt be kept; perplexity is measured against that prompt.
        special_tokens: Markup of agent and target.
    """

    def __init__(
        self, config: GuardConfig, agent: AgentLLM, task: Task, special_tokens: Sequence[str]
    ) -> None:
        self._config = config
        self._agent = agent
        self._seed_prompt = task.seed_prompt
        self._fields = (WHOLE_INPUT, *task.fields)
        self._copies = CopyIndex(
            texts_not_to_copy(task) if config.reject_copies else (), allowed=task.seed_prompt
        )
        self._leaks = leaks_of(task) if config.reject_leaks else None
        self._special_tokens = tuple(special_tokens)
        self._perplexity_limit: float | None = None
        self._perplexities: dict[str, float] = {}  # a trained policy repeats itself
        if config.max_perplexity_ratio is not None:
            [seed_perplexity] = agent.perplexities([task.seed_prompt])
            self._perplexity_limit = config.max_perplexity_ratio * seed_perplexity

    def faults(self, responses: Responses) -> list[PromptFault | None]:
        """The fault of each response, or None, in order."""
        found = [
            find_fault(
                text,
                truncated=cut and self._config.reject_truncated,
                example_texts=self._copies,
                special_tokens=self._special_tokens,
                keep=self._seed_prompt,
                fields=self._fields,
                leaks=self._leaks,
            )
            for text, cut in zip(responses.texts, responses.truncated, strict=True)
        ]
        if self._perplexity_limit is None:
            return found
        limit = self._perplexity_limit
        readable = [i for i, fault in enumerate(found) if fault is None]
        texts = dict.fromkeys(responses.texts[i] for i in readable)
        new = [text for text in texts if text not in self._perplexities]
        if new:
            self._perplexities |= zip(new, self._agent.perplexities(new), strict=True)
        for i in readable:
            if not self._perplexities[responses.texts[i]] <= limit:  # not <=: a NaN is babble too
                found[i] = PromptFault.BABBLE
        return found


def texts_not_to_copy(task: Task) -> list[str]:
    """Fields of the training examples, and references, that only one example has.

    What several share gives no example away: it names the subject, or what may be answered.
    """
    counts = Counter(value for e in task.train for value in set(e.fields.values()))
    if task.kind is TaskKind.GENERATION:
        counts.update(answer for e in task.train for answer in set(e.answers))
    return [text for text, count in counts.items() if count == 1]


def leaks_of(task: Task) -> LeakIndex:
    """The answers that a prompt must not state."""
    if task.kind is TaskKind.GENERATION:
        return LeakIndex((a for e in task.train for a in e.answers), closed=False)
    words = (word for example in task.train for word in task.answer_words(example))
    return LeakIndex(dict.fromkeys(words), closed=True)
