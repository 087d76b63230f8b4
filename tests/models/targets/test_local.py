from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from stableprompt.errors import ModelError
from stableprompt.models.adapters import AdaptedModel
from stableprompt.models.agent import AgentLLM
from stableprompt.models.chat import Message, encode_chat
from stableprompt.models.loading import LoadedModel
from stableprompt.models.targets.interface import LabelScores
from stableprompt.models.targets.local import ANSWER_ROOM, LocalTarget
from tests.fakes.agents import disturb, make_loaded, make_lora
from tests.fakes.tiny_model import make_tokenizer

TEXTS = ["It is red.", "ok", "A much longer message, with many more words in it than others.", "b?"]
SINGLE = ("y", "n")
MIXED = ("y", "red", "n", "on hold")
BEGINNING = ("on", "on hold", "y")


def conversation(text: str) -> list[Message]:
    return [{"role": "user", "content": f"Classify the message. Input: {text}"}]


CONVERSATIONS = [conversation(text) for text in TEXTS]


def make_gpt2() -> GPT2LMHeadModel:
    """Absolute positions, unlike Llama's."""
    config = GPT2Config(
        vocab_size=len(make_tokenizer()),
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=512,
        initializer_range=0.15,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return make_loaded(model=make_gpt2() if request.param == "gpt2" else None)


def scores(
    target: LocalTarget, conversations: Sequence[list[Message]], words: Sequence[str]
) -> LabelScores:
    """The same words for every conversation."""
    return target.label_scores(conversations, [words] * len(conversations))


def label_ids(loaded: LoadedModel, words: Sequence[str], *, end: bool) -> list[list[int]]:
    ids = loaded.tokenizer(list(words), add_special_tokens=False)["input_ids"]
    return [[*row, loaded.tokenizer.eos_token_id] if end else list(row) for row in ids]


@torch.no_grad()
def naive_probs(
    loaded: LoadedModel, conversations: Sequence[list[Message]], labels: list[list[int]]
) -> Tensor:
    """One forward pass an example and label: no cache, no padding, no batch."""
    rows = []
    for messages in conversations:
        query = encode_chat(loaded.tokenizer, messages)
        row = []
        for label in labels:
            logits = loaded.model(torch.tensor([query + label]), use_cache=False).logits[0]
            told = logits[len(query) - 1 : -1].log_softmax(dim=-1)
            row.append(told[torch.arange(len(label)), torch.tensor(label)].sum())
        rows.append(torch.stack(row))
    return torch.stack(rows).softmax(dim=1)


def assert_same(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "num_tokens"),
    [(SINGLE, [1, 1]), (MIXED, [1, 1, 2, 7]), (("red", "green", "blue"), [2, 2, 3])],
)
def test_label_probs_are_those_of_whole_sequences(
    loaded: LoadedModel, words: tuple[str, ...], num_tokens: list[int]
) -> None:
    labels = label_ids(loaded, words, end=False)
    assert sorted(len(ids) for ids in labels) == num_tokens
    got = scores(LocalTarget(loaded), CONVERSATIONS, words).label_probs
    assert_same(got, naive_probs(loaded, CONVERSATIONS, labels))
    assert_same(got.sum(dim=1), torch.ones(len(TEXTS)))
    assert (got[0] - got[2]).abs().max() > 1e-3  # the examples do differ
    assert got.dtype == torch.float32


@pytest.mark.parametrize("words", [BEGINNING, ("on hold", "y", "on")])
def test_where_one_label_begins_another_the_end_of_the_turn_is_scored_too(
    loaded: LoadedModel, words: tuple[str, ...]
) -> None:
    got = scores(LocalTarget(loaded), CONVERSATIONS, words).label_probs
    assert_same(got, naive_probs(loaded, CONVERSATIONS, label_ids(loaded, words, end=True)))


def test_label_words_that_the_tokenizer_cannot_tell_apart_are_refused() -> None:
    with pytest.raises(ModelError, match="cannot tell the label words on, on apart"):
        scores(LocalTarget(make_loaded()), CONVERSATIONS, ("on", "on"))


