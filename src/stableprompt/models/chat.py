"""Chat messages to token ids, so that data can never act as chat markup."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from stableprompt.errors import ModelError

Message = Mapping[str, str]
_HOLDER = "\ue000\ue001"  # private-use characters: no template and no text has them


def encode_chat(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation that ends where the assistant's answer begins.

    Content that spells a special token (``<|im_start|>``, say) is encoded as the plain
    characters it consists of.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template.
        messages: Roles and contents, in order.

    Returns:
        The ids, special tokens of the template included.
    """
    special = special_tokens(tokenizer)
    if not any(token in message["content"] for message in messages for token in special):
        return _encode(tokenizer, _render(tokenizer, messages))
    return _encode_in_pieces(tokenizer, messages)


def special_tokens(tokenizer: Any) -> list[str]:
    """Every string that the tokenizer would read as markup, those without a role included.

    ``tokenizer.all_special_tokens`` holds only the named ones (end of text, padding, ...).
    """
    added = (token for token in tokenizer.added_tokens_decoder.values() if token.special)
    return [token.content for token in added if token.content]


def _render(tokenizer: Any, messages: Sequence[Message]) -> str:
    try:
        rendered: str = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,  # for templates that would open a thinking block
        )
    except TemplateError as error:
        raise ModelError(
            f"the model's chat template refuses these messages ({error}); where it knows no "
            "system role, use --set target.position=user"
        ) from error
    for message in messages:
        if message["content"].strip() not in rendered:
            raise ModelError(
                f"the model's chat template does not show the {message['role']} message as it is; "
                "use --set target.position=user"
            )
    return rendered


def end_of_turn_ids(tokenizer: Any, configured: int | Sequence[int] | None) -> list[int]:
    """Token ids that end an answer, the chat template's own first.

    Args:
        tokenizer: A Hugging Face tokenizer.
        configured: ``eos_token_id`` of the model's generation settings.

    Raises:
        ModelError: none is known.
    """
    found: list[int] = []
    if tokenizer.chat_template:
        turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _HOLDER}]
        rendered: str = tokenizer.apply_chat_template(turn, tokenize=False)
        closing = _encode(tokenizer, rendered.partition(_HOLDER)[2])[:1]
        known = special_tokens(tokenizer)
        found = [i for i in closing if tokenizer.convert_ids_to_tokens(i) in known]
    found += [configured] if isinstance(configured, int) else list(configured or [])
    found += [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    if not found:
        raise ModelError("the model names no token that ends an answer; set its eos_token")
    return list(dict.fromkeys(found))


def encode_answer(tokenizer: Any, answer: str, *, plain: bool = False) -> list[int]:
    """Token ids of an answer where the assistant begins to speak.

    In context, because some tokenizers put a space before a word that stands alone. Behind a
    plain text an answer begins with a space.
    """
    opening = "a" if plain else _render(tokenizer, [{"role": "user", "content": "a"}])
    answer = f" {answer}" if plain else answer
    if any(token in answer for token in special_tokens(tokenizer)):
        return _encode(tokenizer, answer, split_special_tokens=True)
    before, whole = _encode(tokenizer, opening), _encode(tokenizer, opening + answer)
    if whole[: len(before)] == before:
        return whole[len(before) :]
    return _encode(tokenizer, answer)


def encode_plain(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a raw text for a base model: what its tokenizer puts first, then the text.

    White space at the end is left out: the answer brings its own. What spells a special token is
    encoded as plain characters.
    """
    ids: list[int] = tokenizer(text.rstrip(), split_special_tokens=True)["input_ids"]
    if ids and ids[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id is not None:
        ids = ids[:-1]  # some tokenizers close the text, but here it goes on
    return ids


def _encode(tokenizer: Any, text: str, *, split_special_tokens: bool = False) -> list[int]:
    ids: list[int] = tokenizer(
        text, add_special_tokens=False, split_special_tokens=split_special_tokens
    )["input_ids"]
    return ids


def _encode_in_pieces(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Render the template around place holders, then encode markup and contents apart.

    Only for contents that spell special tokens: encoding apart may split a word differently at
    the seams than the model saw in training, which the usual path avoids.
    """
    holders = [f"\ue000{number}\ue001" for number in range(len(messages))]  # private-use characters
    skeleton = _render(
        tokenizer,
        [{**m, "content": holder} for m, holder in zip(messages, holders, strict=True)],
    )
    ids: list[int] = []
    for message, holder in zip(messages, holders, strict=True):
        markup, skeleton = skeleton.split(holder, maxsplit=1)
        ids += _encode(tokenizer, markup)
        ids += _encode(tokenizer, message["content"], split_special_tokens=True)
    return ids + _encode(tokenizer, skeleton)
