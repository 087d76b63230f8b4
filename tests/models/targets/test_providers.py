"""Who answers behind a name, where, with which key, for how much."""

from pathlib import Path
from typing import Any

import pytest

from stableprompt.errors import ConfigError
from stableprompt.llm_config import TargetConfig
from stableprompt.models.targets.providers import (
    PROVIDERS,
    endpoints_of,
    is_api,
    key_of,
    require_no_slip,
    target_price,
)


def config(model: str, **api: Any) -> TargetConfig:
    return TargetConfig.model_validate({"model": model, "api": api})


@pytest.mark.parametrize(
    ("model", "behind_an_api"),
    [
        ("openai/gpt-4o-mini", True),
        ("ollama/llama3.2:3b", True),
        ("openrouter/meta-llama/llama-3.1-8b-instruct", True),
        ("hub:openai/gpt-oss-20b", False),
        ("Qwen/Qwen2.5-0.5B-Instruct", False),
        ("smollm2-135m", False),
        ("openai", False),
        ("openai/", False),
        ("function:answer", False),
    ],
)
def test_a_name_says_where_a_model_is(model: str, behind_an_api: bool) -> None:
    assert is_api(config(model)) is behind_an_api


def test_with_a_base_url_every_name_is_the_servers() -> None:
    given = config("Qwen/Qwen2.5-0.5B-Instruct", base_url="http://localhost:8000/v1/")
    assert is_api(given)
    endpoint = endpoints_of(given.model, given.api)[0]
    assert (endpoint.model, endpoint.base_url) == (given.model, "http://localhost:8000/v1")


def test_a_folder_wins_over_a_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openai" / "mine").mkdir(parents=True)
    assert not is_api(config("openai/mine"))


def test_the_provider_is_cut_off_the_name() -> None:
    endpoint = endpoints_of("openrouter/meta-llama/llama", config("x").api)[0]
    assert endpoint.model == "meta-llama/llama"
    assert endpoint.base_url == PROVIDERS["openrouter"].base_url


def test_no_provider_is_told_which_there_are() -> None:
    with pytest.raises(ConfigError, match=r"names no provider; .*openai, .*--base-url"):
        endpoints_of("nobody/model", config("x").api)


@pytest.mark.parametrize(
    ("model", "meant"),
    [
        ("opnai/gpt-4o-mini", "openai/gpt-4o-mini"),
        ("Opena/gpt-4o-mini", "openai/gpt-4o-mini"),
        ("antropic/claude", "anthropic/claude"),
        ("olama/llama3", "ollama/llama3"),
    ],
)
def test_a_slip_in_a_providers_name_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, meant: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"did you mean {meant}\\? .* 'hub:{model}'"):
        require_no_slip(config(model))
    require_no_slip(config(f"hub:{model}"))
    (tmp_path / model).mkdir(parents=True)
    require_no_slip(config(model))


@pytest.mark.parametrize(
    "model",
    [
        "smollm2-135m",
        "mistralai/Mistral-7B-Instruct-v0.3",
        "deepseek-ai/DeepSeek-V3",
        "openai-community/gpt2",
        "togethercomputer/x",
        "fireworks-ai/x",
        "xai-org/grok-1",
        "lmstudio-community/x",
        "allenai/OLMo-2-1B",
        "llama/x",
        "vlm/x",
        "ministral/x",
        "deepspeed/x",
        "google/gemma-2-9b-it",
        "meta-llama/Llama-3.1-8B",
        "ollama/llama3",
        "function:answer",
        "/no/folder",
    ],
)
def test_who_publishes_on_the_hub_is_no_slip(model: str) -> None:
    require_no_slip(config(model))


def test_the_key_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of openai")
    monkeypatch.setenv("OTHER", " of another ")
    assert key_of(endpoints_of("openai/m", config("x").api)[0]) == "of openai"
    assert (
        key_of(endpoints_of("openai/m", config("x", key_variable="OTHER").api)[0]) == "of another"
    )
    at_home = config("m", base_url="http://localhost:1/v1").api
    assert key_of(endpoints_of("m", at_home)[0]) == "of openai"
    monkeypatch.delenv("OPENAI_API_KEY")
    assert key_of(endpoints_of("m", at_home)[0]) == "none"
    monkeypatch.setenv("OTHER", " ")
    with pytest.raises(ConfigError, match="the environment has no OTHER"):
        key_of(endpoints_of("openai/m", config("x", key_variable="OTHER").api)[0])


@pytest.mark.parametrize(
    ("given", "price"),
    [
        (config("smollm2-135m"), (0.0, 0.0)),
        (config("openai/gpt-4o-mini"), (0.15, 0.6)),
        (config("openai/no-such-model"), None),
        (config("openai/no-such-model", price_read=2.0), (2.0, 0.0)),
        (config("openai/gpt-4o-mini", price_read=2.0, price_written=8.0), (2.0, 8.0)),
        (config("ollama/llama3.2"), (0.0, 0.0)),
        (config("m", base_url="http://localhost:8000/v1"), (0.0, 0.0)),
        (config("m", base_url="http://127.0.0.1/v1"), (0.0, 0.0)),
        (config("m", base_url="https://llm.example.com/v1"), None),
        (config("function:answer"), None),
        (config("function:answer", price_written=1.0), (0.0, 1.0)),
    ],
)
def test_prices(given: TargetConfig, price: tuple[float, float] | None) -> None:
    found = target_price(given)
    assert found == (price if price is None else pytest.approx(price))


@pytest.mark.parametrize("url", ["localhost:8000/v1", "http://me:secret@host/v1", "ftp://host"])
def test_a_base_url_is_one_and_holds_no_password(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        config("m", base_url=url)
