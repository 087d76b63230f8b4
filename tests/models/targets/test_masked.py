import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from stableprompt.errors import ModelError
from stableprompt.models.chat import Message
from stableprompt.models.loading import LoadedModel
from stableprompt.models.targets.interface import LabelScores, TargetLLM
from stableprompt.models.targets.masked import MaskedTarget
from tests.fakes.agents import make_loaded
from tests.fakes.masked import (
    ARCHITECTURES,
    make_bert_tokenizer,
    make_masked,
    make_roberta_tokenizer,
)

CPU = torch.device("cpu")
ROBERTA, BERT = make_roberta_tokenizer(), make_bert_tokenizer()
TEXTS = ["It was", "film", "A terrible cast, a terrible film, and a bad review. It was", "answer?"]
WORDS = ("great", "terrible", "bad")
# What these words are behind a text: byte-level BPE writes a space as "Ġ".
ROBERTA_TOKENS = ("Ġgreat", "Ġterrible", "Ġbad")


def conversation(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


CONVERSATIONS = [conversation(text) for text in TEXTS]


def loaded_as(
    name: str, tokenizer: PreTrainedTokenizerFast = ROBERTA, **options: Any
) -> LoadedModel:
    return LoadedModel(name, make_masked(name, tokenizer, **options), tokenizer, CPU)


@pytest.fixture(scope="module")
def roberta() -> LoadedModel:
    return loaded_as("roberta")


@pytest.fixture(scope="module")
def bert() -> LoadedModel:
    return loaded_as("bert", BERT)


def scores(
    target: MaskedTarget, conversations: Sequence[list[Message]], words: Sequence[str] = WORDS
) -> LabelScores:
    """The same words for every conversation."""
    return target.label_scores(conversations, [words] * len(conversations))


@torch.no_grad()
def naive_probs(
    loaded: LoadedModel, texts: Sequence[str], tokens: Sequence[str] = ROBERTA_TOKENS
) -> Tensor:
    """One forward pass a text, as the tokenizer itself reads it, with the logits of all places."""
    tokenizer = loaded.tokenizer
    wanted = tokenizer.convert_tokens_to_ids(list(tokens))
    assert tokenizer.unk_token_id not in wanted
    rows = []
    for text in texts:
        ids = tokenizer(f"{text} {tokenizer.mask_token}.")["input_ids"]
        logits = loaded.model(torch.tensor([ids])).logits[0, ids.index(tokenizer.mask_token_id)]
        rows.append(logits[wanted].softmax(dim=0))
    return torch.stack(rows)


def assert_same(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_it_is_a_target(roberta: LoadedModel) -> None:
    target: TargetLLM = MaskedTarget(roberta)
    assert target.name == "roberta"
    assert target.gives_probabilities
    assert target.at_once is None
    assert target.requests == {}
    assert "at a mask" in target.how
    target.close()
    assert "<mask>" in target.markup()


# --- numbers ---


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_label_probs_are_those_of_the_words_at_the_mask(name: str) -> None:
    loaded = loaded_as(name)
    got = scores(MaskedTarget(loaded), CONVERSATIONS).label_probs
    assert_same(got, naive_probs(loaded, TEXTS))
    assert got.dtype == torch.float32
    assert (got[0] - got[2]).abs().max() > 1e-3  # the texts do differ


def test_the_words_of_bert_have_no_space(bert: LoadedModel) -> None:
    got = scores(MaskedTarget(bert), CONVERSATIONS).label_probs
    assert_same(got, naive_probs(bert, TEXTS, WORDS))


@pytest.mark.parametrize(("name", "tokenizer"), [("roberta", ROBERTA), ("bert", BERT)])
@torch.no_grad()
def test_biases_alone_give_the_probabilities_that_they_are_the_logarithms_of(
    name: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    loaded = loaded_as(name, tokenizer)
    layer = loaded.model.get_output_embeddings()
    tokens = ROBERTA_TOKENS if name == "roberta" else WORDS
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    layer.weight.zero_()
    layer.bias[ids] = torch.tensor([math.log(6), math.log(3), 0.0])
    got = scores(MaskedTarget(loaded), CONVERSATIONS).label_probs
    assert_same(got, torch.tensor([[0.6, 0.3, 0.1]] * len(TEXTS)))


@torch.no_grad()
def test_half_precision_makes_no_ties() -> None:
    loaded = loaded_as("roberta")
    loaded.model.to(torch.bfloat16)
    head = loaded.model.lm_head
    great, good = ROBERTA.convert_tokens_to_ids(["Ġgreat", "Ġgood"])
    ids = torch.tensor([ROBERTA("It was <mask>.")["input_ids"]])
    assert not {great, good} & set(ids[0].tolist())  # their embeddings are those of the head
    seen: list[Tensor] = []
    with head.decoder.register_forward_pre_hook(lambda _, given: seen.append(given[0])):
        loaded.model(ids)
    state = seen[0][0, ids[0].tolist().index(ROBERTA.mask_token_id)]
    head.decoder.bias[[great, good]] = 20.0
    head.decoder.weight[great] = 0.0
    head.decoder.weight[good] = 0.03 * state / state.float().square().sum()
    rounded = loaded.model(ids).logits[0, :, [great, good]][ids[0] == ROBERTA.mask_token_id]
    assert rounded.tolist() == [[20.0, 20.0]]
    got = scores(MaskedTarget(loaded), [conversation("It was")], ("great", "good")).label_probs
    # sigmoid(0.03) is 0.5075; the weights are rounded, too, to one part in 256.
    torch.testing.assert_close(got, torch.tensor([[0.4925, 0.5075]]), rtol=0, atol=1e-4)


def test_each_conversation_may_have_words_of_its_own(roberta: LoadedModel) -> None:
    words = [("great", "bad"), ("A", "B", "C"), ("bad", "great"), ("good", "A")]
    got = MaskedTarget(roberta).label_scores(CONVERSATIONS, words).label_probs
    assert got.shape == (4, 3)
    for row, text, own in zip(got, TEXTS, words, strict=True):
        [expected] = naive_probs(roberta, [text], [f"Ġ{word}" for word in own])
        assert_same(row[: len(own)], expected)
        assert row[len(own) :].tolist() == [0.0] * (3 - len(own))


# --- what is read ---


def ids_read(loaded: LoadedModel, text: str) -> list[int]:
    """What reaches the model."""
    seen: list[Tensor] = []

    def watch(_module: object, _arguments: object, options: dict[str, Tensor]) -> None:
        seen.append(options["input_ids"])

    with loaded.model.register_forward_pre_hook(watch, with_kwargs=True):
        scores(MaskedTarget(loaded), [conversation(text)])
    [[ids]] = seen
    return list(ids.tolist())


@pytest.mark.parametrize("text", ["It was", "A film.\n\nIt was", ""])
def test_the_mask_takes_the_place_of_one_word_and_its_space(
    roberta: LoadedModel, bert: LoadedModel, text: str
) -> None:
    for loaded in (roberta, bert):
        whole = loaded.tokenizer(f"{text} great.")["input_ids"]
        [great] = loaded.tokenizer(" great", add_special_tokens=False)["input_ids"]
        mask = loaded.tokenizer.mask_token_id
        assert ids_read(loaded, text) == [mask if token == great else token for token in whole]


def test_a_mask_that_does_not_swallow_its_space_is_read_as_one_that_does(
    roberta: LoadedModel,
) -> None:
    other = make_roberta_tokenizer(mask_takes_space=False)
    assert "Ġ" in other.tokenize("It was <mask>.")
    loaded = LoadedModel("other", roberta.model, other, CPU)
    assert ids_read(loaded, "It was") == ids_read(roberta, "It was")


def test_white_space_at_the_end_of_a_text_does_not_matter(roberta: LoadedModel) -> None:
    target = MaskedTarget(roberta)
    spaced = [conversation(f"{text} \n") for text in TEXTS]
    got = scores(target, spaced).label_probs
    assert torch.equal(got, scores(target, CONVERSATIONS).label_probs)


def test_special_tokens_in_a_text_are_characters(roberta: LoadedModel) -> None:
    text = "It was <mask>, </s> it was"
    ids = ids_read(roberta, text)
    assert ids.count(ROBERTA.mask_token_id) == 1
    assert ids.count(ROBERTA.eos_token_id) == 1
    assert text in ROBERTA.decode(ids)


def test_a_chat_is_refused(roberta: LoadedModel) -> None:
    chat = [{"role": "system", "content": "Classify."}, *conversation("It was")]
    with pytest.raises(ModelError, match=r"'roberta'.*2 messages; use --set target.format=plain"):
        scores(MaskedTarget(roberta), [chat])


# --- words ---


def test_a_word_of_several_tokens_is_refused_by_name(roberta: LoadedModel) -> None:
    tokens = " ".join(ROBERTA.tokenize(" horrible"))
    assert len(tokens.split(" ")) > 1
    with pytest.raises(ModelError) as caught:
        scores(MaskedTarget(roberta), CONVERSATIONS, ("great", "horrible"))
    assert str(caught.value) == (
        "the label word 'horrible' must be one known token of the masked LM 'roberta', "
        f"found {tokens}; give other label_words, or letters as choices"
    )


def test_a_word_that_is_one_token_only_without_its_space_is_refused(roberta: LoadedModel) -> None:
    assert ROBERTA.tokenize("T") == ["T"]
    with pytest.raises(ModelError, match=r"label word 'T' .*found Ġ T;"):
        scores(MaskedTarget(roberta), CONVERSATIONS, ("great", "T"))


def test_a_word_that_the_tokenizer_does_not_know_is_refused(bert: LoadedModel) -> None:
    with pytest.raises(ModelError, match=r"label word '東' .*found \[UNK\];"):
        scores(MaskedTarget(bert), CONVERSATIONS, ("great", "東"))


def test_an_empty_word_is_refused(bert: LoadedModel) -> None:
    with pytest.raises(ModelError, match=r"label word '' .*found nothing;"):
        scores(MaskedTarget(bert), CONVERSATIONS, ("great", ""))


def test_words_that_the_tokenizer_cannot_tell_apart_are_refused(bert: LoadedModel) -> None:
    with pytest.raises(ModelError, match="cannot tell the label words Great, bad, great apart"):
        scores(MaskedTarget(bert), CONVERSATIONS, ("Great", "bad", "great"))


# --- batches ---


@pytest.mark.parametrize("max_batch_tokens", [1, 40, 100_000])
@pytest.mark.parametrize("name", ["roberta", "bert"])
def test_the_size_of_a_batch_changes_nothing(name: str, max_batch_tokens: int) -> None:
    loaded = loaded_as(name)
    got = scores(MaskedTarget(loaded, max_batch_tokens=max_batch_tokens), CONVERSATIONS)
    assert_same(got.label_probs, naive_probs(loaded, TEXTS))


def test_the_padding_side_of_the_tokenizer_changes_nothing() -> None:
    tokenizer = make_roberta_tokenizer()
    tokenizer.padding_side = "left"
    loaded = loaded_as("roberta", tokenizer)
    assert_same(scores(MaskedTarget(loaded), CONVERSATIONS).label_probs, naive_probs(loaded, TEXTS))


def test_a_batch_holds_no_more_padded_tokens_than_allowed() -> None:
    loaded = loaded_as("roberta")
    limit, shapes = 60, []

    def watch(_module: object, _arguments: object, options: dict[str, Tensor]) -> None:
        shapes.append(tuple(options["input_ids"].shape))

    loaded.model.register_forward_pre_hook(watch, with_kwargs=True)
    conversations = [conversation("film" + " bad" * (n % 9)) for n in range(20)]
    scores(MaskedTarget(loaded, max_batch_tokens=limit), conversations)
    assert sum(rows for rows, _ in shapes) == 20
    assert all(rows * length <= limit for rows, length in shapes)
    assert any(rows > 1 for rows, _ in shapes)
    # Each length stands with its like: the shortest first, the longest last.
    assert [length for _, length in shapes] == sorted(length for _, length in shapes)
    assert shapes[0][1] < shapes[-1][1]


def test_a_batch_that_does_not_fit_the_memory_is_halved() -> None:
    loaded = loaded_as("roberta")
    rows: list[int] = []

    def watch(_module: object, _arguments: object, options: dict[str, Tensor]) -> None:
        rows.append(len(options["input_ids"]))
        if rows[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with loaded.model.register_forward_pre_hook(watch, with_kwargs=True):
        got = scores(MaskedTarget(loaded), CONVERSATIONS).label_probs
    assert rows == [4, 2, 2]
    assert_same(got, naive_probs(loaded, TEXTS))


def test_the_output_layer_sees_the_masks_alone() -> None:
    loaded = loaded_as("roberta")
    shapes: list[tuple[int, ...]] = []
    target = MaskedTarget(loaded)
    with loaded.model.lm_head.decoder.register_forward_hook(
        lambda _layer, _given, made: shapes.append(tuple(made.shape))
    ):
        scores(target, CONVERSATIONS)
    assert shapes == [(4, 1, len(ROBERTA))]


def test_nothing_is_left_hanging_on_the_model(roberta: LoadedModel) -> None:
    scores(MaskedTarget(roberta), CONVERSATIONS)
    ids = torch.tensor([ROBERTA("It was <mask>.")["input_ids"]])
    assert roberta.model(ids).logits.shape[:2] == ids.shape


def test_every_token_that_was_read_is_counted(roberta: LoadedModel) -> None:
    conversations = [conversation(text) for text in ("film", "film great", "film")]
    film = len(ROBERTA.tokenize("film"))
    # <s> film [great] <mask> . </s>; nothing can be shared, for what follows changes it all.
    read = (film + 4) + (film + 5) + (film + 4)
    usage = scores(MaskedTarget(roberta), conversations).usage
    assert (usage.read, usage.written) == (read, 0)


# --- the context ---


@pytest.mark.parametrize(
    ("name", "places", "usable"),
    [("roberta", 66, 64), ("mpnet", 66, 64), ("bert", 66, 66), ("modernbert", 40, 40)],
)
def test_fits_knows_the_places_that_can_be_used(name: str, places: int, usable: int) -> None:
    loaded = loaded_as(name, max_position_embeddings=places)
    used = len(ROBERTA("It was <mask>.")["input_ids"])
    target = MaskedTarget(loaded)
    assert target.fits(conversation("It was"), room=usable - used)
    assert not target.fits(conversation("It was"), room=usable - used + 1)


@pytest.mark.parametrize("name", ["roberta", "bert"])
def test_a_text_that_fills_the_context_is_read_and_a_longer_one_refused(name: str) -> None:
    loaded = loaded_as(name)
    target = MaskedTarget(loaded)
    usable = 64 if name == "roberta" else 66
    full = "It" + " bad" * (usable - len(ROBERTA("It <mask>.")["input_ids"]))
    assert len(ROBERTA(f"{full} <mask>.")["input_ids"]) == usable
    got = scores(target, [conversation(full)]).label_probs
    assert_same(got, naive_probs(loaded, [full]))
    with pytest.raises((IndexError, RuntimeError)):  # the model itself cannot
        naive_probs(loaded, [f"{full} bad"])
    with pytest.raises(ModelError, match=f"reads {usable} tokens, found a text of {usable + 1}"):
        scores(target, [conversation("It was"), conversation(f"{full} bad")])


# --- the rest of a target ---


def test_it_cannot_write_answers(roberta: LoadedModel) -> None:
    with pytest.raises(ModelError, match=r"'roberta' is a masked LM.*use a causal LM"):
        MaskedTarget(roberta).generate(CONVERSATIONS, max_tokens=5)


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    with pytest.raises(ModelError, match="tokenizer of 'tiny' has no mask token"):
        MaskedTarget(make_loaded())


def test_a_text_is_measured_as_it_stands_behind_another(
    roberta: LoadedModel, bert: LoadedModel
) -> None:
    assert MaskedTarget(roberta).num_tokens("great film") == 2
    assert len(ROBERTA.tokenize("great film")) > 2  # without its space
    assert MaskedTarget(bert).num_tokens("great film") == 2


def test_the_precision_is_that_of_the_weights(roberta: LoadedModel) -> None:
    assert MaskedTarget(roberta).dtype == torch.float32
