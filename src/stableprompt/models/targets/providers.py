"""Who answers behind a name such as ``openai/gpt-4o-mini``, where, and for how much.

All of them speak OpenAI's chat-completions protocol; another server that does is named by its
``base_url``.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final
from urllib.parse import urlsplit

from stableprompt.errors import ConfigError
from stableprompt.llm_config import ApiConfig, TargetConfig

FUNCTION_PREFIX: Final = "function:"
_A_SLIP: Final = 0.9
NO_KEY: Final = "none"
"""What is sent to a server that asks for no key."""


@dataclass(frozen=True, slots=True)
class Provider:
    """A public API, or a well-known server on one's own machine."""

    base_url: str
    key_variable: str | None
    """None: it needs no key."""
    prices: str | None
    """What the price table (genai-prices) calls it; None: it costs nothing."""


PROVIDERS: Final[Mapping[str, Provider]] = {
    "openai": Provider("https://api.openai.com/v1", "OPENAI_API_KEY", "openai"),
    "anthropic": Provider("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY", "anthropic"),
    "gemini": Provider(
        "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY", "google"
    ),
    "mistral": Provider("https://api.mistral.ai/v1", "MISTRAL_API_KEY", "mistral"),
    "deepseek": Provider("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY", "deepseek"),
    "groq": Provider("https://api.groq.com/openai/v1", "GROQ_API_KEY", "groq"),
    "together": Provider("https://api.together.xyz/v1", "TOGETHER_API_KEY", "together"),
    "fireworks": Provider(
        "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY", "fireworks"
    ),
    "openrouter": Provider("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", "openrouter"),
    "xai": Provider("https://api.x.ai/v1", "XAI_API_KEY", "x-ai"),
    "ollama": Provider("http://localhost:11434/v1", None, None),
    "vllm": Provider("http://localhost:8000/v1", None, None),
    "lmstudio": Provider("http://localhost:1234/v1", None, None),
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a target answers."""

    model: str
    """As the server calls it."""
    base_url: str
    key_variable: str | None
    prices: str | None


def is_api(config: TargetConfig, model: str | None = None) -> bool:
    """Whether a model answers behind an API.

    A folder of that name wins over a provider; a server with a URL of its own calls the target what
    it likes, a folder as well.

    Args:
        config: Of the target.
        model: Another model in its place, such as a judge.
    """
    name, is_url = model or config.model, config.api.base_url is not None
    if name.startswith(("hub:", FUNCTION_PREFIX)):
        return False
    if os.path.isdir(os.path.expanduser(name)):
        return is_url and name == config.model
    provider, slash, rest = name.partition("/")
    return is_url or (bool(slash and rest) and provider in PROVIDERS)


def endpoints_of(model: str, config: ApiConfig) -> list[Endpoint]:
    """Where a model answers, each of its replicas; one where there are no others.

    Raises:
        ConfigError: it names no provider, and no base_url was given.
    """
    if config.base_url is not None:
        variable = config.key_variable
        return [Endpoint(model, url.rstrip("/"), variable, None) for url in config.base_urls]
    name, _, rest = model.partition("/")
    provider = PROVIDERS.get(name)
    if provider is None or not rest:
        raise ConfigError(
            f"{model!r} names no provider; write PROVIDER/MODEL with one of "
            f"{', '.join(PROVIDERS)}, or give --base-url"
        )
    variable = config.key_variable or provider.key_variable
    return [Endpoint(rest, provider.base_url, variable, provider.prices)]


def key_of(endpoint: Endpoint) -> str:
    """The key, from the environment; a server of one's own may need none.

    Raises:
        ConfigError: the variable is not set.
    """
    if endpoint.key_variable is None:
        return os.environ.get("OPENAI_API_KEY") or NO_KEY
    key = os.environ.get(endpoint.key_variable, "").strip()
    if not key:
        raise ConfigError(
            f"{endpoint.model} at {endpoint.base_url} needs a key, and the environment has no "
            f"{endpoint.key_variable}; set it (keys are read from nowhere else)"
        )
    return key


def require_no_slip(config: TargetConfig) -> None:
    """Check that a target is not behind an API whose name was misspelt: the hub would be asked.

    Raises:
        ConfigError: it seems to be.
    """
    provider, slash, rest = config.model.partition("/")
    if not (slash and rest) or ":" in provider or is_api(config):
        return
    if os.path.isdir(os.path.expanduser(config.model)):
        return
    close = get_close_matches(provider.lower(), PROVIDERS, n=1, cutoff=_A_SLIP)
    # Many who publish on the hub are called like an API and more (mistralai), or less (llama).
    if close and provider[0].lower() == close[0][0] and not provider.lower().startswith(close[0]):
        raise ConfigError(
            f"no provider and no folder is called {provider!r}: did you mean "
            f"{close[0]}/{rest}? A hub id of that name is 'hub:{config.model}'"
        )


def price_of(model: str, config: ApiConfig) -> tuple[float, float] | None:
    """Dollars for a million tokens read and written; None where nobody knows.

    A server of one's own costs nothing unless prices are given.
    """
    given = config.price_read, config.price_written
    if given != (None, None):
        return given[0] or 0.0, given[1] or 0.0
    endpoint = endpoints_of(model, config)[0]
    if endpoint.prices is None:
        known = all(map(_is_at_home, config.base_urls))
        return (0.0, 0.0) if known else None
    from genai_prices import Usage, calc_price  # half a second; only where something has a price

    some = 1000  # as in one call: a million at once would be charged as a long context
    try:
        read, written = (
            calc_price(usage, model_ref=endpoint.model, provider_id=endpoint.prices).total_price
            for usage in (Usage(input_tokens=some), Usage(output_tokens=some))
        )
    except LookupError:
        return None
    return float(read) * 1000, float(written) * 1000


def target_price(config: TargetConfig, model: str | None = None) -> tuple[float, float] | None:
    """Of the target, wherever it is: in this process it costs no dollars.

    Args:
        config: Of the target.
        model: Another model in its place, such as a judge.
    """
    name = model or config.model
    if is_api(config, model):
        return price_of(name, config.api)
    given = config.api.price_read, config.api.price_written
    if model is not None:
        return 0.0, 0.0
    if given != (None, None) or not name.startswith(FUNCTION_PREFIX):
        return given[0] or 0.0, given[1] or 0.0
    return None


def _is_at_home(base_url: str) -> bool:
    return urlsplit(base_url).hostname in ("localhost", "127.0.0.1", "::1")
