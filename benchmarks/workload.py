"""The standard workload: what is scored, with which prompts, on which examples.

SST-2 where its data is at hand, else the bundled task ``support``; the results say which.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from stableprompt.config import TuneConfig, make_config, merge
from stableprompt.tasks.benchmarks.source import DATA_VARIABLE
from stableprompt.tasks.example import Example
from stableprompt.tasks.named import load_named
from stableprompt.tasks.splits import Splits
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import Message, template_of

TASK, STAND_IN = "sst2", "support"
MOST_EXAMPLES = 128

# 20 to 60 tokens each, and no two begin alike: only what every plan shares is shared.
PROMPTS = (
    "Decide whether the sentence from a film review is positive. Answer with exactly one word, "
    "yes or no.",
    "Read this sentence from a movie review carefully. If the writer liked the film, answer yes; "
    "if the writer did not like it, answer no.",
    "You are given one sentence taken from a review of a film. Judge the overall feeling that it "
    "expresses, and reply with a single word: yes if praise outweighs criticism, no otherwise.",
    "What is the sentiment of the text? Say yes when it is favourable and no when it is not, and "
    "nothing else.",
    "Classify the sentiment. Think about the adjectives that the critic uses, and whether they "
    "praise the film, its actors and its story or complain about them. Answer yes for praise and "
    "no for complaint, in lower case and without a full stop.",
    "Is the critic happy with the film? Write yes for happy, no for unhappy; just that one word.",
    "Label the review. Pay attention to irony, and to words such as but and although, because "
    "what comes after them usually counts more than what comes before. Give one word: yes for "
    "a good opinion, no for a bad one.",
    "Determine if this text, which is from a movie review, recommends the movie. Use yes for a "
    "recommendation and no for a warning.",
)
MORE_PROMPTS = tuple(f"Task {n}. {prompt}" for n, prompt in enumerate(PROMPTS, start=1))

_ADVICE = (
    "Critics seldom say plainly what they think.",
    "They compare, they exaggerate, they quote, and they hide a verdict behind a joke.",
    "Look first for words that carry a judgement of their own, such as moving, tedious, charming, "
    "clumsy, fresh or stale.",
    "Then look at what is done to them: a negation turns a judgement round, a hedge weakens it, "
    "and a superlative makes it stronger.",
    "Where a sentence praises one thing and blames another, the film as a whole counts for more "
    "than a single actor, a scene or the music, and the end of the sentence counts for more than "
    "its beginning.",
    "A description of the plot is not a judgement, however sad or cheerful the plot may be.",
    "A question that expects no answer is usually a complaint.",
    "Irony is a complaint too: praise that nobody could mean is not praise.",
    "Where you are still in doubt, ask yourself whether the writer would tell a friend to buy a "
    "ticket, and answer accordingly.",
)
_OPENINGS = (
    "Answer yes if the sentence speaks well of the film, and no if it does not.",
    "Here are the rules for sorting what critics write into yes, meaning favourable, and no.",
    "Sort film reviews. The answer is the word yes or the word no; yes stands for a good one.",
    "Your job is to tell good reviews from bad ones: yes for the good ones, no for the bad ones.",
)
# 150 to 250 tokens each. The advice stands behind different openings, so it is not shared.
LONG_PROMPTS = tuple(" ".join([opening, *_ADVICE[n:]]) for n, opening in enumerate(_OPENINGS))


@dataclass(frozen=True)
class Workload:
    """A task with settings, and the prompts and examples that are scored."""

    task: Task
    config: TuneConfig
    prompts: tuple[str, ...]
    examples: tuple[Example, ...]
    long_prompts: tuple[str, ...]
    long_examples: tuple[Example, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """What may be answered; the same for all examples."""
        return tuple(self.task.answer_words(self.examples[0]))

    @cached_property
    def right(self) -> list[int]:
        """The place of the right word, example by example."""
        return self.right_of(self.examples)

    def right_of(self, examples: Sequence[Example]) -> list[int]:
        """The same for other examples."""
        return [self.task.labels.index(example.label) for example in examples]

    def conversations(
        self, prompts: Sequence[str], examples: Sequence[Example]
    ) -> list[list[list[Message]]]:
        """For each prompt the messages that go with each example."""
        template = template_of(self.config.target)
        return [[template.messages(prompt, e) for e in examples] for prompt in prompts]


def load_workload(
    data_dir: Path | None,
    settings: dict[str, Any],
    *,
    num_prompts: int = 8,
    num_examples: int = 32,
) -> Workload:
    """Read the data, and choose prompts and examples.

    Args:
        data_dir: The benchmarks' data; None for ``$STABLEPROMPT_DATA``.
        settings: Of models, device and precision, over those of the workload.
        num_prompts: P, 16 at most.
        num_examples: N, 128 at most.
    """
    task = _enough_to_draw_from(_load_task(data_dir))
    config = make_config(
        merge(
            {
                "agent": {"max_prompt_tokens": 60, "num_demonstrations": 5},
                "reward": {"examples_per_step": num_examples},
                "ppo": {
                    "prompts_per_step": num_prompts,
                    "minibatch_size": num_prompts,
                    "exploration": 0,  # the policy writes all of them, as plain copies do
                },
                # All checks run, but refuse next to nothing: a step scores what it writes.
                "guards": {
                    "reject_truncated": False,
                    "max_surprise": 1e9,
                    "require_instruction": False,
                },
            },
            settings,
        )
    )
    return Workload(
        task,
        config,
        (*PROMPTS, *MORE_PROMPTS)[:num_prompts],
        task.train[:num_examples],
        LONG_PROMPTS,
        task.train[: max(4, num_examples // 2)],
    )


def _load_task(data_dir: Path | None) -> Task:
    named = data_dir is not None or os.environ.get(DATA_VARIABLE, "").strip()
    # Not from the hub: what is measured must not hang on what can be reached.
    return load_named(TASK, data_dir=data_dir) if named else load_named(STAND_IN)


def _enough_to_draw_from(task: Task) -> Task:
    """A few training examples do not make a large N: those of test stand in.

    Nothing is tuned or reported here, so that no split has to be kept from another.
    """
    if len(task.train) > MOST_EXAMPLES + 5:
        return task
    everything = (*task.test, *task.train)
    size = min(2 * MOST_EXAMPLES, len(everything) - 16)
    splits = Splits(train=everything[:size], validation=task.validation, test=everything[size:])
    return replace(task, splits=splits)


def of_length(tokenizer: Any, num_tokens: int, variant: int = 0) -> str:
    """A prompt of about so many tokens, for showing how time grows with it."""
    text = " ".join([_OPENINGS[variant % len(_OPENINGS)], *_ADVICE, *_ADVICE])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][:num_tokens]
    return str(tokenizer.decode(ids)).strip()


def plain_ids(tokenizer: Any, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
    """Token ids of conversations up to where the answer begins, as transformers encodes them."""
    return [
        list(
            tokenizer.apply_chat_template(
                [dict(message) for message in conversation],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                enable_thinking=False,
            )
        )
        for conversation in conversations
    ]


def answer_ids(tokenizer: Any, words: Sequence[str]) -> list[list[int]]:
    """Token ids of label words where an answer begins."""
    opening = [{"role": "user", "content": "a"}]
    before = tokenizer.apply_chat_template(opening, add_generation_prompt=True, tokenize=False)
    encoded = [
        tokenizer(before + word, add_special_tokens=False)["input_ids"][
            len(tokenizer(before, add_special_tokens=False)["input_ids"]) :
        ]
        for word in words
    ]
    if any(a is not b and b[: len(a)] == a for a in encoded for b in encoded):
        raise ValueError(f"one of the label words {words} begins another; the controls need others")
    return encoded
