"""Every command and snippet of the pages works: an option that is renamed fails here.

Commands of ours are called in a folder with files by the names that the pages use. In the
tutorial whole runs are made, with a tiny model and one step; on the other pages all is checked up
to where a run would begin: options, files, settings, methods, prices. Snippets in Python are
executed, page by page, with the tiny model behind every name.
"""

import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import huggingface_hub
import pytest
import typer
import yaml

import stableprompt
from stableprompt.cli import app
from stableprompt.cli.plan_file import read_plan
from stableprompt.cli.settings import parse_assignments
from stableprompt.config import TuneConfig, make_config
from stableprompt.errors import ConfigError
from stableprompt.llm_config import Section
from tests.documents.commands import problem_with
from tests.documents.pages import MARK_FORM, Block, Page, page_names, parse_page, read_page
from tests.documents.shell import commands_of, holds_commands
from tests.documents.stage import (
    Elsewhere,
    Stage,
    make_run,
    make_stage,
    put_run,
    set_doors,
    write_files,
)

WHOLE = ("docs/tutorial.md",)
"""Pages whose runs are made, not only checked."""
PROSE = ("", "text", "bibtex", "csv", "promql", "html", "diff")
"""Blocks in which nothing is to be checked."""
PAGES = [read_page(name) for name in page_names() if name != "CHANGELOG.md"]  # tells what was, too


def having(kind: str) -> list[Any]:
    """The pages that have blocks of a kind."""
    return [pytest.param(p, id=p.name) for p in PAGES if any(kind_of(b) == kind for b in p.blocks)]


def kind_of(block: Block) -> str:
    """What is done with a block."""
    if block.not_run is not None:
        return "left out"
    if holds_commands(block):
        return "commands"
    return "prose" if block.language in PROSE else block.language


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """The models, and a run of them."""
    made = make_stage(tmp_path_factory.mktemp("documents"))
    make_run(made)
    return made


