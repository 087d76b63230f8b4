"""A target on paper counts what the real one would count, and answers nothing."""

import pytest
import torch

from stableprompt.models.chat import Message, encode_chat
from stableprompt.models.loading import LoadedModel
from stableprompt.models.targets.local import LocalTarget
from stableprompt.models.targets.paper import PaperTarget
from tests.fakes.agents import make_loaded

PROMPTS = ("Classify the message.", "Write a better instruction: red or green or blue?")
TEXTS = ("It is red.", "ok", "A much longer message, with many more words in it than others.", "b")
WORDS = ("red", "green", "on hold")


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return make_loaded()


def conversations(*, plain: bool = False) -> list[list[Message]]:
    if plain:
        return [[{"role": "user", "content": f"{p} {text}"}] for p in PROMPTS for text in TEXTS]
    return [
        [{"role": "system", "content": prompt}, {"role": "user", "content": text}]
        for prompt in PROMPTS
        for text in TEXTS
    ]


@pytest.mark.parametrize("plain", [False, True])
def test_it_counts_what_a_target_in_this_process_reads_for_labels(
    loaded: LoadedModel, plain: bool
) -> None:
    asked = conversations(plain=plain)
    real = LocalTarget(loaded, plain=plain).label_scores(asked, [WORDS] * len(asked))
    paper = PaperTarget(loaded, shared=True, plain=plain).label_scores(asked, [WORDS] * len(asked))
    assert paper.usage == real.usage


def test_it_counts_what_a_target_in_this_process_reads_to_write(loaded: LoadedModel) -> None:
    asked = conversations()
    real = LocalTarget(loaded).generate(asked, 5).usage
    paper = PaperTarget(loaded, shared=True, written=real.written / len(asked))
    assert paper.generate(asked, 5).usage == real


def test_behind_an_api_nothing_is_shared(loaded: LoadedModel) -> None:
    asked = conversations()
    read = sum(len(encode_chat(loaded.tokenizer, messages)) for messages in asked)
    paper = PaperTarget(loaded, shared=False, written=2.5)
    for usage in (
        paper.label_scores(asked, [WORDS] * len(asked)).usage,
        paper.generate(asked, 64).usage,
    ):
        assert (usage.read, usage.written) == (read, 20)
    assert read > PaperTarget(loaded, shared=True).generate(asked, 64).usage.read


def test_no_word_is_preferred_and_nothing_is_written(loaded: LoadedModel) -> None:
    asked = conversations()[:2]
    paper = PaperTarget(loaded, shared=False, told=False)
    scores = paper.label_scores(asked, [WORDS, WORDS[:2]])
    expected = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]])
    torch.testing.assert_close(scores.label_probs, expected)
    assert paper.generate(asked, 64).texts == ("", "")
    assert scores.failed == {}
    assert not paper.gives_probabilities
    assert PaperTarget(loaded, shared=True).gives_probabilities


def test_elsewhere_every_text_fits_and_here_it_must(loaded: LoadedModel) -> None:
    long = [{"role": "user", "content": "red " * 5000}]
    assert PaperTarget(loaded, shared=False).fits(long, 0)
    assert not PaperTarget(loaded, shared=True).fits(long, 0)


def test_no_model_runs(loaded: LoadedModel) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the model was run")

    hook = loaded.model.register_forward_pre_hook(refuse)
    try:
        for shared in (False, True):
            paper = PaperTarget(loaded, shared=shared)
            paper.label_scores(conversations(), [WORDS] * 8)
            paper.generate(conversations(), 64)
    finally:
        hook.remove()