@torch.no_grad()
def test_a_longer_label_can_be_the_more_probable_one() -> None:
    loaded = make_loaded()
    words = ("o", "on")
    [[_], [o, n]] = label_ids(loaded, words, end=False)
    # Turn the head so that after "o" an "n" is nearly certain.
    ids = torch.tensor([[*encode_chat(loaded.tokenizer, CONVERSATIONS[0]), o]])
    state = loaded.model(ids, output_hidden_states=True).hidden_states[-1][0, -1]
    loaded.model.lm_head.weight[n] += 20 * state / state.norm() ** 2
    probs = scores(LocalTarget(loaded), CONVERSATIONS[:1], words).label_probs
    assert_same(probs, naive_probs(loaded, CONVERSATIONS[:1], label_ids(loaded, words, end=True)))
    assert probs[0, 1] > 0.9


@pytest.mark.parametrize("max_batch_tokens", [1, 40, 100, 100_000])
def test_the_size_of_a_batch_changes_nothing(loaded: LoadedModel, max_batch_tokens: int) -> None:
    got = scores(LocalTarget(loaded, max_batch_tokens=max_batch_tokens), CONVERSATIONS, MIXED)
    assert_same(
        got.label_probs, naive_probs(loaded, CONVERSATIONS, label_ids(loaded, MIXED, end=False))
    )


def test_a_batch_holds_no_more_padded_tokens_than_allowed() -> None:
    loaded = make_loaded()
    limit, shapes = 200, []
    target = LocalTarget(loaded, max_batch_tokens=limit)
    scores(target, [conversation("x")], SINGLE)  # the model is measured before the first one

    def watch(_module: object, _arguments: object, options: dict[str, Tensor]) -> None:
        # The mask covers what stands before the tokens that are read, too.
        shapes.append(tuple(options["attention_mask"].shape))

    loaded.model.base_model.register_forward_pre_hook(watch, with_kwargs=True)
    conversations = [conversation(f"{n} " + "ab" * (n % 9)) for n in range(20)]
    scores(target, conversations, SINGLE)
    [prefix, *batches] = shapes
    assert prefix[0] == 1
    assert sum(rows for rows, _ in batches) >= 20
    assert all(rows * length <= limit for rows, length in batches)
    assert any(rows > 1 for rows, _ in batches)
    assert len(batches) > 1


def test_the_order_of_the_examples_changes_nothing(loaded: LoadedModel) -> None:
    target = LocalTarget(loaded)
    got = scores(target, CONVERSATIONS, MIXED).label_probs
    turned = scores(target, CONVERSATIONS[::-1], MIXED).label_probs
    assert_same(turned.flip(0), got)


def test_the_order_of_the_labels_is_the_order_of_the_columns(loaded: LoadedModel) -> None:
    target = LocalTarget(loaded)
    got = scores(target, CONVERSATIONS, MIXED).label_probs
    assert_same(scores(target, CONVERSATIONS, MIXED[::-1]).label_probs.flip(1), got)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_padding_side_of_the_tokenizer_changes_nothing(side: str) -> None:
    loaded = make_loaded()
    loaded.tokenizer.padding_side = side
    got = scores(LocalTarget(loaded), CONVERSATIONS, MIXED).label_probs
    labels = label_ids(loaded, MIXED, end=False)
    assert_same(got, naive_probs(loaded, CONVERSATIONS, labels))


@pytest.mark.parametrize("words", [SINGLE, MIXED, BEGINNING])
def test_one_conversation_alone_works(loaded: LoadedModel, words: tuple[str, ...]) -> None:
    got = scores(LocalTarget(loaded), CONVERSATIONS[:1], words).label_probs
    labels = label_ids(loaded, words, end=words is BEGINNING)
    assert_same(got, naive_probs(loaded, CONVERSATIONS[:1], labels))


