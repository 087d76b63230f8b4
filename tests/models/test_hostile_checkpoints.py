"""Folders of models, adapters and writers by someone who means ill: refused, and nothing runs."""

import hashlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stableprompt.errors import ModelError
from stableprompt.models.adapters import ADAPTER_WEIGHTS, AdaptedModel, read_lora_config
from stableprompt.models.chat import encode_chat
from stableprompt.models.loading import load_model
from stableprompt.models.targets.masked_loading import is_masked, load_masked
from stableprompt.prompt_writer import PromptWriter
from stableprompt.runs.checkpoints import load_last_checkpoint
from tests.fakes.agents import make_lora
from tests.fakes.tiny_model import save_tiny_model

Change = Callable[[Path], None]


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.sign),)


@pytest.fixture
def sign(tmp_path: Path) -> Path:
    """Is there only after something ran."""
    return tmp_path / "ran"


def pickles(sign: Path) -> tuple[bytes, bytes]:
    """A plain pickle, and a file of torch.save."""
    saved = io.BytesIO()
    torch.save({"lm_head.weight": Trap(sign)}, saved)
    return pickle.dumps(Trap(sign)), saved.getvalue()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "model")
    return tmp_path / "model"


def edit(folder: Path, name: str, **changes: object) -> None:
    file = folder / name
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps(content | changes), encoding="utf-8")


def require_refused(folder: Path, sign: Path, match: str = "") -> None:
    with pytest.raises(ModelError, match=match) as caught:
        load_model(str(folder), device="cpu", dtype="float32")
    assert "\n" not in str(caught.value)
    assert not sign.exists()


def test_the_trap_works(sign: Path) -> None:
    pickle.loads(pickles(sign)[0])
    assert sign.exists()


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_pickle_in_the_place_of_weights(folder: Path, sign: Path, name: str, kind: int) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickles(sign)[kind])
    require_refused(folder, sign, "could not be loaded")
    with pytest.raises(ModelError):
        load_masked(str(folder), device="cpu", dtype="float32")
    assert not sign.exists()


