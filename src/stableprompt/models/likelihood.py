"""How probable answers are: one tree over all contexts and answers, read once."""

import warnings
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from stableprompt.errors import NumberError, RunError
from stableprompt.models.head import Head
from stableprompt.models.loading import LoadedModel
from stableprompt.models.memory import ran_out_of_memory
from stableprompt.models.reading import Reader, Reading
from stableprompt.models.tree import Ask, num_tokens, plan

_TOLERANCES = {torch.float32: 1e-3}  # nats
ONE_TREE = 4096  # contexts
_COARSE = 0.3  # half precision: rounding alone moves a log-probability by up to a tenth


_MEASURED: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()  # by model


class Likelihood:
    """Log-probabilities of answers behind contexts, under one model.

    Args:
        loaded: The model.
        max_batch_tokens: Tokens of one batch: padding, and what stands before, included.
    """

    def __init__(self, loaded: LoadedModel, *, max_batch_tokens: int) -> None:
        self._loaded = loaded
        self._reader = Reader(loaded, max_batch_tokens=max_batch_tokens)
        self._head = Head(loaded.model)

    @torch.no_grad()
    def logprobs(
        self,
        contexts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[Sequence[int]]],
        *,
        share: bool,
    ) -> tuple[list[Tensor], int]:
        """Sums over the tokens of each answer.

        Args:
            contexts: Token ids, none empty, N of them.
            answers: For each context the token ids of each answer, none empty.
            share: Whether beginnings are read once; see ``continues_exactly``.

        Returns:
            For each context a float32 tensor on the CPU, one number an answer; and how many
            tokens were read.
        """
        if len(contexts) > ONE_TREE:  # one tree of all would fill the memory with Python's objects
            first, read = self.logprobs(contexts[:ONE_TREE], answers[:ONE_TREE], share=share)
            rest, more = self.logprobs(contexts[ONE_TREE:], answers[ONE_TREE:], share=share)
            return first + rest, read + more
        forest = plan(contexts, answers, share=share)
        sizes = [len(own) for own in answers]
        sums = torch.zeros(sum(sizes), dtype=torch.float64)
        for reading in self._reader.read(forest):
            numbers, told = self._told(reading)
            del reading  # with its cache, which is not needed while the next ones are read
            sums.index_add_(0, torch.tensor(numbers, dtype=torch.long), told)
        return list(torch.split(sums.float(), sizes)), num_tokens(forest)

    def _told(self, reading: Reading) -> tuple[list[int], Tensor]:
        """The numbers of the answers that were asked about, and what was found, on the CPU."""
        wanted: dict[tuple[int, int], list[Ask]] = {}
        for row, node in enumerate(reading.nodes):
            for ask in node.asks:
                wanted.setdefault((row, ask.position - node.start), []).append(ask)
        numbers: list[int] = []
        told = [torch.zeros(0, dtype=torch.float64)]
        places = sorted(wanted)
        for start in range(0, len(places), self._head.rows_at_once):
            part = places[start : start + self._head.rows_at_once]
            asks = [(at, ask) for at, place in enumerate(part) for ask in wanted[place]]
            rows, offsets = map(list, zip(*part, strict=True))
            states = reading.states[rows, offsets]
            logits = self._head.logits(states)
            places_of = torch.tensor([at for at, _ in asks], device=logits.device)
            tokens = torch.tensor([ask.token for _, ask in asks], device=logits.device)
            found = logits.log_softmax(dim=1)[places_of, tokens]
            found = found + self._head.rounded_away(
                states[places_of], tokens, logits[places_of, tokens]
            )
            told.append(found.double().cpu())
            numbers += [ask.answer for _, ask in asks]
        return numbers, torch.cat(told)


def continues_exactly(loaded: LoadedModel) -> bool:
    """Whether the model can continue a shared beginning; measured once for every model.

    A few made-up answers are scored with and without sharing: some architectures cannot continue
    a cache with several tokens, and do not all say so.

    Raises:
        NumberError: the model gives NaN.
    """
    if loaded.model not in _MEASURED:
        _MEASURED[loaded.model] = _measure(loaded)
    return _MEASURED[loaded.model]


def _measure(loaded: LoadedModel) -> bool:
    likelihood = Likelihood(loaded, max_batch_tokens=512)
    contexts, answers = _probe(int(loaded.model.config.get_text_config().vocab_size))
    plain, _ = likelihood.logprobs(contexts, answers, share=False)
    if any(bool(own.isnan().any()) for own in plain):  # no verdict: the next call measures anew
        raise NumberError(f"log-probabilities of {loaded.name} for made-up tokens: NaN")
    alone, _ = Likelihood(loaded, max_batch_tokens=1).logprobs(contexts, answers, share=False)
    # What another batch changes by itself is rounding: that much must be allowed for.
    noise = float((torch.cat(plain) - torch.cat(alone)).abs().max())
    try:
        shared, _ = likelihood.logprobs(contexts, answers, share=True)
    except Exception as error:  # whatever else it is, the architecture cannot do it
        if ran_out_of_memory(error) or isinstance(error, RunError):
            raise
        gap, reason = float("inf"), f"{type(error).__name__}: {error}"
    else:
        gap = float((torch.cat(plain) - torch.cat(shared)).abs().max())
        reason = f"log-probabilities differ by {gap:.2g}"
    if gap <= max(_TOLERANCES.get(loaded.model.dtype, _COARSE), 3 * noise):
        return True
    warnings.warn(
        f"{loaded.name} cannot go on from a beginning that was read before ({reason}); every row "
        "is read from its first token, which is slower",
        stacklevel=2,
    )
    return False


def _probe(vocabulary: int) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Contexts and answers that make a tree of three levels, with unequal lengths everywhere."""
    ids = [
        int(n) for n in torch.randint(vocabulary, (64,), generator=torch.Generator().manual_seed(0))
    ]
    head, one, other = ids[:20], ids[20:26], ids[26:37]
    contexts = [[*head, *one, *ids[37:54]], [*head, *one, *ids[54:58]], [*head, *other]]
    return contexts, [[ids[58:61], ids[61:63]], [ids[61:62]], [ids[60:63], ids[58:60]]]
