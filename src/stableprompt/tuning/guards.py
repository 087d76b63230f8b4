"""Which prompts are refused before they cost a target call."""

from collections.abc import Sequence

from stableprompt.config import GuardConfig
from stableprompt.models.agent import AgentLLM, Responses
from stableprompt.tasks.prompt_checks import CopyIndex, PromptFault, find_fault


class Guards:
    """Finds the fault of a prompt, if it has one.

    Args:
        config: Which checks are on.
        agent: Its base model gives the perplexity.
        seed_prompt: What perplexity is measured against.
        example_texts: Texts that must not be copied: those that the agent can be shown.
        special_tokens: Markup of agent and target.
    """

    def __init__(
        self,
        config: GuardConfig,
        agent: AgentLLM,
        seed_prompt: str,
        example_texts: Sequence[str],
        special_tokens: Sequence[str],
    ) -> None:
        self._config = config
        self._agent = agent
        self._copies = CopyIndex(example_texts if config.reject_copies else ())
        self._special_tokens = tuple(special_tokens)
        self._perplexity_limit: float | None = None
        if config.max_perplexity_ratio is not None:
            [seed_perplexity] = agent.perplexities([seed_prompt])
            self._perplexity_limit = config.max_perplexity_ratio * seed_perplexity

    def faults(self, responses: Responses) -> list[PromptFault | None]:
        """The fault of each response, or None, in order."""
        found = [
            find_fault(
                text,
                truncated=cut and self._config.reject_truncated,
                example_texts=self._copies,
                special_tokens=self._special_tokens,
            )
            for text, cut in zip(responses.texts, responses.truncated, strict=True)
        ]
        if self._perplexity_limit is None:
            return found
        limit = self._perplexity_limit
        readable = [i for i, fault in enumerate(found) if fault is None]
        figures = self._agent.perplexities([responses.texts[i] for i in readable])
        for i, perplexity in zip(readable, figures, strict=True):
            if not perplexity <= limit:  # not <=: a NaN is babble too
                found[i] = PromptFault.BABBLE
        return found