@pytest.mark.parametrize(
    "shard", ["pytorch_model.bin", "../trap.bin", "{}/trap.bin", "..\\x.safetensors", "..", "", 3]
)
def test_an_index_that_leads_to_a_pickle_or_elsewhere(
    folder: Path, sign: Path, tmp_path: Path, shard: object
) -> None:
    # transformers would open what it names with torch.load.
    (folder / "model.safetensors").unlink()
    for place in (folder / "pytorch_model.bin", tmp_path / "trap.bin"):
        place.write_bytes(pickles(sign)[1])
    named = shard.format(tmp_path) if isinstance(shard, str) else shard
    index = {"metadata": {}, "weight_map": {"lm_head.weight": named}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    require_refused(folder, sign, "nothing else is opened")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_a_checkpoint_is_neither_run_nor_asked_for(
    folder: Path, sign: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: object) -> str:
        raise AssertionError("transformers asks on the terminal")

    monkeypatch.setattr("builtins.input", ask)
    (folder / "evil.py").write_text(f"import os; os.mkdir({str(sign)!r})", encoding="utf-8")
    kinds = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    kinds["AutoTokenizer"] = ["evil.T", "evil.T"]  # type: ignore[assignment]
    edit(folder, name, auto_map=kinds, model_type="evil", tokenizer_class="EvilT")
    require_refused(folder, sign, "code of its own, which is never run")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.mkdir('SIGN') }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os.mkdir('SIGN') }}",
        "{{ 1 / 0 }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ messages + 1 }}",
        "{% if %}",
        "no content at all",
    ],
)
def test_a_hostile_chat_template_fails_and_runs_nothing(
    folder: Path, sign: Path, template: str
) -> None:
    text = template.replace("SIGN", str(sign))
    (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
    loaded = load_model(str(folder), device="cpu", dtype="float32")
    with pytest.raises(ModelError, match="chat template"):
        encode_chat(loaded.tokenizer, [{"role": "user", "content": "hello"}])
    assert not sign.exists()


def test_a_template_in_a_content_is_text(folder: Path) -> None:
    tokenizer = load_model(str(folder), device="cpu", dtype="float32").tokenizer
    content = "{{ 7 * 7 }} {% for m in messages %}{{ m }}{% endfor %} {# no #}"
    ids = encode_chat(tokenizer, [{"role": "user", "content": content}])
    assert content in tokenizer.decode(ids)


def without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_missing_weights_are_not_made_up(folder: Path, sign: Path) -> None:
    without_a_tensor(folder)
    require_refused(folder, sign, r"lack model\.layers\.0\.mlp\.up_proj\.weight")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"[]"),
        ("config.json", b"[" * 100_000),
        ("config.json", b"\xff\xfe"),
        ("tokenizer.json", b'{"version":"1.0","model":{}}'),
        ("tokenizer_config.json", b"[]"),
        ("tokenizer_config.json", b'{"model_max_length": []}'),
        ("generation_config.json", b"[]"),
        ("model.safetensors", b""),
    ],
)
def test_a_damaged_file_of_a_model(folder: Path, sign: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    require_refused(folder, sign, "could not be loaded")


@pytest.mark.parametrize("changes", [{"hidden_size": "x"}, {"hidden_size": -3},
                                     {"num_attention_heads": 0}])  # fmt: skip
def test_a_config_that_makes_no_sense(folder: Path, sign: Path, changes: dict[str, Any]) -> None:
    edit(folder, "config.json", **changes)
    require_refused(folder, sign, "could not be loaded")


@pytest.mark.parametrize("layers", [10**6, 10**400])
def test_a_number_in_a_config_does_not_take_all_memory(
    folder: Path, sign: Path, layers: int
) -> None:
    edit(folder, "config.json", num_hidden_layers=layers)
    require_refused(folder, sign, "asks for more layers")


def test_a_kind_that_is_no_text_is_no_masked_model(folder: Path) -> None:
    edit(folder, "config.json", architectures=[3, {"a": 1}])
    assert not is_masked(str(folder))


def test_an_end_token_that_is_no_number_is_an_error(folder: Path) -> None:
    edit(folder, "generation_config.json", eos_token_id="x")
    loaded = load_model(str(folder), device="cpu", dtype="float32")
    with pytest.raises(ModelError, match="must be a whole number"):
        _ = loaded.end_of_turn_ids


# --- adapters, writers, checkpoints ---


@pytest.fixture
def adapter(whole: Path, tmp_path: Path) -> Path:
    base = load_model(str(whole), device="cpu", dtype="float32").model
    AdaptedModel(base, make_lora(), seed=0).save_adapter(tmp_path / "adapter")
    return tmp_path / "adapter"


def put_on(adapter: Path, model: Path) -> None:
    base = load_model(str(model), device="cpu", dtype="float32").model
    AdaptedModel(base, read_lora_config(adapter), seed=0).load_adapter(adapter)


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("name", ["adapter_model.bin", ADAPTER_WEIGHTS])
def test_a_pickle_in_the_place_of_an_adapter(
    adapter: Path, whole: Path, sign: Path, name: str, kind: int
) -> None:
    (adapter / ADAPTER_WEIGHTS).unlink()
    (adapter / name).write_bytes(pickles(sign)[kind])
    with pytest.raises(ModelError):
        put_on(adapter, whole)
    for content in ("{}", '{"a":' * 200_000):
        (adapter / "writer.json").write_text(content, encoding="utf-8")
        with pytest.raises(ModelError):
            PromptWriter.from_pretrained(adapter)
    assert not sign.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"megatron_config": {"a": 1}, "megatron_core": "evil"},
        {"r": -1},
        {"r": "x"},
        {"target_modules": ["nothing"]},
        {"target_modules": 3},
        {"peft_type": "EVIL"},
        {"peft_type": "PREFIX_TUNING"},
        {"rank_pattern": []},
        # These would change the base, which the target may share.
        {"layer_replication": [[0, 2], [0, 2]]},
        {"kasa_config": {}},
    ],
)
def test_an_adapter_config_that_names_code_or_makes_no_sense(
    adapter: Path, whole: Path, sign: Path, changes: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (adapter / "evil.py").write_text(f"import os; os.mkdir({str(sign)!r})", encoding="utf-8")
    monkeypatch.syspath_prepend(str(adapter))
    edit(adapter, "adapter_config.json", **changes)
    with pytest.raises(ModelError):
        put_on(adapter, whole)
    assert not sign.exists()


@pytest.mark.parametrize("way", ["pissa", "olora"])
def test_an_adapter_config_does_not_change_the_base(adapter: Path, whole: Path, way: str) -> None:
    edit(adapter, "adapter_config.json", init_lora_weights=way)
    original = load_model(str(whole), device="cpu", dtype="float32").model
    base = load_model(str(whole), device="cpu", dtype="float32").model
    adapted = AdaptedModel(base, read_lora_config(adapter), seed=0)
    adapted.load_adapter(adapter)
    frozen = {n.replace(".base_layer", ""): p for n, p in base.named_parameters()}
    for name, p in original.named_parameters():
        assert torch.equal(p, frozen[name])


@pytest.mark.parametrize("kind", [0, 1])
def test_a_pickle_in_the_place_of_a_checkpoint(tmp_path: Path, sign: Path, kind: int) -> None:
    newest = tmp_path / "checkpoints" / "step-000001"
    newest.mkdir(parents=True)
    files = {"state.json": b'{"next_step": 1}', "tensors.safetensors": pickles(sign)[kind]}
    for name, content in files.items():
        (newest / name).write_bytes(content)
    # Its sums are right: whoever changes a checkpoint can change them as well.
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    (newest / "manifest.json").write_text(json.dumps({"sha256": sums}), encoding="utf-8")
    told: list[str] = []
    assert load_last_checkpoint(tmp_path / "checkpoints", tell=told.append) is None
    assert "is damaged" in told[0] and "not what was written" not in told[0]
    assert not sign.exists()
