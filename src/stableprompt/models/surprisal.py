"""How unlikely a text is for a model that reads it as a user's message."""

from collections.abc import Iterator, Sequence
from typing import Any

from stableprompt.models.chat import encode_chat
from stableprompt.models.likelihood import Likelihood
from stableprompt.models.responses import Surprisal
from stableprompt.models.tree import common_length


def read_surprisals(
    tokenizer: Any, likelihood: Likelihood, texts: Sequence[str]
) -> Iterator[Surprisal]:
    """The surprisal of each text, one at a time: a text's figure never depends on its neighbours.

    Args:
        tokenizer: Has a chat template.
        likelihood: Under the model that reads.
        texts: Contents of a user's message.
    """
    opening = encode_chat(tokenizer, [{"role": "user", "content": ""}])
    for text in texts:
        ids = encode_chat(tokenizer, [{"role": "user", "content": text}])
        # One token at least: of an empty text the last of the template.
        start = max(1, min(common_length(opening, ids), len(ids) - 1))
        stop = max(start + 1, len(ids) - common_length(opening[::-1], ids[::-1]))
        spoken = ids[start:stop]
        [[told]], _ = likelihood.logprobs([ids[:start]], [[spoken]], share=False)
        yield Surprisal(-float(told), len(spoken))
