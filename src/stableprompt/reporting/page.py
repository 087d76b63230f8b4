"""Runs as one HTML page that needs nothing else: no network, no other file."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from stableprompt.reporting.charts import charts_of, shared_charts
from stableprompt.reporting.differences import difference
from stableprompt.reporting.outcomes import Outcomes, outcomes_of
from stableprompt.reporting.reading import Run
from stableprompt.reporting.settings import command_of, settings_of
from stableprompt.reporting.summary import rows_of, summary_of
from stableprompt.reporting.tables import (
    Table,
    candidates_table,
    examples_table,
    steps_table,
    writes_table,
)
from stableprompt.reporting.visible import marked, script_json
from stableprompt.version import __version__

_ASSETS = "assets"
GENERATOR = "stableprompt report"
"""Stands in every page, so that a page is told from a file of the user's."""


def page(runs: Sequence[Run], *, live: bool = False) -> str:
    """The page of one run, or of several side by side.

    Args:
        runs: What could be read of them, at least one.
        live: Whether the page fetches itself again from where it came, to show what is new.
    """
    views = [_view(number, run) for number, run in enumerate(runs)]
    several = len(runs) > 1
    shared = [chart.to_dict() for chart in shared_charts(runs)] if several else []
    data = {
        "live": live,
        "done": all(run.result is not None for run in runs),
        "shared": shared,
        "runs": [view["data"] for view in views],
    }
    scripts, styles = _assets()
    return _environment().get_template("page.html.j2").render(
        views=views,
        rows=rows_of(list(runs)) if several else [],
        title=", ".join(dict.fromkeys(view["title"] for view in views)),
        data=script_json(data),
        scripts=[Markup(script) for script in scripts],
        styles=[Markup(style) for style in styles],
        policy=policy(live=live),
        live=live,
        generator=f"{GENERATOR} {__version__}",
    )  # fmt: skip


@cache
def policy(*, live: bool) -> str:
    """The Content-Security-Policy of a page: its own scripts and styles, by their hashes."""
    scripts, styles = (" ".join(map(_hash, texts)) for texts in _assets())
    rules = [
        "default-src 'none'",
        f"script-src {scripts}",
        f"style-src {styles}",
        "base-uri 'none'",
        "form-action 'none'",
        "img-src data:",
    ]
    # A page that fetches itself parses what comes; a page in a file parses nothing at all.
    rules.append("connect-src 'self'" if live else "require-trusted-types-for 'script'")
    return "; ".join(rules)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


@cache
def _assets() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Scripts and styles; they ship with the package, so they need no escaping."""
    folder = resources.files(__package__) / _ASSETS

    def read(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8").strip()

    scripts = tuple(map(read, ("uplot.min.js", "charts.js", "tables.js", "page.js")))
    return scripts, tuple(map(read, ("uplot.min.css", "page.css")))


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        loader=PackageLoader(__package__, _ASSETS),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "marked": marked,
        "figure": lambda value: f"{value:.3f}",
        "signed": lambda value: f"{value:+.3f}".replace("-", "\N{MINUS SIGN}"),
        "p_value": _p_value,
        "percent": lambda share: f"{100 * min(max(share, 0.0), 1.0):.2f}%",
    }
    return environment


def _p_value(value: float) -> str:
    """With its sign, held together: "= 0.041"."""
    told = "< 0.0001" if value < 1e-4 else f"= {value:.2g}"
    return told.replace(" ", "\N{NO-BREAK SPACE}")


def _view(number: int, run: Run) -> dict[str, Any]:
    """Everything that the template shows of a run, and what its scripts are given."""
    found = outcomes_of(run)
    outcomes = found if isinstance(found, Outcomes) else None
    tables: dict[str, Table | None] = {
        "candidates": candidates_table(run),
        "examples": examples_table(outcomes) if outcomes else None,
        "writes": writes_table(run),
        "steps": steps_table(run),
    }
    charts = charts_of(run)
    result = run.result
    seed, best = run.seed_prompt, run.leader
    instruction = (result.instruction or result.prompt) if result else best
    changed = difference(seed, instruction) if seed is not None and instruction else None
    return {
        "id": f"run-{number}",
        "number": number + 1,
        "title": run.task.name if run.task else run.name,
        "run": run,
        "result": result,
        "summary": summary_of(run),
        "seed": seed,
        "best": best,
        "instruction": instruction,
        "difference": changed,
        "outcomes": outcomes,
        "unmatched": found if isinstance(found, str) else None,
        "tables": {name for name, table in tables.items() if table},
        "charts": charts,
        "settings": settings_of(run),
        "command": command_of(run),
        "data": {
            "charts": [chart.to_dict() for chart in charts],
            "tables": {name: table.to_dict() for name, table in tables.items() if table},
            "copy": {"best": best, "seed": seed, "command": command_of(run)},
        },
    }
