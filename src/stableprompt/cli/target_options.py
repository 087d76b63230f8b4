"""The target and the limits of a run on the command line."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import typer

from stableprompt.cli.settings import nested
from stableprompt.errors import ConfigError

DEFAULTS: Final = {
    "agent.model": "smollm2-135m",
    "target.model": "smollm2-135m",
    "method": "appo",
    "steps": "10",
    "seed": "0",
}
"""Those of the settings, which help does not load; a test compares them."""
TargetOption = Annotated[
    str | None,
    typer.Option(
        help="LLM that follows them: embedded name, folder, hub id, PROVIDER/MODEL behind an API, "
        "or MODULE:FUNCTION of your own.",
        show_default=DEFAULTS["target.model"],
    ),
]
BaseUrlOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="URL",
        help="Of an OpenAI-compatible server that has the target; several times for replicas.",
    ),
]
Engine = Literal["process", "ray"]
EngineOption = Annotated[
    Engine | None,
    typer.Option(
        "--target-engine",
        help="Where a checkpoint answers: in this process, or in actors on a Ray cluster "
        "(--set target.ray.actors=4).",
    ),
]
MaxCallsOption = Annotated[
    int | None, typer.Option("--max-target-calls", help="At most so many, test included.")
]
MaxCostOption = Annotated[
    float | None, typer.Option(metavar="DOLLARS", help="At most so many, by the price table.")
]
MaxTokensOption = Annotated[
    int | None, typer.Option(help="Tokens that the target reads and writes, at most.")
]
MaxTimeOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="At most so long, as in 90s, 30m or 2h.")
]

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class LimitOptions:
    """What the options for limits were given."""

    max_target_calls: int | None = None
    max_cost: float | None = None
    max_tokens: int | None = None
    max_time: str | None = None

    def settings(self) -> dict[str, Any]:
        """Fields of ``LimitsConfig``, those that were given.

        Raises:
            ConfigError: a time that is none.
        """
        seconds = None if self.max_time is None else parse_seconds(self.max_time)
        given = {
            "max_target_calls": self.max_target_calls,
            "max_cost": self.max_cost,
            "max_tokens": self.max_tokens,
            "max_seconds": seconds,
        }
        return {name: value for name, value in given.items() if value is not None}


def parse_seconds(text: str) -> float:
    """Seconds of "90", "90s", "30m" or "1.5h".

    Raises:
        ConfigError: it is none of these.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip().lower())
    if found is None:
        raise ConfigError(f"--max-time {text!r} is no time; write 90s, 30m or 2h")
    return float(found[1]) * _UNITS[found[2]]


def target_layers(
    target: str | None,
    base_urls: Sequence[str] | None,
    limits: LimitOptions,
    engine: Engine | None = None,
) -> tuple[list[dict[str, Any]], Any]:
    """Settings for target and limits, and the function, where the target names one.

    Raises:
        ConfigError: there is no such function, or a time is none.
    """
    layers = [nested("limits", limits.settings())] if limits != LimitOptions() else []
    if base_urls:
        layers.append(nested("target.api.base_url", list(base_urls)))
    if engine is not None:
        layers.append(nested("target.ray", {} if engine == "ray" else None))
    if target is None:
        return layers, None
    function = None if base_urls else _function(target)
    layers.append(nested("target.model", f"function:{target}" if function else target))
    return layers, function


def settings_of_ray(layers: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Fields of ``RayConfig``, from settings of nothing else; None where there are others."""
    found: dict[str, Any] = {}
    for layer in layers:
        match layer:
            case {"target": {"ray": dict() as own}}:
                found |= own
            case _:
                return None
    return found


def _function(target: str) -> Any:
    """The function that MODULE:FUNCTION names; None where it is the name of a model."""
    import os

    module, colon, function = target.partition(":")
    if not colon or "/" in module or module == "hub" or os.path.isdir(target) or not function:
        return None
    from stableprompt.cli.data import imported

    return imported(target, "--target")
