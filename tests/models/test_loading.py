import json
from pathlib import Path

import pytest
import torch
from transformers import logging as transformers_logging

from stableprompt.errors import ConfigError, ModelError
from stableprompt.models import embedded, loading
from stableprompt.models.loading import load_model, pick_device, pick_dtype, resolve_name
from tests.fakes.tiny_model import make_model, make_tokenizer, save_tiny_model

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
IDS = torch.tensor([[1, 40, 41]])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"), seed=3)


def edit_tokenizer(folder: Path, **changes: str | None) -> None:
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))


@torch.no_grad()
def test_a_local_folder_is_loaded_frozen_and_ready(checkpoint: Path) -> None:
    loaded = load_model(str(checkpoint), device="cpu", dtype="float32")
    original = make_model(len(make_tokenizer()), seed=3)
    assert torch.equal(loaded.model(IDS).logits, original(IDS).logits)
    assert loaded.name == str(checkpoint)
    assert loaded.device == CPU
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.tokenizer.decode(loaded.tokenizer("naïve  text")["input_ids"]) == "naïve  text"
    assert loaded.context_length == 2048


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_precision_is_as_asked(checkpoint: Path, dtype: str) -> None:
    loaded = load_model(str(checkpoint), device="cpu", dtype=dtype)
    assert {p.dtype for p in loaded.model.parameters()} == {getattr(torch, dtype)}


@pytest.mark.parametrize("shown", [True, False])
def test_loading_leaves_the_progress_bars_as_they_were(checkpoint: Path, shown: bool) -> None:
    before = transformers_logging.is_progress_bar_enabled()
    switch = {
        True: transformers_logging.enable_progress_bar,
        False: transformers_logging.disable_progress_bar,
    }
    switch[shown]()
    try:
        load_model(str(checkpoint), device="cpu", dtype="float32")
        assert transformers_logging.is_progress_bar_enabled() is shown
    finally:
        switch[before]()


def test_loading_is_quiet(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_model(str(checkpoint), device="cpu", dtype="float32")
    assert capfd.readouterr() == ("", "")


def test_the_end_token_pads_where_there_is_no_other(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    edit_tokenizer(tmp_path, pad_token=None)
    tokenizer = load_model(str(tmp_path), device="cpu").tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2


def test_a_model_without_chat_template_is_refused(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match=r"no chat template.*give its instruct version"):
        load_model(str(tmp_path), device="cpu")


@pytest.mark.parametrize("name", ["/no/such/folder", "./no-such-folder", "not a name"])
def test_a_missing_model_is_one_line_that_says_what_to_do(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_model(name, device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"model {name!r} could not be loaded (")
    assert "smollm2-135m" in message


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="could not be loaded") as caught:
        load_model(str(tmp_path), device="cpu")
    assert "\n" not in str(caught.value)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match="could not be loaded"):
        load_model(str(tmp_path), device="cpu")


def test_a_folder_is_named_by_its_real_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("model", "./model", "link", "~/model", str(folder)):
        assert resolve_name(name) == str(folder.resolve())
    assert resolve_name("owner/model") == "owner/model"


def test_the_embedded_model_is_its_converted_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "ensure_converted", lambda: tmp_path)
    assert resolve_name("smollm2-135m") == str(tmp_path)


# --- device and precision ---


def test_an_unknown_device_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"'nonsense'.*use auto, cpu or cuda"):
        pick_device("nonsense")


def test_cuda_without_a_gpu_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="sees no GPU"):
        pick_device("cuda:0")


@pytest.mark.parametrize(("there", "device"), [(True, CUDA), (False, CPU)])
def test_auto_takes_a_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, there: bool, device: torch.device
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert pick_device("auto") == device
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize(
    ("device", "fast", "dtype"),
    [
        (CPU, True, torch.bfloat16),
        (CPU, False, torch.float32),
        (CUDA, True, torch.bfloat16),
        (CUDA, False, torch.float32),
    ],
)
def test_auto_is_bfloat16_where_the_hardware_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, fast: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(loading, "cpu_has_fast_bfloat16", lambda: fast)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: fast)
    assert pick_dtype("auto", device) == dtype
    assert pick_dtype("float32", device) == torch.float32
