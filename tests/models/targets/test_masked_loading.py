import json
import logging
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertForPreTraining,
    PreTrainedConfig,
    RobertaForCausalLM,
    RobertaForSequenceClassification,
    RobertaModel,
)
from transformers import logging as transformers_logging

from stableprompt.errors import ConfigError, ModelError
from stableprompt.models import embedded, hardware
from stableprompt.models.targets.masked import MaskedTarget
from stableprompt.models.targets.masked_loading import is_masked, load_masked
from tests.fakes.masked import make_bert_tokenizer, make_masked, make_roberta_tokenizer
from tests.fakes.tiny_model import save_tiny_model

CPU = torch.device("cpu")
IDS = torch.tensor([[0, 40, 4, 2]])
ROBERTA, BERT = make_roberta_tokenizer(), make_bert_tokenizer()


class Heard(logging.Handler):
    """What transformers would write to the terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def heard() -> Iterator[list[str]]:
    handler = Heard()
    transformers_logging.add_handler(handler)
    try:
        yield handler.lines
    finally:
        transformers_logging.remove_handler(handler)


def save(folder: Path, model: Any, tokenizer: Any = ROBERTA) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("roberta"), make_masked("roberta", ROBERTA, seed=3))


@torch.no_grad()
def test_a_local_folder_is_loaded_frozen_and_ready(checkpoint: str) -> None:
    loaded = load_masked(checkpoint, device="cpu", dtype="float32")
    original = make_masked("roberta", ROBERTA, seed=3)
    assert torch.equal(loaded.model(IDS).logits, original(IDS).logits)
    assert loaded.name == checkpoint
    assert loaded.device == CPU
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_a_saved_target_says_what_it_said(tmp_path: Path) -> None:
    said = []
    for name, tokenizer in (("roberta", ROBERTA), ("bert", BERT)):
        model = make_masked(name, tokenizer)
        folder = save(tmp_path / name, model, tokenizer)
        loaded = load_masked(folder, device="cpu", dtype="float32")
        again = MaskedTarget(loaded)
        first = MaskedTarget(type(loaded)(name, model, tokenizer, CPU))
        conversations = [[{"role": "user", "content": "It was"}]]
        probs = [t.label_scores(conversations, [["great", "bad"]]) for t in (first, again)]
        assert torch.equal(probs[0].label_probs, probs[1].label_probs)
        said.append(probs[0].label_probs)
    assert not torch.allclose(*said)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_precision_is_as_asked(checkpoint: str, dtype: str) -> None:
    loaded = load_masked(checkpoint, device="cpu", dtype=dtype)
    assert {p.dtype for p in loaded.model.parameters()} == {getattr(torch, dtype)}


def test_attention_is_as_asked(checkpoint: str) -> None:
    found = [
        load_masked(checkpoint, device="cpu", attention=attention).model.config._attn_implementation
        for attention in ("auto", "eager")
    ]
    assert found == ["sdpa", "eager"]


# --- is it one? ---


def write_config(folder: Path, **config: Any) -> str:
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize(
    ("config", "masked"),
    [
        ({"architectures": ["RobertaForMaskedLM"], "model_type": "roberta"}, True),
        ({"architectures": ["OfTheirOwnForMaskedLM"], "model_type": "their-own"}, True),
        ({"architectures": ["BertForPreTraining"], "model_type": "bert"}, True),
        ({"model_type": "bert"}, True),
        ({"architectures": None, "model_type": "bert"}, True),
        ({"architectures": ["RobertaForSequenceClassification"], "model_type": "roberta"}, True),
        ({"architectures": ["RobertaForCausalLM"], "model_type": "roberta"}, False),
        ({"architectures": ["BertLMHeadModel"], "model_type": "bert"}, False),
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, False),
        ({"architectures": ["BartForConditionalGeneration"], "model_type": "bart"}, False),
        ({"model_type": "gpt2"}, False),
        ({}, False),
    ],
)
def test_the_configuration_alone_says_whether_it_is_a_masked_lm(
    tmp_path: Path, config: dict[str, Any], masked: bool
) -> None:
    assert is_masked(write_config(tmp_path, **config)) is masked


def test_checkpoints_as_they_are_saved_are_told_apart(checkpoint: str, tmp_path: Path) -> None:
    assert is_masked(checkpoint)
    assert not is_masked(str(save_tiny_model(tmp_path)))


def test_the_embedded_model_is_not_converted_to_find_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def convert() -> Path:
        raise AssertionError("converted")

    monkeypatch.setattr(embedded, "ensure_converted", convert)
    assert not is_masked("smollm2-135m")


@pytest.mark.parametrize("ask", [is_masked, partial(load_masked, device="cpu")])
@pytest.mark.parametrize("name", ["/no/such/folder", "./no-such-folder", "not a name"])
def test_a_missing_model_is_one_line_that_says_what_to_do(ask: Any, name: str) -> None:
    with pytest.raises(ModelError) as caught:
        ask(name)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"model {name!r} could not be loaded (")
    assert message.endswith("or a hub id that this machine can reach")


@pytest.mark.parametrize(
    ("error", "reason"),
    [(OSError("no such model\nlong advice"), "no such model"), (ValueError(), "ValueError")],
)
def test_of_a_long_reason_the_first_line_is_given(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def refuse(_name: str) -> None:
        raise error

    monkeypatch.setattr(PreTrainedConfig, "get_config_dict", refuse)
    with pytest.raises(ModelError) as caught:
        is_masked("owner/model")
    assert f"could not be loaded ({reason}); give" in str(caught.value)


def test_a_damaged_configuration_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="could not be loaded"):
        is_masked(str(tmp_path))


# --- what is refused ---


def test_a_folder_with_pickled_weights_alone_is_refused(tmp_path: Path) -> None:
    model = make_masked("roberta", ROBERTA)
    folder = save(tmp_path, model)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert is_masked(folder)
    with pytest.raises(ModelError, match=r"could not be loaded \(.*safetensors"):
        load_masked(folder, device="cpu")


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, make_masked("roberta", ROBERTA))
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match="could not be loaded"):
        load_masked(folder, device="cpu")


@pytest.mark.parametrize("other", [RobertaModel, RobertaForSequenceClassification])
def test_an_encoder_without_the_head_is_refused(
    tmp_path: Path, other: Any, capfd: pytest.CaptureFixture[str], heard: list[str]
) -> None:
    folder = save(tmp_path, other(make_masked("roberta", ROBERTA).config))
    assert is_masked(folder)
    capfd.readouterr()
    with pytest.raises(
        ModelError, match=r"is no masked LM: its weights lack lm_head\.\S+ \(of \d missing, as Rob"
    ):
        load_masked(folder, device="cpu")
    assert capfd.readouterr() == ("", "")
    assert heard == []


def test_weights_that_are_not_needed_are_left_out_quietly(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], heard: list[str]
) -> None:
    model = BertForPreTraining(make_masked("bert", BERT).config).eval()
    folder = save(tmp_path, model, BERT)
    capfd.readouterr()
    loaded = load_masked(folder, device="cpu", dtype="float32")
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.model(IDS).logits, model(IDS).prediction_logits, rtol=0, atol=1e-6
        )
    assert capfd.readouterr() == ("", "")
    assert heard == []


def test_a_checkpoint_that_writes_is_not_asked_to_fill_in(tmp_path: Path) -> None:
    config = make_masked("roberta", ROBERTA).config
    config.is_decoder = True
    assert not is_masked(save(tmp_path, RobertaForCausalLM(config)))


def test_code_that_a_checkpoint_brings_is_not_run(tmp_path: Path) -> None:
    folder = save(tmp_path, make_masked("roberta", ROBERTA))
    ran = tmp_path / "ran"
    (tmp_path / "theirs.py").write_text(f"open({str(ran)!r}, 'w')")
    file = tmp_path / "config.json"
    own = {
        "model_type": "their-own",
        "architectures": ["TheirsForMaskedLM"],
        "auto_map": {
            "AutoConfig": "theirs.TheirsConfig",
            "AutoModelForMaskedLM": "theirs.TheirsForMaskedLM",
        },
    }
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    assert is_masked(folder)
    with pytest.raises(ModelError, match="could not be loaded"):
        load_masked(folder, device="cpu")
    assert not ran.exists()


def test_four_bits_are_refused_before_the_model_is_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hardware, "is_bitsandbytes_available", lambda: True)
    with pytest.raises(ConfigError, match=r"quantize '4bit' .*set target.quantize=none"):
        load_masked("/no/such/folder", device="cpu", quantize="4bit")


# --- how it is loaded ---


@pytest.mark.parametrize("shown", [True, False])
def test_loading_leaves_what_transformers_prints_as_it_was(checkpoint: str, shown: bool) -> None:
    switch = {
        True: transformers_logging.enable_progress_bar,
        False: transformers_logging.disable_progress_bar,
    }
    before = transformers_logging.is_progress_bar_enabled()
    verbosity = transformers_logging.get_verbosity()
    switch[shown]()
    transformers_logging.set_verbosity_info()
    try:
        load_masked(checkpoint, device="cpu", dtype="float32")
        assert transformers_logging.is_progress_bar_enabled() is shown
        assert transformers_logging.get_verbosity() == transformers_logging.INFO
    finally:
        switch[before]()
        transformers_logging.set_verbosity(verbosity)


@pytest.mark.filterwarnings("ignore")  # tracing stumbles over warnings of its own
@pytest.mark.skipif(hardware.missing_for_compile(CPU) is not None, reason="no compiler")
@torch.no_grad()
def test_a_compiled_target_says_what_the_plain_one_says(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    conversations = [[{"role": "user", "content": text}] for text in ("It was", "A bad film. It")]
    said = []
    for compiled in (False, True):
        loaded = load_masked(checkpoint, device="cpu", dtype="float32", compile=compiled)
        target = MaskedTarget(loaded)
        said.append(target.label_scores(conversations, [["great", "bad"]] * 2).label_probs)
    torch.testing.assert_close(*said, rtol=0, atol=1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


def test_without_a_compiler_compile_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"compile needs a C\+\+ compiler \(.*not found"):
        load_masked("/no/such/folder", device="cpu", compile=True)
