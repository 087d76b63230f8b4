"""The pages hang together: on the repository's web page, in the site, and with the code."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import stableprompt
from tests.documents.pages import ROOT, Page, page_names, read_page
from tests.documents.test_snippets import SECTIONS

PAGES = [read_page(name) for name in page_names()]
REFERENCE = ("docs/api.md", "docs/settings.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Page) -> None:
    here = (ROOT / page.name).parent
    for link in page.links:
        if re.match(r"https?://|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (here / path).resolve() if path else ROOT / page.name
        assert target.exists(), f"{page.name}: {link} leads nowhere"
        name = target.relative_to(ROOT).as_posix()
        if anchor and target.suffix == ".md":
            assert anchor in read_page(name).anchors, f"{page.name}: {link} has no such heading"


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.name.startswith("docs/")], ids=lambda page: page.name
)
def test_pages_of_the_site_link_to_the_site(page: Page) -> None:
    # What lies outside docs/ is there on the repository's web page, and missing in the site.
    here = (ROOT / page.name).parent
    for link in page.links:
        if not re.match(r"https?://|#", link):
            target = (here / link.partition("#")[0]).resolve()
            assert target.is_relative_to(ROOT / "docs"), f"{page.name}: {link} is not in docs/"


def test_every_page_is_in_the_navigation_once() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def pages(entry: object) -> list[str]:
        if isinstance(entry, dict):
            entry = list(entry.values())
        return (
            [name for one in entry for name in pages(one)]
            if isinstance(entry, list)
            else [str(entry)]
        )

    there = [path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")]
    assert sorted(pages(settings["nav"])) == sorted(there)


def test_the_reference_has_every_public_name_and_every_setting() -> None:
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in REFERENCE]
    found = re.findall(r"^::: (\S+)$", "\n".join(texts), re.MULTILINE)
    for name in found:
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute), f"there is no {name}"
    shown = {name.rpartition(".")[2] for name in found}
    assert set(stableprompt.__all__) - {"__version__"} <= shown
    assert {section.__name__ for section in SECTIONS.values()} <= shown


def test_no_page_names_a_file_that_is_not_there() -> None:
    # "tuning/update.py" and its like, as docs/algorithm.md maps equations to code.
    for page in PAGES:
        for text in page.inline:
            named = re.match(
                r"((?:[a-z_]+/)+[\w-]+\.(?:py|toml|md|txt|jsonl))(?:::([\w.]+))?$", text
            )
            if named is None or page.name == "CHANGELOG.md":
                continue
            places = [ROOT / named[1], ROOT / "src" / "stableprompt" / named[1]]
            there = [path for path in places if path.exists()]
            assert there or _of_a_run(named[1]), f"{page.name}: there is no {named[1]}"
            if named[2]:
                last = named[2].rpartition(".")[2]
                source = there[0].read_text(encoding="utf-8")
                assert re.search(rf"(def|class) {last}\b", source), f"{page.name}: no {text}"


def test_the_equations_name_functions_that_are_there() -> None:
    # After a file and its first name come more of the same file: `x.py::one`, `two`.
    table = (ROOT / "docs" / "algorithm.md").read_text(encoding="utf-8").split("\n## ")[1]
    looked = 0
    for file, names in re.findall(r"`([a-z_/]+\.py)::([\w.]+`(?:, `[\w.]+`)*)", table):
        source = (ROOT / "src" / "stableprompt" / file).read_text(encoding="utf-8")
        for name in re.findall(r"[\w.]+", names):
            if name.endswith(".py"):
                continue
            last = name.rpartition(".")[2]
            assert re.search(rf"(def|class) {last}\b", source), f"{file} has no {name}"
            looked += 1
    assert looked > 20


def _of_a_run(name: str) -> bool:
    return Path(name).parts[0] in ("runs", "writer", "kshot16", "examples")
