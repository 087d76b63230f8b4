"""Texts as the plain characters that they are, whatever markup they spell.

A tokenizer reads some strings as one token each: those of a chat (``<|im_start|>``), of thinking
or of tools (``<think>``). In an example or a prompt they are characters like others.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stableprompt.errors import ModelError


def markup_of(tokenizer: Any) -> dict[int, str]:
    """Id -> string of every token that steers a chat.

    Those marked special, and of the other added ones those that the chat template writes: the
    rest, such as runs of spaces or ``<table>``, are vocabulary. The token for unknown characters
    is none either: it stands for what the text has and the vocabulary has not.
    """
    unknown = None if _ends_texts(tokenizer) else tokenizer.unk_token_id
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    return {
        int(number): token.content
        for number, token in tokenizer.added_tokens_decoder.items()
        if int(number) != unknown
        and token.content
        and (token.special or (token.content.strip() and _is_in(token, template)))
    }


def _ends_texts(tokenizer: Any) -> bool:
    """Whether the unknown token is something else, too, as in GPT-2, where it is never needed."""
    return tokenizer.unk_token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id)


def spells_unknown(tokenizer: Any, text: str) -> bool:
    """Whether the text spells the token for unknown characters."""
    return bool(tokenizer.unk_token) and tokenizer.unk_token in text


def _is_in(token: Any, template: str) -> bool:
    # A word or a bracket alone would be in any template: only what looks like a tag.
    return len(token.content) > 2 and not token.content.isalnum() and token.content in template


def markers(ids: Sequence[int], markup: Mapping[int, str]) -> list[int]:
    """Those of the ids that are markup, in order."""
    return [number for number in ids if number in markup]


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text, none of them markup.

    What the tokenizer still reads as markup (a token that is not marked special, or a word of
    its vocabulary that is written as one) is cut behind its first character.

    Raises:
        ModelError: a single character is markup for this tokenizer.
    """
    markup, ids = markup_of(tokenizer), []
    waiting = [text]
    while waiting:
        part = waiting.pop()
        found = tokenizer(part, add_special_tokens=False, split_special_tokens=True, verbose=False)[
            "input_ids"
        ]
        if not markers(found, markup):
            ids += found
            continue
        if len(part) == 1:
            raise ModelError(
                f"the model's tokenizer reads the character {part!r} as markup, and the data has "
                "it; take it out of the data, or take another model"
            )
        waiting += reversed(list(_cut(tokenizer, part, markup)))
    return ids


def _cut(tokenizer: Any, text: str, markup: Mapping[int, str]) -> Iterator[str]:
    """The parts of a text, with a cut inside everything that is read as markup."""
    places = [len(text) // 2]  # where a tokenizer does not say where its tokens are
    if tokenizer.is_fast:
        told = tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        spans = zip(told["input_ids"], told["offset_mapping"], strict=True)
        inside = [begin + 1 for number, (begin, end) in spans if number in markup and end > begin]
        places = [place for place in inside if place < len(text)] or places
    begin = 0
    for place in (*places, len(text)):
        if place > begin:
            yield text[begin:place]
            begin = place
