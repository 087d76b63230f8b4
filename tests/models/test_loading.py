import json
import logging
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM
from transformers import logging as transformers_logging

from stableprompt.errors import ConfigError, ModelError
from stableprompt.models import embedded, hardware
from stableprompt.models.adapters import AdaptedModel, Role
from stableprompt.models.agent import AgentLLM
from stableprompt.models.checkpoint_files import readable
from stableprompt.models.loading import load_model, resolve_name
from tests.fakes.agents import MESSAGES, disturb, make_lora
from tests.fakes.tiny_model import make_model, make_tokenizer, save_tiny_model

CPU = torch.device("cpu")
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


@pytest.mark.parametrize("name", ["smolm2-135m", "SmolLM2-135M", "smollm2-135", "smollm2_135m"])
def test_a_slip_in_the_name_of_the_embedded_model_is_told_at_once(name: str) -> None:
    with pytest.raises(ModelError, match="did you mean 'smollm2-135m'"):
        resolve_name(name)
    assert resolve_name(f"hub:{name}") == name


@pytest.mark.parametrize("name", ["smollm2-360m", "HuggingFaceTB/SmolLM2-135M", "gpt2"])
def test_other_names_are_no_slips(name: str) -> None:
    assert resolve_name(name) == name


def test_retries_of_the_hub_are_not_printed() -> None:
    log = logging.getLogger("huggingface_hub.utils._http")
    before = log.getEffectiveLevel()
    with readable("m"):
        assert not log.isEnabledFor(logging.WARNING)
    assert log.getEffectiveLevel() == before


# --- attention ---


def test_attention_is_left_to_transformers_or_as_asked(checkpoint: Path) -> None:
    given = {"device": "cpu", "dtype": "float32"}
    models = [
        load_model(str(checkpoint), **given, attention=attention).model
        for attention in ("auto", "sdpa", "eager")
    ]
    assert [m.config._attn_implementation for m in models] == ["sdpa", "sdpa", "eager"]
    with torch.no_grad():
        auto, sdpa, eager = (m(IDS).logits for m in models)
    assert torch.equal(auto, sdpa)
    torch.testing.assert_close(eager, sdpa, rtol=0, atol=1e-5)  # another order of the same sums


def test_an_option_that_cannot_be_is_refused_before_the_model_is_looked_for() -> None:
    with pytest.raises(ConfigError, match="flash_attention_2"):
        load_model("/no/such/folder", device="cpu", attention="flash_attention_2")


# --- torch.compile ---

needs_compiler = pytest.mark.skipif(
    hardware.missing_for_compile(CPU) is not None,
    reason=f"torch.compile needs {hardware.missing_for_compile(CPU)}",
)


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One layer: tracing takes seconds a layer."""
    folder = tmp_path_factory.mktemp("shallow")
    tokenizer = make_tokenizer()
    make_model(len(tokenizer), layers=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_agent(folder: str, **options: bool) -> AgentLLM:
    """Policy and anchor that differ from each other and from the base."""
    loaded = load_model(folder, device="cpu", dtype="float32", **options)
    agent = AgentLLM(loaded, AdaptedModel(loaded.model, make_lora(), seed=0), temperature=1.0)
    disturb(agent.adapted.parameters())
    agent.copy(Role.POLICY, Role.ANCHOR)
    disturb(agent.adapted.parameters(), seed=1)
    return agent


@pytest.mark.filterwarnings("ignore")  # tracing stumbles over warnings of its own
@needs_compiler
def test_a_compiled_agent_writes_reads_and_learns_as_the_plain_one_in_every_role(
    shallow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Traced and run as PyTorch's own operators: what is risky here is what is traced, and when it
    # is traced again. Making C++ of it takes minutes, and is PyTorch's business. The three roles
    # take turns: the anchor writes, the base judges, the policy learns.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    plain, compiled = make_agent(shallow), make_agent(shallow, compile=True)
    query = plain.query_ids(MESSAGES)
    traced = []
    for seed, rows, length in ((0, 3, 5), (1, 2, 8)):  # again with other weights and lengths
        generator = torch.Generator().manual_seed(seed)
        uniforms = torch.rand(rows, length, dtype=torch.float64, generator=generator)
        written = plain.sample(query, uniforms, role=Role.ANCHOR)
        assert torch.equal(compiled.sample(query, uniforms, role=Role.ANCHOR).ids, written.ids)
        said = []
        for agent in (plain, compiled):
            with torch.no_grad(), agent.adapted.role(Role.BASE) as model:
                said.append(model(input_ids=written.ids, use_cache=False).logits)
        torch.testing.assert_close(*said, rtol=0, atol=1e-5)
        told = [agent(query, written.ids, written.mask).logprobs for agent in (plain, compiled)]
        torch.testing.assert_close(*told, rtol=0, atol=1e-5)
        gradients = []
        for agent, logprobs in zip((plain, compiled), told, strict=True):
            agent.zero_grad()
            logprobs.sum().backward()
            gradients.append(torch.cat([p.grad.flatten() for p in agent.adapted.parameters()]))
        assert gradients[0].abs().max() > 1
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)
        for agent in (plain, compiled):
            disturb(agent.adapted.parameters(), seed=2)
        traced.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert traced[0] > 0
    assert traced[1] == traced[0]  # nothing was traced again for other lengths


@pytest.mark.filterwarnings("ignore")
@needs_compiler
@torch.no_grad()
def test_a_compiled_model_says_what_the_plain_one_says(shallow: str) -> None:
    # The one test that calls the C++ compiler.
    torch.compiler.reset()
    plain = load_model(shallow, device="cpu", dtype="float32").model
    compiled = load_model(shallow, device="cpu", dtype="float32", compile=True).model
    torch.testing.assert_close(
        compiled(IDS, use_cache=False).logits, plain(IDS).logits, rtol=0, atol=1e-5
    )


@needs_compiler
def test_layers_that_cannot_be_told_from_the_head_are_not_compiled(
    shallow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Compiled together with them, the head would be read wrongly.
    monkeypatch.setattr(LlamaForCausalLM, "base_model", property(lambda self: self))
    with pytest.raises(ModelError, match=r"LlamaForCausalLM keeps.*set compile to false"):
        load_model(shallow, device="cpu", compile=True)


def test_without_a_compiler_compile_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"compile needs a C\+\+ compiler \(.*not found"):
        load_model("/no/such/folder", device="cpu", compile=True)
