"""The optimisers of peers by name; a package is imported when its optimiser runs."""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from stableprompt.studies.peers.problem import Problem


def _in_module(name: str) -> "Callable[[Problem], str]":
    def optimise(problem: "Problem") -> str:
        found: str = import_module(f"stableprompt.studies.peers.{name}").optimise(problem)
        return found

    return optimise


PEERS: "Final[dict[str, Callable[[Problem], str]]]" = {
    "gepa": _in_module("gepa_search"),
    "miprov2": _in_module("mipro_search"),
    "capo": _in_module("promptolution_search"),
}
"""Each spends the budget of a problem and gives the best prompt that it found."""
