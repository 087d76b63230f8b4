"""Checkpoints as they come from elsewhere: data, whose code is not run and whose pickles stay shut.

transformers reads a pickle where an index of shards names one, asks on the terminal whether code
of a checkpoint may run, fills weights that are missing with random numbers, and lets through
whatever its parsers raise. None of that reaches a run.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Final

from huggingface_hub.utils import logging as hub_logging
from safetensors import safe_open
from transformers import AutoTokenizer, PreTrainedConfig
from transformers import logging as transformers_logging
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from stableprompt.errors import ModelError, StablePromptError
from stableprompt.models.embedded import EMBEDDED_NAME

_LONGEST_REASON: Final = 300
_WEIGHTS: Final = ".safetensors"
_NUMBERS_OF_LAYERS: Final = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Say on one line what kept a checkpoint from being read, and what to do; all else is quiet.

    Raises:
        ModelError: whatever was raised inside that is no error of this package.
    """
    with _silent_transformers():
        try:
            yield
        except StablePromptError:
            raise
        except Exception as error:  # the libraries have no common error, and their parsers any
            raise ModelError(
                f"model {name!r} could not be loaded ({_reason(error)}); give {EMBEDDED_NAME!r}, "
                "a folder with config.json and safetensors, or a hub id that this machine can reach"
            ) from error


def _reason(error: Exception) -> str:
    said = str(error).strip()
    if "trust_remote_code" in said:
        return "it needs code of its own, which is never run"
    if "\n" in said and said.splitlines()[0].rstrip().endswith(":"):  # the reason is below
        said = " ".join(said.split())
    first = said.splitlines()[0] if said else ""
    told = first if isinstance(error, OSError | ValueError | ImportError) and first else ""
    whole = told or f"{type(error).__name__}: {first}".rstrip(": ")
    return whole if len(whole) <= _LONGEST_REASON else f"{whole[:_LONGEST_REASON]}…"


def require_safetensors(source: str) -> None:
    """Check that an index of shards names weights of its own folder, and the config no more.

    Args:
        source: A local folder, or a hub id.

    Raises:
        ModelError: it names another place, or a file that would be unpickled; or the config asks
            for more layers than there are weights.
    """
    found = _file_of(source, SAFE_WEIGHTS_INDEX_NAME)
    if found is None:
        whole = _file_of(source, SAFE_WEIGHTS_NAME)
        if whole is not None:
            with safe_open(whole, framework="pt") as weights:
                _require_possible_size(source, len(weights.keys()))
        return
    with open(found, encoding="utf-8") as file:
        index = json.load(file)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise ModelError(f"{SAFE_WEIGHTS_INDEX_NAME} of {source} names no weights; it is damaged")
    for shard in shards.values():
        if not isinstance(shard, str) or not _is_own_file(shard) or not shard.endswith(_WEIGHTS):
            raise ModelError(
                f"{SAFE_WEIGHTS_INDEX_NAME} of {source} names {shard!r}, which is no {_WEIGHTS} "
                "file of that folder; nothing else is opened, so convert the weights"
            )
    _require_possible_size(source, len(shards))


def _file_of(source: str, name: str) -> str | None:
    """A file of a folder or of the hub; None where there is none, and loading will say why."""
    found: str | None = cached_file(
        source,
        name,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return found


def _require_possible_size(source: str, num_tensors: int) -> None:
    """Check that a config asks for no more layers than there are weights.

    Layers are made before their weights are looked for: a number in a file could take all memory.
    """
    config, _ = PreTrainedConfig.get_config_dict(source)
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    for part in parts:
        for key in _NUMBERS_OF_LAYERS:
            layers = part.get(key)
            if isinstance(layers, int | float) and layers > num_tensors:
                raise ModelError(
                    f"config.json of {source} asks for more layers ({key}) than its weights have "
                    f"tensors ({num_tensors}); it is damaged"
                )


def _is_own_file(name: str) -> bool:
    return PurePosixPath(name).name == name == PureWindowsPath(name).name and name not in ("", "..")


def load_tokenizer(source: str) -> Any:
    """The tokenizer of a checkpoint, after it has read a first text: some faults show only then."""
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    tokenizer("a")
    return tokenizer


def require_weights(name: str, model: Any, missing: Sequence[str]) -> None:
    """Check that no weight was made up.

    Raises:
        ModelError: the checkpoint lacks some that the model has.
    """
    if missing:
        raise ModelError(
            f"model {name!r} is not whole: its weights lack {missing[0]} (of {len(missing)} "
            f"missing, as {type(model).__name__}); get it again, or give another model"
        )


@contextmanager
def _silent_transformers() -> Iterator[None]:
    """Keep loading bars, tables with names from the checkpoint and retries out of the terminal."""
    settings: Any = transformers_logging
    of_hub: Any = hub_logging
    bars, verbosity = settings.is_progress_bar_enabled(), settings.get_verbosity()
    hub_verbosity = of_hub.get_verbosity()
    settings.disable_progress_bar()
    settings.set_verbosity_error()
    of_hub.set_verbosity_error()
    try:
        yield
    finally:
        of_hub.set_verbosity(hub_verbosity)
        settings.set_verbosity(verbosity)
        if bars:
            settings.enable_progress_bar()
