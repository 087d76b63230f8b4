"""Chat messages to token ids, so that data can never act as chat markup."""

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from jinja2 import TemplateError

from stableprompt.errors import ModelError
from stableprompt.models.plain_text import markers, markup_of, plain_ids, spells_unknown

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
    rendered = _render(tokenizer, messages)
    ids = _encode(tokenizer, rendered)
    # By the ids, not by the strings: a normaliser may make markup of other characters, and the
    # end of a content may make it with what the template writes next.
    as_shown = markers(ids, markup_of(tokenizer)) == _markers_of_template(tokenizer, messages)
    if as_shown and not any(spells_unknown(tokenizer, m["content"]) for m in messages):
        return ids
    return _encode_in_pieces(tokenizer, messages, rendered)


def special_tokens(tokenizer: Any) -> list[str]:
    """Every string that the tokenizer would read as markup, those without a role included.

    ``tokenizer.all_special_tokens`` holds only the named ones (end of text, padding, ...).
    """
    added = (token for token in tokenizer.added_tokens_decoder.values() if token.special)
    return [token.content for token in added if token.content]


def _render(tokenizer: Any, messages: Sequence[Message]) -> str:
    rendered = _fill_in(
        tokenizer,
        messages,
        add_generation_prompt=True,
        enable_thinking=False,  # for templates that would open a thinking block
    )
    for message in messages:
        if message["content"].strip() not in rendered:
            raise ModelError(
                f"the model's chat template does not show the {message['role']} message as it is; "
                "use --set target.position=user"
            )
    return rendered


def _fill_in(tokenizer: Any, messages: Sequence[Message], **options: bool) -> str:
    """The template with the messages; it comes with the model, and runs in jinja's sandbox."""
    try:
        rendered: str = tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, **options
        )
    except TemplateError as error:
        raise ModelError(
            f"the model's chat template refuses these messages ({error}); where it knows no "
            "system role, use --set target.position=user"
        ) from error
    except Exception as error:  # whatever its expressions raise: it divides, adds, looks up
        raise ModelError(
            f"the model's chat template fails ({type(error).__name__}: {error}); correct it, or "
            "take another model"
        ) from error
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
        rendered = _fill_in(tokenizer, turn)
        closing = _encode(tokenizer, rendered.partition(_HOLDER)[2])[:1]
        known = special_tokens(tokenizer)
        found = [i for i in closing if tokenizer.convert_ids_to_tokens(i) in known]
    found += [configured] if isinstance(configured, int) else list(configured or [])
    if odd := [one for one in found if not isinstance(one, int)]:
        raise ModelError(
            f"eos_token_id of the model's generation_config.json must be a whole number or a list "
            f"of them, found {odd[0]!r}; correct it"
        )
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
    marked = markers(_encode(tokenizer, answer), markup_of(tokenizer))
    if marked or spells_unknown(tokenizer, answer):
        return plain_ids(tokenizer, answer)
    before, whole = _encode(tokenizer, opening), _encode(tokenizer, opening + answer)
    if whole[: len(before)] == before:
        return whole[len(before) :]
    return _encode(tokenizer, answer)


def encode_plain(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a raw text for a base model: what its tokenizer puts first, then the text.

    White space at the end is left out: the answer brings its own. What spells a special token is
    encoded as plain characters.
    """
    text, markup = text.rstrip(), markup_of(tokenizer)
    opening = _unclosed(tokenizer, tokenizer("")["input_ids"])
    ids = _unclosed(tokenizer, tokenizer(text, split_special_tokens=True)["input_ids"])
    if markers(ids, markup) == markers(opening, markup):
        return ids
    return [*opening, *plain_ids(tokenizer, text)]


def _unclosed(tokenizer: Any, ids: list[int]) -> list[int]:
    """Some tokenizers close a text, but here it goes on."""
    closed = ids and tokenizer.eos_token_id is not None and ids[-1] == tokenizer.eos_token_id
    return ids[:-1] if closed else ids


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


_KNOWN: WeakKeyDictionary[Any, dict[tuple[str, ...], list[int]]] = WeakKeyDictionary()


def _markers_of_template(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The markup that the template itself writes around messages in these roles."""
    key = (str(tokenizer.chat_template), *(message["role"] for message in messages))
    known = _KNOWN.setdefault(tokenizer, {})
    if key not in known:
        plain = [{**message, "content": "a"} for message in messages]
        known[key] = markers(_encode(tokenizer, _render(tokenizer, plain)), markup_of(tokenizer))
    return known[key]


def _encode_in_pieces(tokenizer: Any, messages: Sequence[Message], rendered: str) -> list[int]:
    """Render the template around place holders, then encode markup and contents apart.

    Only for contents that spell markup: encoding apart may split a word differently at the seams
    than the model saw in training, which the usual path avoids.
    """
    holders = [f"\ue000{number}\ue001" for number in range(len(messages))]  # private-use characters
    skeleton = _render(
        tokenizer,
        [{**m, "content": holder} for m, holder in zip(messages, holders, strict=True)],
    )
    ids: list[int] = []
    for message, holder in zip(messages, holders, strict=True):
        markup, skeleton = skeleton.split(holder, maxsplit=1)
        content = message["content"]
        ids += _encode(tokenizer, markup)
        # Some templates trim what they show.
        ids += plain_ids(tokenizer, content if content in rendered else content.strip())
    return ids + _encode(tokenizer, skeleton)
