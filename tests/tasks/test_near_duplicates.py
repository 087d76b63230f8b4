import random
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stableprompt.errors import ConfigError
from stableprompt.tasks.example import Example
from stableprompt.tasks.near_duplicates import (
    NearDuplicate,
    near_duplicate_note,
    near_duplicates,
)
from stableprompt.tasks.splits import SPLIT_NAMES, SplitName, Splits

TEN = "one two three four five six seven eight nine ten"


def splits(
    train: list[str] | None = None,
    validation: list[str] | None = None,
    test: list[str] | None = None,
) -> Splits:
    parts = [[Example(text, "a") for text in part or []] for part in (train, validation, test)]
    return Splits(*(tuple(part) for part in parts))


def by_comparing_all(given: Splits, threshold: float) -> list[NearDuplicate]:
    """The definition, word by word: every text against every text of the splits before."""
    found = []
    earlier: list[tuple[str, SplitName]] = []
    for name in SPLIT_NAMES:
        texts = list(dict.fromkeys(e.text for e in given.part(name) if len(e.text.split()) >= 6))
        for text in texts:
            best: NearDuplicate | None = None
            for other, other_name in earlier:
                a, b = grams(text), grams(other)
                similarity = len(a & b) / len(a | b)
                if similarity >= threshold and (best is None or similarity > best.similarity):
                    best = NearDuplicate(text, name, other, other_name, similarity)
            if best is not None:
                found.append(best)
        earlier += [(text, name) for text in texts]
    return found


def grams(text: str) -> set[str]:
    words = text.split()
    return {" ".join(words[i : i + 3]) for i in range(len(words) - 2)}


# Two words: many shared grams, every similarity. Up to 40 words, so that sets differ in size.
TEXTS = st.lists(
    st.text("ab", min_size=4, max_size=12) | st.text("abcd", min_size=4, max_size=40), max_size=8
).map(lambda texts: [" ".join(letters) for letters in texts])


@settings(deadline=None, max_examples=300)
@given(TEXTS, TEXTS, TEXTS, st.sampled_from([0.05, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.0]))
@example([TEN], [], [TEN + " eleven twelve"], 0.8)  # exactly 8 of 10 grams
@example([" ".join(map(str, range(27)))], [], ["0 1 2 3 4 5 6 7 8"], 0.28)  # exactly 7 of 25
def test_it_finds_what_comparing_all_pairs_finds(
    train: list[str], validation: list[str], test: list[str], threshold: float
) -> None:
    given = splits(train, validation, test)
    assert near_duplicates(given, threshold=threshold) == by_comparing_all(given, threshold)


@pytest.mark.parametrize("seed", range(5))
def test_copies_with_a_few_changed_words_are_found_as_by_comparing_all_pairs(seed: int) -> None:
    rng = random.Random(seed)
    words = [f"w{i}" for i in range(200)]
    originals = [rng.choices(words, k=rng.randint(6, 60)) for _ in range(60)]

    def changed(text: list[str]) -> str:
        copy = list(text)
        for _ in range(rng.randint(0, 2)):
            copy[rng.randrange(len(copy))] = rng.choice(words)
        return " ".join(copy)

    given = splits(*([changed(rng.choice(originals)) for _ in range(60)] for _ in range(3)))
    expected = by_comparing_all(given, 0.8)
    assert len(expected) > 15
    assert near_duplicates(given, threshold=0.8) == expected


def test_the_similarity_is_the_share_of_shared_word_trigrams() -> None:
    # 8 grams and 9 grams, the first has all of its 8 in the second: 8 / 9.
    [pair] = near_duplicates(splits([TEN + " eleven"], [], [TEN]))
    assert pair == NearDuplicate(TEN, "test", TEN + " eleven", "train", 8 / 9)


def test_case_and_punctuation_do_not_count() -> None:
    [pair] = near_duplicates(splits([TEN], [TEN.upper().replace(" ", ", ") + "!"]))
    assert pair.similarity == 1
    assert (pair.split, pair.other_split) == ("validation", "train")


def test_words_of_every_script_count() -> None:
    text = "это очень длинное предложение на другом языке"
    assert len(near_duplicates(splits([text], [], [text + "."]))) == 1


def test_the_order_of_words_counts() -> None:
    backwards = " ".join(reversed(TEN.split()))
    assert near_duplicates(splits([TEN], [], [backwards]), threshold=0.01) == []


def test_only_texts_of_different_splits_are_compared() -> None:
    assert near_duplicates(splits([TEN, TEN + "!"], [], ["another text with some six words"])) == []


def test_each_example_is_reported_once_with_its_nearest() -> None:
    train = [TEN + " eleven twelve", TEN + " eleven", "0 " + TEN]
    [pair] = near_duplicates(splits(train, [], [TEN]))
    assert pair.other_text == TEN + " eleven"  # 8 of 9, and before the other with 8 of 9


def test_a_validation_example_is_compared_with_train_and_not_with_test() -> None:
    pairs = near_duplicates(splits([], [TEN], [TEN + "!"]))
    assert [(pair.split, pair.other_split) for pair in pairs] == [("test", "validation")]


@pytest.mark.parametrize(
    ("text", "found"), [("yes yes yes yes yes", 0), ("yes yes yes yes yes yes", 1), ("", 0)]
)
def test_texts_of_fewer_than_six_words_are_left_out(text: str, found: int) -> None:
    assert len(near_duplicates(splits([text], [], [text + "!"]))) == found


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match="above 0 and at most 1, found"):
        near_duplicates(splits([TEN]), threshold=threshold)


def test_thousands_of_texts_from_one_template_take_seconds() -> None:
    # Compared pair by pair these are 9 million set intersections, about ten seconds.
    template = (
        "decide whether this sentence about sports is plausible and answer yes or no: {} scored"
    )
    texts = [template.format(f"player{i}") for i in range(6000)]
    start = time.perf_counter()
    assert near_duplicates(splits(texts[:3000], [], texts[3000:])) == []
    assert time.perf_counter() - start < 4


def test_the_note_counts_by_split_and_shows_the_most_similar_pair_where_it_differs() -> None:
    far = NearDuplicate("a", "validation", "b", "train", 0.8)
    near = NearDuplicate(f"{TEN} eleven", "test", f"{TEN} twelve\nthirteen", "validation", 0.9)
    note = near_duplicate_note([far, near, far])
    assert note == (
        "2 validation examples and 1 test example nearly equal one of train or validation, such "
        "as '…eight nine ten eleven' (test) and '…eight nine ten twelve\\nthirteen' (validation); "
        "all were kept: where they are copies, remove one of the two, or scores on them say "
        "little about new texts"
    )


def test_the_note_about_one_pair_is_in_the_singular() -> None:
    pair = NearDuplicate("fifteen lettersX", "test", "fifteen lettersY", "train", 0.9)
    note = near_duplicate_note([pair])
    assert note is not None
    assert note.startswith(
        "1 test example nearly equals one of train, such as 'fifteen lettersX' (test)"
    )


def test_without_pairs_there_is_no_note() -> None:
    assert near_duplicate_note([]) is None
