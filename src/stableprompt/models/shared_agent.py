"""An agent whose work is shared by several processes: each takes some rows, all get all results."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from stableprompt.models.adapters import Role
from stableprompt.models.agent import AgentLLM
from stableprompt.models.ranks import Ranks
from stableprompt.models.responses import Evaluation, OnEnd, Responses, Surprisal
from stableprompt.models.tails import Tails


class SharedAgent(AgentLLM):
    """The same agent as in the other processes.

    What it writes and how it judges is what one process alone would find, but for rounding. The
    gradients of ``forward`` are this process's own.

    Args:
        agent: Before it learned anything; the base model and the adapters are shared with it.
        ranks: The processes.
    """

    def __init__(self, agent: AgentLLM, ranks: Ranks) -> None:
        super().__init__(agent.loaded, agent.adapted, temperature=agent.temperature)
        self._ranks = ranks

    def sample(
        self,
        query_ids: Tensor,
        uniforms: Tensor,
        *,
        role: Role = Role.POLICY,
        tails: Tails = (),
        greedy: bool = False,
        on_end: OnEnd | None = None,
    ) -> Responses:
        """Write one prompt for each row of random numbers; each process writes some of them.

        Nobody is told of rows as they end: no process could ask about another's.
        """
        mine = self._ranks.share(len(uniforms))

        def write() -> Responses | None:
            if not mine:
                return None
            found = AgentLLM.sample(
                self, query_ids, uniforms[mine], role=role, tails=_of(tails, mine), greedy=greedy
            )
            return Responses(found.ids.cpu(), found.mask.cpu(), found.texts, found.truncated)

        parts = [part for part in self._ranks.each(write) if part is not None]
        width = max(part.ids.shape[1] for part in parts)
        filler = int(self.tokenizer.pad_token_id)
        return Responses(
            _below([part.ids for part in parts], width, filler).to(query_ids.device),
            _below([part.mask for part in parts], width, False).to(query_ids.device),
            tuple(text for part in parts for text in part.texts),
            tuple(cut for part in parts for cut in part.truncated),
        )

    def evaluate(
        self, query_ids: Tensor, responses: Tensor, mask: Tensor, tails: Tails = (), *, role: Role
    ) -> Evaluation:
        """Judge given responses, without gradient; each process reads some of them."""
        mine = self._ranks.share(len(responses))

        def judge() -> tuple[Tensor, Tensor, Tensor] | None:
            if not mine:
                return None
            found = AgentLLM.evaluate(
                self, query_ids, responses[mine], mask[mine], _of(tails, mine), role=role
            )
            return found.logprobs.cpu(), found.entropies.cpu(), found.values.cpu()

        parts = [part for part in self._ranks.each(judge) if part is not None]
        columns = zip(*parts, strict=True)
        return Evaluation(*(torch.cat(own).to(query_ids.device) for own in columns))

    def surprisals(self, texts: Sequence[str]) -> list[Surprisal]:
        """How unlikely each text is under the base model; each process reads some of them."""
        mine = self._ranks.share(len(texts))
        parts = self._ranks.each(
            lambda: AgentLLM.surprisals(self, [texts[number] for number in mine])
        )
        return [own for part in parts for own in part]


def _of(tails: Tails, rows: range) -> Tails:
    return [tails[row] for row in rows] if tails else ()


def _below(parts: Sequence[Tensor], width: int, filler: int | bool) -> Tensor:
    """Rows of unequal width in one table."""
    return torch.cat([pad(part, (0, width - part.shape[1]), value=filler) for part in parts])
