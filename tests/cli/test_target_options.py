"""The target and the limits on the command line."""

from pathlib import Path

import pytest

from stableprompt.cli.target_options import LimitOptions, parse_seconds, target_layers
from stableprompt.config import make_config
from stableprompt.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), (" 30m ", 1800), ("2H", 7200), ("1.5h", 5400), ("0.5", 0.5)],
)
def test_times(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-3m", "1h30m", "5d", "nan"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ConfigError, match="write 90s, 30m or 2h"):
        parse_seconds(text)


def test_limits_that_were_given() -> None:
    assert LimitOptions().settings() == {}
    given = LimitOptions(10, 0.5, 2000, "2m").settings()
    assert given == {
        "max_target_calls": 10,
        "max_cost": 0.5,
        "max_tokens": 2000,
        "max_seconds": 120,
    }
    layers, _ = target_layers(None, None, LimitOptions(max_cost=0.5))
    assert layers == [{"limits": {"max_cost": 0.5}}]


@pytest.mark.parametrize(
    "name", ["ollama/llama3.2:3b", "hub:org/model", "openai/gpt-4o", "smollm2-135m", "folder:"]
)
def test_names_of_models_are_no_functions(name: str) -> None:
    layers, function = target_layers(name, None, LimitOptions())
    assert function is None
    assert layers == [{"target": {"model": name}}]


def test_a_function_of_a_module_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_target.py").write_text("def answer(messages):\n    return 'yes'\n")
    layers, function = target_layers("my_target:answer", None, LimitOptions())
    assert layers == [{"target": {"model": "function:my_target:answer"}}]
    assert function([]) == "yes"
    with pytest.raises(ConfigError, match="--target 'my_target:other' cannot be imported"):
        target_layers("my_target:other", None, LimitOptions())


def test_behind_a_url_a_colon_is_part_of_the_name() -> None:
    urls = ["http://localhost:11434/v1"]
    layers, function = target_layers("qwen2.5:7b", urls, LimitOptions())
    assert function is None
    assert {"target": {"model": "qwen2.5:7b"}} in layers
    assert make_config(*layers).target.api.base_url == "http://localhost:11434/v1"


def test_several_urls_are_replicas() -> None:
    urls = ["http://one:8000/v1", "http://two:8000/v1"]
    layers, _ = target_layers("m", urls, LimitOptions())
    config = make_config(*layers)
    assert config.target.api.base_urls == ("http://one:8000/v1", "http://two:8000/v1")
    # As it is written down and read back.
    assert make_config(config.model_dump(mode="json")) == config
    with pytest.raises(ConfigError, match="in a list each server once"):
        make_config(*target_layers("m", ["http://one/v1", "http://one/v1/"], LimitOptions())[0])
