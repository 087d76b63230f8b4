"""Chat messages to token ids, so that data can never act as chat markup."""

from collections.abc import Mapping, Sequence
from typing import Any

from stableprompt.errors import ModelError

Message = Mapping[str, str]


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
    rendered: str = tokenizer.apply_chat_template(
        [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
    )
    return rendered


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
        if holder not in skeleton:
            raise ModelError(
                f"the chat template leaves out the {message['role']} message; "
                "try another target.position"
            )
        markup, skeleton = skeleton.split(holder, maxsplit=1)
        ids += _encode(tokenizer, markup)
        ids += _encode(tokenizer, message["content"], split_special_tokens=True)
    return ids + _encode(tokenizer, skeleton)
