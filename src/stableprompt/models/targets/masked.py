"""A target in this process that fills in a blank: a masked LM such as RoBERTa or BERT."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from stableprompt.errors import ModelError
from stableprompt.models.chat import Message, encode_answer, special_tokens
from stableprompt.models.loading import LoadedModel
from stableprompt.models.memory import halve_when_full
from stableprompt.models.plain_text import plain_ids
from stableprompt.models.prefix import right_pad
from stableprompt.models.targets.interface import Answers, LabelScores, Usage


class MaskedTarget:
    """Scores words as what stands behind a text: ``text word.`` with a mask for the word.

    A masked LM reads one raw text. The word and the space before it are one place of that text,
    and the mask takes it whole: where words bring their space along (RoBERTa's " great") the mask
    follows the text at once, where they do not (BERT's "great") no space is a token anyway. Nothing
    else would be what the model saw in training. So a word must be a single token there.

    Args:
        loaded: The frozen checkpoint, as ``load_masked`` gives it.
        max_batch_tokens: Tokens of one batch, padding included.

    Raises:
        ModelError: the tokenizer has no mask.
    """

    def __init__(self, loaded: LoadedModel, *, max_batch_tokens: int = 4096) -> None:
        self.name = loaded.name
        self._loaded = loaded
        self._max_batch_tokens = max_batch_tokens
        self._context_length = _context_length(loaded.model)
        self._before, self._behind = _frame(loaded)
        self._words: dict[str, int] = {}  # no more than the vocabulary has

    def close(self) -> None:
        """Nothing is open."""

    @property
    def gives_probabilities(self) -> bool:
        """It does: all of its output can be read."""
        return True

    @property
    def at_once(self) -> int | None:
        """All: those of like length are read together."""
        return None

    @property
    def requests(self) -> Mapping[str, int]:
        """None."""
        return {}

    @property
    def how(self) -> str:
        """In this process."""
        return "probabilities of the words at a mask, in this process"

    @property
    def loaded(self) -> LoadedModel:
        """The checkpoint that answers."""
        return self._loaded

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self._loaded.model.dtype  # type: ignore[no-any-return]

    def markup(self) -> list[str]:
        """The strings that its tokenizer reads as markup, the mask among them."""
        return special_tokens(self._loaded.tokenizer)

    def num_tokens(self, text: str) -> int:
        """How many tokens the text is behind another."""
        return len(encode_answer(self._loaded.tokenizer, text, plain=True))

    def fits(self, conversation: Sequence[Message], room: int) -> bool:
        """Whether a conversation, the mask behind it and ``room`` more tokens fit the context."""
        return len(self._encode(conversation)) + room <= self._context_length

    def generate(self, conversations: Sequence[Sequence[Message]], max_tokens: int) -> Answers:
        """Refused.

        Raises:
            ModelError: always.
        """
        raise ModelError(
            f"the target {self.name!r} is a masked LM, which cannot write answers, only fill in a "
            "word; for a generation task use a causal LM"
        )

    def label_scores(
        self, conversations: Sequence[Sequence[Message]], words: Sequence[Sequence[str]]
    ) -> LabelScores:
        """Probabilities of single-token words at the mask, over those of a conversation.

        Raises:
            ModelError: a word is not one token, two words are the same token, or a text is longer
                than the context.
        """
        inputs = [self._encode(conversation) for conversation in conversations]
        if (longest := max(map(len, inputs))) > self._context_length:
            raise ModelError(
                f"the target {self.name!r} reads {self._context_length} tokens, found a text of "
                f"{longest} with its prompt; shorten it, or give a target with a longer context"
            )
        labels = [self._word_ids(own) for own in words]
        found: dict[int, Tensor] = {}
        for batch in self._batches(inputs):
            for part in halve_when_full(batch, partial(self._read, inputs, labels)):
                found |= part
        logits = [found[number] for number in range(len(inputs))]
        table = pad_sequence(logits, batch_first=True, padding_value=-torch.inf)
        return LabelScores(table.softmax(dim=1), Usage(read=sum(map(len, inputs))))

    def _encode(self, conversation: Sequence[Message]) -> list[int]:
        """Token ids with the mask behind the text; what spells a special token is characters."""
        if len(conversation) != 1:
            raise ModelError(
                f"the target {self.name!r} is a masked LM, which reads one raw text, found a chat "
                f"of {len(conversation)} messages; use --set target.format=plain"
            )
        text = conversation[0]["content"].rstrip()
        return [*self._before, *plain_ids(self._loaded.tokenizer, text), *self._behind]

    def _word_ids(self, words: Sequence[str]) -> list[int]:
        """The one token of each word."""
        ids = [self._word_id(word) for word in words]
        if len(set(ids)) < len(ids):
            raise ModelError(
                f"the target's tokenizer cannot tell the label words {', '.join(words)} "
                "apart; give others as label_words"
            )
        return ids

    def _word_id(self, word: str) -> int:
        if word not in self._words:
            tokenizer = self._loaded.tokenizer
            ids = encode_answer(tokenizer, word, plain=True)
            if len(ids) != 1 or ids == [tokenizer.unk_token_id]:
                tokens = " ".join(tokenizer.convert_ids_to_tokens(ids)) or "nothing"
                raise ModelError(
                    f"the label word {word!r} must be one known token of the masked LM "
                    f"{self.name!r}, found {tokens}; give other label_words, or letters as choices"
                )
            self._words[word] = ids[0]
        return self._words[word]

    def _batches(self, inputs: list[list[int]]) -> Iterator[list[int]]:
        """Numbers of inputs of like length; the inputs alone fix the order."""
        batch: list[int] = []
        for number in sorted(range(len(inputs)), key=lambda n: (len(inputs[n]), inputs[n])):
            if batch and len(inputs[number]) * (len(batch) + 1) > self._max_batch_tokens:
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch

    @torch.no_grad()
    def _read(
        self, inputs: list[list[int]], labels: list[list[int]], batch: Sequence[int]
    ) -> dict[int, Tensor]:
        """Logits of the words of some conversations, by number: float32 on the CPU, (C,) each."""
        loaded = self._loaded
        pad_id = loaded.tokenizer.pad_token_id
        ids, mask = right_pad([inputs[n] for n in batch], pad_id or 0, loaded.device)
        places = [len(inputs[n]) - len(self._behind) for n in batch]
        sizes = [len(labels[n]) for n in batch]
        rows = [row for row, size in enumerate(sizes) for _ in range(size)]
        tokens = list(chain.from_iterable(labels[n] for n in batch))
        logits = _logits_at(loaded.model, ids, mask, places, (rows, tokens))
        return dict(zip(batch, torch.split(logits.cpu(), sizes), strict=True))


def _context_length(model: Any) -> int:
    """How many tokens a masked LM can read.

    RoBERTa and its kin number places from behind the padding's id: of 514 they use 512.
    """
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == "position_embeddings" and hasattr(module, "weight"):
            padding = getattr(module, "padding_idx", None)
            return int(module.weight.shape[0]) - (0 if padding is None else padding + 1)
    return int(getattr(model.config, "max_position_embeddings", 0) or 1_000_000)


def _frame(loaded: LoadedModel) -> tuple[list[int], list[int]]:
    """Token ids before a text, and those behind it from the mask on."""
    tokenizer = loaded.tokenizer
    if tokenizer.mask_token is None:
        raise ModelError(
            f"the tokenizer of {loaded.name!r} has no mask token, so it cannot be a masked LM's; "
            "give a masked LM such as FacebookAI/roberta-large, or a causal LM"
        )
    whole = tokenizer(f"a {tokenizer.mask_token}.", return_special_tokens_mask=True)
    ids: list[int] = whole["input_ids"]
    # Behind the text some tokenizers leave a space before the mask: it is the word's, and goes.
    return (
        ids[: whole["special_tokens_mask"].index(0)],
        ids[ids.index(tokenizer.mask_token_id) :],
    )


def _logits_at(
    model: Any, ids: Tensor, mask: Tensor, places: list[int], asked: tuple[list[int], list[int]]
) -> Tensor:
    """Logits of single tokens where the masks stand.

    The output layer is as wide as the vocabulary: it is given the masks' states alone.

    Args:
        model: A masked LM.
        ids: Token ids, right-padded, (N, T).
        mask: 0 for padding, (N, T).
        places: Of the mask in each row, N.
        asked: Rows and tokens, K of each.

    Returns:
        Float32, (K,).
    """
    rows, tokens = asked
    layer = model.get_output_embeddings()
    calls: list[tuple[Tensor, Tensor]] = []

    def only_masks(_layer: Any, given: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (given[0][range(len(places)), places].unsqueeze(1),)

    def keep(_layer: Any, given: tuple[Tensor, ...], made: Tensor) -> None:
        calls.append((given[0], made))

    with layer.register_forward_pre_hook(only_masks), layer.register_forward_hook(keep):
        logits = model(input_ids=ids, attention_mask=mask).logits
    if not calls:  # MobileBERT takes the layer's weights, not the layer
        return logits[rows, [places[row] for row in rows], tokens].float()  # type: ignore[no-any-return]
    [(states, made)] = calls
    if logits is not made:  # DeBERTa has more behind the layer
        return logits[rows, 0, tokens].float()  # type: ignore[no-any-return]
    # Made again from the same states: a logit near 20 has steps of 1/8 in bfloat16, and words that
    # the model tells apart would tie.
    exact: Tensor = (states[rows, 0].float() * layer.weight[tokens].float()).sum(dim=1)
    return exact if layer.bias is None else exact + layer.bias[tokens].float()