@pytest.fixture
def stage(made: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A new folder to be in."""
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("STABLEPROMPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("STABLEPROMPT_DATA", raising=False)
    yield Stage(tmp_path, made.agent, made.target)


def play(page: Page, stage: Stage, run: Path) -> list[str]:
    """What is wrong with the commands of a page, in order."""
    problems = []
    for block in page.blocks:
        if kind_of(block) == "commands":
            for command in commands_of(block):
                problem = problem_with(command, stage, run)
                if problem is not None:
                    problems.append(f"{page.name}:{command.line}: {command.text}: {problem}")
    return problems


@pytest.mark.parametrize("page", having("commands"))
def test_the_commands_of_a_page_are_ours(
    page: Page, made: Stage, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_doors(monkeypatch, stage, whole=page.name in WHOLE)
    assert play(page, stage, made.folder / "run") == []


@pytest.mark.parametrize("page", having("python"))
def test_the_snippets_of_a_page_run(
    page: Page, made: Stage, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_doors(monkeypatch, stage, whole=True)
    monkeypatch.setattr(huggingface_hub, "HfApi", Elsewhere)
    snippets = [block for block in page.blocks if kind_of(block) == "python"]
    known = names_of_readers()
    for block in snippets:
        for name in re.findall(r'"(runs/[\w.-]+)', block.text):
            put_run(made.folder / "run", stage.folder / name)
        # Line numbers of an error are those of the page.
        code = compile("\n" * (block.line - 1) + block.text, page.name, "exec")
        exec(code, known)


def names_of_readers() -> dict[str, Any]:
    """What a reader of a snippet has by then."""
    task = stableprompt.Task.from_csv("tickets.csv", text="message", label="team")
    chain = type("Chain", (), {"invoke": lambda self, messages: "delivery"})()
    return {"stableprompt": stableprompt, "task": task, "my_chain": chain}


@pytest.mark.parametrize("page", having("toml") + having("yaml") + having("json"))
def test_the_settings_of_a_page_are_settings(page: Page, tmp_path: Path) -> None:
    for block in page.blocks:
        if kind_of(block) == "json":
            json.loads(block.text)
        elif kind_of(block) in ("toml", "yaml"):
            load: Any = tomllib.loads if block.language == "toml" else yaml.safe_load
            given = load(block.text)
            if "tasks" in given:
                path = tmp_path / f"plan.{block.language}"
                path.write_text(block.text, encoding="utf-8")
                read_plan(path, {})
            else:
                make_config(given)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_block_that_is_left_out_says_why(page: Page) -> None:
    for block in page.blocks:
        assert block.not_run is None or len(block.not_run.split()) >= 3, (
            f"{block.place}: say why in {MARK_FORM}"
        )
        known = {"commands", "python", "toml", "yaml", "json", "prose", "left out"}
        assert kind_of(block) in known, f"{block.place}: no check for {block.language} blocks"


# --- code in the text ---

SECTIONS = {
    name: field.annotation
    for name, field in TuneConfig.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}
FIGURES = {"anchor.decision", "anchor.policy_score", "anchor.anchor_score", "anchor.error"}
"""Keys of a run's files that look like settings."""


def unknown_setting(text: str) -> str | None:
    """What is wrong with ``section.field`` or ``section.field=value``; None where it is neither."""
    name, _, value = text.partition("=")
    parts = name.split(".")
    if len(parts) < 2 or parts[0] not in SECTIONS or name in FIGURES:
        return None
    if not all(part.isidentifier() for part in parts) or parts[-1] in ("py", "md", "json", "toml"):
        return None
    section: Any = SECTIONS[parts[0]]
    for part in parts[1:]:
        field = getattr(section, "model_fields", {}).get(part)
        if field is None:
            return f"there is no setting {name}"
        kinds = get_args(field.annotation)  # of a section that may be missing
        section = next((one for one in kinds if hasattr(one, "model_fields")), field.annotation)
    if value and value != "...":
        try:
            make_config(*parse_assignments([text]))
        except ConfigError as error:
            return str(error)
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_that_the_text_names_exist(page: Page) -> None:
    found = [text.removeprefix("--set ").strip() for text in page.inline]
    assert [problem for text in found if (problem := unknown_setting(text))] == []


def options() -> set[str]:
    """All options of all commands."""
    group: Any = typer.main.get_command(app)
    commands = [group, *group.commands.values()]
    found = {opt for c in commands for p in c.params for opt in (*p.opts, *p.secondary_opts)}
    return found | {"--help", "--install-completion", "--show-completion"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_the_text_names_exist(page: Page, tmp_path: Path) -> None:
    group: Any = typer.main.get_command(app)
    for text in page.inline:
        program, _, rest = text.partition(" ")
        if program == "stableprompt" and rest:  # with DATA and RUN for what stands there
            assert rest.startswith("-") or rest.split()[0] in group.commands, text
        elif program in ("make", "pip") and rest:
            [block] = parse_page(page.name, f"```bash\n{text}\n```\n").blocks
            nothing = Stage(tmp_path, tmp_path, tmp_path)
            for command in commands_of(block):
                assert problem_with(command, nothing, tmp_path) is None, text


FOREIGN = {
    "--data-parallel-size",
    "--dp-size",
    "--no-deps",
    "--markdown",
    "--only",
    "--quick",
    "--fix",
    "--cpu",
}
"""Options of other programs that the text speaks of."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_that_the_text_names_exist(page: Page) -> None:
    words = [word.partition("=")[0].rstrip(",") for text in page.inline for word in text.split()]
    named = {word for word in words if re.fullmatch(r"--[a-z][a-z-]+", word)}
    assert named - options() - FOREIGN == set()


def test_pages_have_something_to_check() -> None:
    # Every test here passes on an empty list.
    kinds = [kind_of(block) for page in PAGES for block in page.blocks]
    assert kinds.count("commands") > 20 and kinds.count("python") > 5
    assert len([1 for page in PAGES for text in page.inline if "=" in text]) > 20
    assert shutil.which("make")
