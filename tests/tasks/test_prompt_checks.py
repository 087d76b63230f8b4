import pytest
from hypothesis import given
from hypothesis import strategies as st

from stableprompt.tasks.prompt_checks import CopyIndex, PromptFault, find_fault

LONG = "one two three four five six seven eight nine ten"
TEXTS = ["My parcel never came", "thank you", LONG]


def fault_of(prompt: str, truncated: bool = False) -> PromptFault | None:
    return find_fault(
        prompt,
        truncated=truncated,
        example_texts=TEXTS,
        special_tokens=["", "<|im_end|>", "<bos>"],
    )


@pytest.mark.parametrize(
    "prompt",
    [
        "Sort the message.",
        "Answer with one of: a, b.\n\n\t- a\r\n- b",
        "Is it {text} or <b>bold</b>?",
        "Classe le message : être précis 👍🏽",
        "i think so <thinker>",
    ],
)
def test_sound_prompts_have_no_fault(prompt: str) -> None:
    assert fault_of(prompt) is None


@pytest.mark.parametrize("prompt", ["", " \n\t", "...", "**", "\x00"])
def test_empty(prompt: str) -> None:
    assert fault_of(prompt) is PromptFault.EMPTY


def test_truncated() -> None:
    assert fault_of("Sort the mess", truncated=True) is PromptFault.TRUNCATED


@pytest.mark.parametrize(
    "prompt",
    [
        "Sort.<|im_end|>",
        "<bos>Sort.",
        "<think>well</think> Sort.",
        "Sort. </THINKING >",
        "Sort.\x1b[0m",
        "Sort.\x00",
        "Sort.\x85",
        "Sort. \ufffd",
        "Sort. \ud83d",
    ],
)
def test_markup(prompt: str) -> None:
    assert fault_of(prompt) is PromptFault.MARKUP


@pytest.mark.parametrize(
    "prompt",
    [
        "my parcel never came",
        'Texts like "MY  parcel\nnever came" go to delivery.',
        "Say: two three four five six seven eight nine!",
        LONG,
    ],
)
def test_copies(prompt: str) -> None:
    assert fault_of(prompt) is PromptFault.COPY


@pytest.mark.parametrize(
    "prompt",
    [
        "Say thank you",  # a text of two words
        "my parcel never arrived",
        "parcel never came",  # not the whole of a short text
        "two three four five six seven eight",  # seven words of a long one
        "one two three four five six seven 8 eight nine ten",
        "xmy parcel never came",  # inside other words
    ],
)
def test_what_is_no_copy(prompt: str) -> None:
    assert fault_of(prompt) is None


def test_a_text_of_exactly_eight_words_is_copied_as_a_whole_only() -> None:
    index = CopyIndex(["a b c d e f g h"])
    assert index.is_copied_in("so a b c d e f g h so")
    assert not index.is_copied_in("a b c d e f g")


def test_words_keep_their_apostrophes() -> None:
    index = CopyIndex(["don't do", "it\u2019s not mine"])
    assert not index.is_copied_in("Don't do it")  # two words, not three
    assert index.is_copied_in("IT\u2019S not mine")


def test_without_texts_nothing_is_copied() -> None:
    assert not CopyIndex([]).is_copied_in("anything at all goes here")


def test_a_prepared_index_gives_the_same_answers() -> None:
    index = CopyIndex(TEXTS)
    for prompt in ("my parcel never came", "Sort the message."):
        assert find_fault(prompt, truncated=False, example_texts=index) is fault_of(prompt)


WORDS = st.sampled_from("abc")


@given(st.lists(st.lists(WORDS, max_size=12), max_size=3), st.lists(WORDS, max_size=15))
def test_the_index_agrees_with_the_plain_definition(
    texts: list[list[str]], prompt: list[str]
) -> None:
    spaced = f" {' '.join(prompt)} "

    def is_copied(text: list[str]) -> bool:
        runs = [text[i : i + 8] for i in range(len(text) - 7)]
        whole = [text] if len(text) >= 3 else []
        return any(f" {' '.join(run)} " in spaced for run in [*runs, *whole])

    index = CopyIndex(" ".join(text) for text in texts)
    assert index.is_copied_in(spaced) == any(is_copied(text) for text in texts)


def test_values_are_words_for_logs() -> None:
    assert [str(fault) for fault in PromptFault] == [
        "empty",
        "truncated",
        "copy",
        "markup",
        "babble",
    ]
