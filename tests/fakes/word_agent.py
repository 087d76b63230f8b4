"""A tiny agent that speaks whole words, and a scripted target that likes some of them."""

from collections.abc import Sequence

import torch
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from stableprompt.models.adapters import AdaptedModel
from stableprompt.models.agent import AgentLLM
from stableprompt.models.loading import LoadedModel
from stableprompt.models.targets.interface import Answers, LabelScores, Usage
from stableprompt.tasks.task import Task
from tests.fakes.target_stub import TargetStub
from tests.fakes.tiny_model import CHAT_TEMPLATE, make_model

LIKED = ("please", "kindly")
OTHERS = "sort pick read tell name text label word one team then first best note"
WORDS = (*LIKED, *OTHERS.split(" "))
LABELS = ("red", "green")


def make_word_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; words that it does not know become <unk>."""
    special = ["<pad>", "<|im_start|>", "<|im_end|>", "<unk>"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
    )


def make_agent(*, seed: int = 0, temperature: float = 1.0) -> AgentLLM:
    """A random two-layer Llama with fresh adapters."""
    tokenizer = make_word_tokenizer()
    model = make_model(len(tokenizer), seed=seed)
    model.requires_grad_(False)
    loaded = LoadedModel("word-agent", model, tokenizer, torch.device("cpu"))
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    return AgentLLM(loaded, AdaptedModel(model, lora, seed=seed), temperature=temperature)


class ScriptedTarget(TargetStub):
    """Answers better the more of the prompt's words it likes.

    Each text holds its own label word; the probability of that word is 0.2 at worst and 0.9
    where every word of the prompt is liked.
    """

    name = "scripted"

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def label_scores(
        self, conversations: Sequence[Sequence[dict[str, str]]], words: Sequence[Sequence[str]]
    ) -> LabelScores:
        rows = []
        for (system, user), labels in zip(conversations, words, strict=True):
            self.seen.append((system["content"], user["content"]))
            spoken = system["content"].split()
            share = sum(word in LIKED for word in spoken) / max(1, len(spoken))
            correct = 0.2 + 0.7 * share
            others = (1 - correct) / (len(labels) - 1)
            rows.append([correct if w in user["content"].split() else others for w in labels])
        return LabelScores(torch.tensor(rows), Usage(read=len(rows)))

    def generate(
        self, conversations: Sequence[Sequence[dict[str, str]]], max_tokens: int
    ) -> Answers:
        raise AssertionError("a classification task asks for no generated answer")

    def num_tokens(self, text: str) -> int:
        return len(text.split())

    def markup(self) -> list[str]:
        return []

    def fits(self, conversation: Sequence[dict[str, str]], room: int) -> bool:
        return True


def make_task(*, seed_prompt: str = "sort one text", size: int = 60) -> Task:
    """Texts that hold their own label word."""
    rows = [
        {"text": f"{LABELS[i % 2]} thing number {i}", "label": LABELS[i % 2]} for i in range(size)
    ]
    return Task.from_records(rows, name="colours", seed_prompt=seed_prompt)
