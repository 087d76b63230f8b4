import pytest
from hypothesis import given
from hypothesis import strategies as st

from stableprompt.tasks.prompt_checks import CopyIndex, LeakIndex, PromptFault, find_fault

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
        "Sort.\x1b[0m",
        "Sort.\x00",
        "Sort.\x85",
        "Sort. \ufffd",
        "Sort. \ud83d",
    ],
)
def test_markup(prompt: str) -> None:
    assert fault_of(prompt) is PromptFault.MARKUP


@pytest.mark.parametrize("prompt", ["<think>well</think> Sort.", "Sort. </THINKING >"])
def test_tags_of_thinking(prompt: str) -> None:
    assert fault_of(prompt) is PromptFault.THINK


FIELDS = ("text", "premise", "hypothesis")


@pytest.mark.parametrize(
    ("prompt", "keep", "fault"),
    [
        ("Sort {text}.", "Do {text}", None),
        ("Sort {{ text }} and {text}.", "Do {text}", None),  # filled in here, however spelled
        ("Sort it.", "Do {text}", PromptFault.PLACEHOLDER),  # lost
        ("Sort {text} for {name}.", "Do {text}", PromptFault.PLACEHOLDER),  # invented
        ("Sort {premise}.", "{premise} {hypothesis}", PromptFault.PLACEHOLDER),
        ("Sort {txt}.", "Do it.", PromptFault.PLACEHOLDER),
        ('Reply {"team": ...}.', "Do it.", None),  # braces, but no placeholder
        ("Sort it, {{name}}.", "Do it for {{name}}.", None),
        ("Sort it, {name}.", "Do it for {{name}}.", PromptFault.PLACEHOLDER),  # the user's own
    ],
)
def test_placeholders_are_kept_and_none_is_invented(
    prompt: str, keep: str, fault: PromptFault | None
) -> None:
    found = find_fault(prompt, truncated=False, example_texts=(), keep=keep, fields=FIELDS)
    assert found is fault


CLOSED = LeakIndex(["positive", "negative", "not sure"], closed=True)
LETTERS = LeakIndex(["A", "B", "C", "D"], closed=True)
OPEN = LeakIndex(["six hundred", "c", "Paris"], closed=False)


@pytest.mark.parametrize(
    ("prompt", "leaks"),
    [
        ("The answer is positive.", CLOSED),
        ("Read it. Output: NEGATIVE", CLOSED),
        ("Label = 'not sure'", CLOSED),
        ("The answer should be positive!", CLOSED),
        ("The answer is positive because it praises the film.", CLOSED),
        ("The answer is always positive.", CLOSED),
        ("The answer is positive for every text.", CLOSED),
        ("The label is definitely positive.", CLOSED),
        ("Reply with positive.", CLOSED),
        ("Always answer 'negative'!", CLOSED),
        ("Just say not sure", CLOSED),
        ("The answer is always B.", LETTERS),
        ("Reply with the letter C.", LETTERS),
        ("Always output Paris.", OPEN),
        ("The correct answer is B.", LETTERS),
        ("Answer: (C)", LETTERS),
        ("the output is six hundred", OPEN),
        ("Output : C", OPEN),
        ("The answer is paris; think of France", OPEN),
    ],
)
def test_a_prompt_that_states_an_answer_leaks_it(prompt: str, leaks: LeakIndex) -> None:
    found = find_fault(prompt, truncated=False, example_texts=(), leaks=leaks)
    assert found is PromptFault.LEAK


@pytest.mark.parametrize(
    ("prompt", "leaks"),
    [
        ("Answer positive, negative or not sure.", CLOSED),
        ("Output: positive or negative", CLOSED),
        ("The label is negative, positive or not sure.", CLOSED),
        ("The answer is positive if it praises the film.", CLOSED),
        ("Is the label positive?", CLOSED),
        ("What is the answer? Positive reviews praise.", CLOSED),
        ("Decide whether the review is positive.", CLOSED),
        ("The answer is unpositive.", CLOSED),
        ("The answer is a letter.", LETTERS),  # an article, not the choice
        ("Output: A single letter.", LETTERS),
        ("Answer: A letter", LETTERS),
        ("Reply with a letter.", LETTERS),
        ("Answer with positive or negative.", CLOSED),
        ("Reply positive when it praises the film.", CLOSED),
        ("Output: A, B, C or D", LETTERS),
        ("The answer is the capital, such as Paris", OPEN),
        ("The output is a city in France", OPEN),
    ],
)
def test_a_prompt_that_offers_answers_does_not(prompt: str, leaks: LeakIndex) -> None:
    assert find_fault(prompt, truncated=False, example_texts=(), leaks=leaks) is None


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


def test_words_of_the_prompt_that_was_there_before_are_no_copy() -> None:
    index = CopyIndex(["the weather in paris", LONG], allowed=f"Say {LONG} of the weather in Paris")
    assert not index.is_copied_in("The weather in Paris")
    assert not index.is_copied_in(LONG)
    assert CopyIndex([LONG], allowed="one two three").is_copied_in(LONG)


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
        "think",
        "markup",
        "placeholder",
        "leak",
        "copy",
        "no_instruction",
        "babble",
    ]
