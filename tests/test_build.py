"""Which weights agent and target stand on, and what a result says about it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from stableprompt import speakers
from stableprompt.build import load_models
from stableprompt.config import TuneConfig, make_config
from stableprompt.errors import ConfigError
from stableprompt.models import hardware
from stableprompt.models.loading import LoadedModel
from stableprompt.setting import setting_of
from stableprompt.speakers import _in_role, answers_elsewhere, load_target
from stableprompt.tasks.task import Task
from tests.fakes.tiny_model import save_tiny_model

RUN = {"device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The precisions of the models that are read from disk, in order."""
    read: list[torch.dtype] = []
    load_model = speakers.load_model

    def counting(*args: Any, **options: Any) -> LoadedModel:
        found = load_model(*args, **options)
        read.append(found.model.dtype)
        return found

    monkeypatch.setattr(speakers, "load_model", counting)
    return read


def config_of(checkpoint: str, target: dict[str, Any], **settings: Any) -> TuneConfig:
    models = {"agent": {"model": checkpoint}, "target": {"model": checkpoint, **target}}
    return make_config(models, RUN, settings)


FULL, HALF = torch.float32, torch.bfloat16


@pytest.mark.parametrize(
    ("run", "target", "copies"),
    [
        ("float32", None, [FULL]),
        ("float32", "float32", [FULL]),
        ("float32", "bfloat16", [FULL, HALF]),
        ("bfloat16", "float32", [HALF, FULL]),
        # On a machine where auto is float32:
        ("auto", None, [FULL]),
        ("auto", "float32", [FULL]),
        ("float32", "auto", [FULL]),
        ("auto", "bfloat16", [FULL, HALF]),
    ],
)
def test_one_checkpoint_is_loaded_once_where_both_hold_it_alike(
    checkpoint: str,
    loaded: list[torch.dtype],
    run: str,
    target: str | None,
    copies: list[torch.dtype],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hardware, "cpu_has_fast_bfloat16", lambda: False)
    load_models(config_of(checkpoint, {"dtype": target}, dtype=run))
    assert loaded == copies


def test_another_checkpoint_is_loaded_in_the_targets_precision(
    checkpoint: str, loaded: list[torch.dtype], tmp_path: Path
) -> None:
    other = str(save_tiny_model(tmp_path, seed=1))
    load_models(config_of(checkpoint, {"model": other, "dtype": "bfloat16"}))
    load_target(config_of(other, {"dtype": "bfloat16"}))
    load_target(config_of(other, {"dtype": "bfloat16"}), checkpoint)  # a judge, say
    assert loaded == [FULL, HALF, HALF, HALF]


def test_what_the_target_cannot_have_is_refused_before_the_agent_is_loaded(
    checkpoint: str, loaded: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(ConfigError, match="bitsandbytes"):
        load_models(config_of(checkpoint, {"quantize": "4bit"}))
    assert loaded == []


# --- what the result says ---


def setting(config: TuneConfig) -> dict[str, Any]:
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(60)]
    task = Task.from_records(rows, name="letters", seed_prompt="a or b?")
    return setting_of(task, config, *load_models(config))


def test_the_result_says_how_it_was_computed(checkpoint: str) -> None:
    found = setting(config_of(checkpoint, {}))
    assert found["dtype"] == "float32"
    assert found["attention"] == "sdpa"
    assert (found["compile"], found["quantize"], found["device"]) == (False, "none", "cpu")
    assert not found.keys() & {"target_dtype", "target_quantize"}
    assert "bitsandbytes" not in found["versions"]


def test_the_result_says_what_the_target_has_of_its_own(checkpoint: str) -> None:
    found = setting(config_of(checkpoint, {"dtype": "bfloat16"}, attention="eager"))
    assert (found["dtype"], found["target_dtype"]) == ("float32", "bfloat16")
    assert found["attention"] == "eager"


def test_the_result_names_4_bit_weights_and_who_made_them(checkpoint: str) -> None:
    pytest.importorskip("bitsandbytes", reason="4-bit weights need the extra quant")
    found = setting(config_of(checkpoint, {"quantize": "none"}, quantize="4bit"))
    assert (found["quantize"], found["target_quantize"]) == ("4bit", "none")
    assert found["dtype"] == "float32"
    assert found["versions"]["bitsandbytes"]


# --- who is elsewhere ---


def test_a_judge_can_be_asked_at_another_place_than_the_target() -> None:
    here = {"base_url": "http://localhost:8000/v1"}
    there = {"base_url": None, "key_variable": "JUDGE_KEY"}
    config = make_config({"target": {"model": "m", "api": here}, "judge": {"model": "x"}})
    assert _in_role(config, None).api.base_url == here["base_url"]
    assert _in_role(config, "x").api.base_url == here["base_url"]
    apart = make_config(
        {"target": {"model": "m", "api": here}, "judge": {"model": "x", "api": there}}
    )
    assert _in_role(apart, None).api.base_url == here["base_url"]
    assert _in_role(apart, "x").api.key_variable == "JUDGE_KEY"
    assert not answers_elsewhere(apart, "smollm2-135m")
    assert answers_elsewhere(apart)


def test_a_target_behind_an_api_is_a_chat_and_a_function_must_be_given() -> None:
    plain = make_config({"target": {"model": "openai/gpt-4o-mini", "format": "plain"}})
    with pytest.raises(ConfigError, match="spoken to as a chat"):
        answers_elsewhere(plain)
    of_mine = make_config({"target": {"model": "function:mine"}})
    with pytest.raises(ConfigError, match="a function of your own; give it again"):
        answers_elsewhere(of_mine)
    assert answers_elsewhere(of_mine, function=lambda messages: "yes")