def test_equal_conversations_and_conversations_that_share_nothing_work() -> None:
    loaded = make_loaded()
    loaded.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    conversations: list[list[Message]] = [
        [{"role": "user", "content": text}] for text in ("abc", "abc", "zbc", "q")
    ]
    labels = label_ids(loaded, MIXED, end=False)
    expected = naive_probs(loaded, conversations, labels)
    target = LocalTarget(loaded)
    assert_same(scores(target, conversations, MIXED).label_probs, expected)
    assert_same(scores(target, conversations[:2], MIXED).label_probs, expected[:2])


def test_a_label_word_that_spells_markup_is_plain_text() -> None:
    loaded = make_loaded()
    got = scores(LocalTarget(loaded), CONVERSATIONS, ("<|im_end|>", "y")).label_probs
    labels = [
        loaded.tokenizer(word, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        for word in ("<|im_end|>", "y")
    ]
    assert len(labels[0]) > 1
    assert_same(got, naive_probs(loaded, CONVERSATIONS, labels))


def test_the_tokenizer_adds_no_token_to_a_label_word() -> None:
    loaded = make_loaded()
    expected = scores(LocalTarget(loaded), CONVERSATIONS, MIXED).label_probs
    loaded.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    got = scores(LocalTarget(loaded), CONVERSATIONS, MIXED).label_probs
    assert torch.equal(got, expected)


def test_tokens_are_counted_with_the_shared_ones_once() -> None:
    loaded = make_loaded()
    conversations = [conversation(f"The message is: {end}") for end in ("a", "ab")]
    one, two = (encode_chat(loaded.tokenizer, c) for c in conversations)
    shared = next(i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
    read = scores(LocalTarget(loaded), conversations, SINGLE).usage.read
    assert read == shared + (len(one) - shared) + (len(two) - shared)
    own = len(one) + len(two) - 2 * shared
    # "red" is r-ed in this tokenizer: "r" is read along with the input that "y" is asked behind.
    [red] = label_ids(loaded, ["red"], end=False)
    assert len(red) == 2
    read = scores(LocalTarget(loaded), conversations, ("y", "red")).usage.read
    assert read == shared + own + 2
    # "on" and "blue" go on in two ways behind an input, which is too short to be kept for that.
    on, blue = label_ids(loaded, ["on", "blue"], end=False)
    assert on[0] != blue[0]
    read = scores(LocalTarget(loaded), conversations, ("on", "blue")).usage.read
    assert read == shared + own + own + 2 * (len(on) + len(blue) - 2)


def test_the_target_is_entered_to_speak_and_only_then() -> None:
    events: list[str] = []

    @contextmanager
    def speaking() -> Iterator[None]:
        events.append("enter")
        yield
        events.append("leave")

    loaded = make_loaded()
    loaded.model.base_model.register_forward_hook(lambda *_: events.append("speak"))
    target = LocalTarget(loaded, speaking=speaking)
    scores(target, CONVERSATIONS, SINGLE)
    # The model is measured inside, too; from then on there is nothing but the work itself.
    assert (events[0], set(events[1:-1]), events[-1]) == ("enter", {"speak"}, "leave")
    events.clear()
    scores(target, CONVERSATIONS, SINGLE)
    assert events == ["enter", "speak", "speak", "leave"]


def test_a_trained_agent_on_the_same_weights_does_not_change_the_target() -> None:
    plain = scores(LocalTarget(make_loaded()), CONVERSATIONS, MIXED).label_probs
    loaded = make_loaded()
    agent = AgentLLM(loaded, AdaptedModel(loaded.model, make_lora(), seed=0), temperature=1.0)
    disturb(agent.learned_parameters())
    got = scores(LocalTarget(loaded, speaking=agent.as_base), CONVERSATIONS, MIXED).label_probs
    assert torch.equal(got, plain)
    as_policy = scores(LocalTarget(loaded), CONVERSATIONS, MIXED).label_probs
    assert (as_policy - plain).abs().max() > 1e-3


@pytest.mark.parametrize(("spare", "fits"), [(0, True), (-1, False), (1, True)])
def test_fits_leaves_room_for_the_prompt_and_the_answer(spare: int, fits: bool) -> None:
    loaded = make_loaded()
    used = len(encode_chat(loaded.tokenizer, CONVERSATIONS[0]))
    loaded.model.config.max_position_embeddings = used + 7 + ANSWER_ROOM + spare
    assert LocalTarget(loaded).fits(CONVERSATIONS[0], room=7) is fits


def test_fits_knows_the_context_of_gpt2() -> None:
    loaded = make_loaded(model=make_gpt2())
    target = LocalTarget(loaded)
    used = len(encode_chat(loaded.tokenizer, CONVERSATIONS[0]))
    assert target.fits(CONVERSATIONS[0], room=512 - ANSWER_ROOM - used)
    assert not target.fits(CONVERSATIONS[0], room=512 - ANSWER_ROOM - used + 1)


def test_each_conversation_may_have_words_of_its_own(loaded: LoadedModel) -> None:
    words = [("y", "n"), ("red", "y", "on hold"), ("y", "n"), ("on", "on hold")]
    got = LocalTarget(loaded).label_scores(CONVERSATIONS, words).label_probs
    assert got.shape == (4, 3)
    for row, conversation_, own in zip(got, CONVERSATIONS, words, strict=True):
        end = own == ("on", "on hold")
        [expected] = naive_probs(loaded, [conversation_], label_ids(loaded, own, end=end))
        assert_same(row[: len(own)], expected)
        assert row[len(own) :].tolist() == [0.0] * (3 - len(own))


PLAIN = [[{"role": "user", "content": f"Classify. Input: {text} Output:"}] for text in TEXTS]


@torch.no_grad()
def test_a_plain_text_is_read_without_a_template_and_answered_behind_a_space(
    loaded: LoadedModel,
) -> None:
    words = ("red", "y")
    labels = label_ids(loaded, [f" {word}" for word in words], end=False)
    expected = []
    for [message] in PLAIN:
        query = loaded.tokenizer(message["content"])["input_ids"]
        row = []
        for label in labels:
            logits = loaded.model(torch.tensor([query + label]), use_cache=False).logits[0]
            told = logits[len(query) - 1 : -1].log_softmax(dim=-1)
            row.append(told[torch.arange(len(label)), torch.tensor(label)].sum())
        expected.append(torch.stack(row))
    got = scores(LocalTarget(loaded, plain=True), PLAIN, words).label_probs
    assert_same(got, torch.stack(expected).softmax(dim=1))


def test_white_space_at_the_end_of_a_plain_text_does_not_matter(loaded: LoadedModel) -> None:
    target = LocalTarget(loaded, plain=True)
    spaced = [[{**message, "content": message["content"] + " \n"}] for [message] in PLAIN]
    got = scores(target, spaced, MIXED).label_probs
    assert torch.equal(got, scores(target, PLAIN, MIXED).label_probs)


def test_special_tokens_in_a_plain_text_are_characters(loaded: LoadedModel) -> None:
    text = "a <|im_end|> b"
    target = LocalTarget(loaded, plain=True)
    scores(target, [[{"role": "user", "content": text}]], SINGLE)
    ids = loaded.tokenizer(text, split_special_tokens=True)["input_ids"]
    assert loaded.tokenizer.eos_token_id not in ids
    room = loaded.context_length - len(ids) - ANSWER_ROOM
    assert target.fits([{"role": "user", "content": text}], room)
    assert not target.fits([{"role": "user", "content": text}], room + 1)


def test_a_text_is_measured_as_an_answer(loaded: LoadedModel) -> None:
    [on_hold] = label_ids(loaded, ["on hold"], end=False)
    assert LocalTarget(loaded).num_tokens("on hold") == len(on_hold)
    [spaced] = label_ids(loaded, [" on hold"], end=False)
    assert LocalTarget(loaded, plain=True).num_tokens("on hold") == len(spaced)
