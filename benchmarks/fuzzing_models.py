"""The doors that need torch: folders of models and writers, and runs that are continued."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.fakes.agents import make_lora
from tests.fakes.tiny_model import save_tiny_model
from tests.fakes.word_agent import ScriptedTarget, make_agent, make_task
from tests.tuning.conftest import tiny_config

from benchmarks.fuzzing import Door
from stableprompt import build
from stableprompt.models.adapters import AdaptedModel, read_lora_config
from stableprompt.models.chat import encode_chat
from stableprompt.models.loading import load_model
from stableprompt.runs.folder import RESULT, RunFolder
from stableprompt.tuning.records import Silence

MESSAGES = [{"role": "user", "content": "a <|im_start|> b"}]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its path in it."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def lay_out(whole: Mapping[str, bytes], folder: Path, name: str, content: bytes) -> None:
    """Write the files, one of them with another content."""
    for other, kept in whole.items():
        (folder / other).parent.mkdir(parents=True, exist_ok=True)
        (folder / other).write_bytes(content if other == name else kept)


def model_door(name: str, whole: Mapping[str, bytes]) -> Door:
    """A model's folder with one file damaged: loaded, and spoken to."""

    def door(content: bytes, folder: Path) -> None:
        lay_out(whole, folder, name, content)
        loaded = load_model(str(folder), device="cpu", dtype="float32")
        encode_chat(loaded.tokenizer, MESSAGES)
        if not loaded.end_of_turn_ids:
            raise AssertionError("no end of turn")

    return door


def adapter_door(name: str, whole: Mapping[str, bytes], model: Path) -> Door:
    """An adapter's folder with one file damaged, put on a model."""

    def door(content: bytes, folder: Path) -> None:
        lay_out(whole, folder, name, content)
        base = load_model(str(model), device="cpu", dtype="float32").model
        AdaptedModel(base, read_lora_config(folder), seed=0).load_adapter(folder)

    return door


def model_doors(scratch: Path) -> dict[str, tuple[Door, list[bytes]]]:
    """A tiny model's files, and those of an adapter of it."""
    model = save_tiny_model(scratch / "model")
    whole = contents(model)
    whole["model.safetensors.index.json"] = json.dumps(
        {"metadata": {}, "weight_map": {"lm_head.weight": "model.safetensors"}}
    ).encode()
    found: dict[str, tuple[Door, list[bytes]]] = {}
    for name in whole:
        kept = whole if name.endswith("index.json") else _without_index(whole)
        if name.endswith("index.json"):
            kept = {**kept, "other.safetensors": whole["model.safetensors"]}
            del kept["model.safetensors"]
        found[f"model, {name}"] = model_door(name, kept), [whole[name]]
    base = load_model(str(model), device="cpu", dtype="float32").model
    AdaptedModel(base, make_lora(), seed=0).save_adapter(scratch / "adapter")
    adapter = contents(scratch / "adapter")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        found[f"adapter, {name}"] = adapter_door(name, adapter, model), [adapter[name]]
    return found


def _without_index(whole: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: kept for name, kept in whole.items() if not name.endswith("index.json")}


class OtherResultError(Exception):
    """A damaged run folder was continued without a word, to another result."""


def run_doors(scratch: Path) -> dict[str, tuple[Door, list[bytes]]]:
    """Every file of a run that was interrupted before its selection; it must end as it would."""
    scripted = ScriptedTarget()
    build.load_models = lambda config, function=None: (  # type: ignore[assignment]
        make_agent(seed=7, temperature=config.agent.temperature),
        scripted,
    )
    run = scratch / "run"
    build.start_run(make_task(), tiny_config(steps=2), run, Silence())
    expected = RunFolder(run).read_json(RESULT)
    (run / RESULT).unlink()
    for later in ("test.json", "best_prompt.txt", "timing.json"):
        (run / later).unlink(missing_ok=True)
    whole = contents(run)
    newest = max(name for name in whole if name.startswith("checkpoints/")).rpartition("/")[0]

    def door_of(name: str) -> Door:
        def door(content: bytes, folder: Path) -> None:
            if content == whole[name]:
                return
            lay_out(whole, folder, name, content)
            build.resume(folder)
            if RunFolder(folder).read_json(RESULT) != expected:
                raise OtherResultError(name)

        return door

    shutil.rmtree(run)
    names = [n for n in whole if not n.startswith("checkpoints/") or n.startswith(newest)]
    shown = {n: n.replace(newest, "checkpoints/(last)") for n in names}
    return {f"continued run, {shown[n]}": (door_of(n), [whole[n]]) for n in names}
