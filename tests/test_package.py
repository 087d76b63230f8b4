"""The package as it is imported and shipped."""

import importlib
import json
import re
import subprocess
import sys
import tomllib
from importlib import resources
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
import yaml

import stableprompt
from stableprompt import errors

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "peft", "accelerate", "safetensors")


def loaded_after(code: str) -> set[str]:
    """The modules that a new process has loaded after this code."""
    listing = f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_names_are_sorted_and_each_once() -> None:
    assert stableprompt.__all__ == sorted(set(stableprompt.__all__))


def test_every_name_has_one_home_and_every_home_is_offered() -> None:
    homes = [name for names in stableprompt._HOMES.values() for name in names]
    assert sorted(homes) == sorted(set(stableprompt.__all__) - {"__version__"})


@pytest.mark.parametrize("name", stableprompt.__all__)
def test_every_name_is_what_its_home_has(name: str) -> None:
    offered = getattr(stableprompt, name)
    if name == "__version__":
        return
    [module] = [module for module, names in stableprompt._HOMES.items() if name in names]
    assert offered is getattr(importlib.import_module(f"stableprompt.{module}"), name)
    assert offered.__module__ == f"stableprompt.{module}"  # not merely passed on by it


def test_the_names_are_listed_and_others_are_refused() -> None:
    assert dir(stableprompt) == stableprompt.__all__
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        _ = stableprompt.optimise


def test_every_error_of_the_package_is_offered() -> None:
    tree = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.StablePromptError)
    }
    assert tree <= set(stableprompt.__all__)
    assert "ConfigError" in tree


def test_importing_the_package_imports_no_torch() -> None:
    loaded = loaded_after("import stableprompt; dir(stableprompt); stableprompt.__version__")
    assert loaded.isdisjoint(HEAVY)
    assert "stableprompt.build" not in loaded


def test_data_and_settings_need_no_torch() -> None:
    loaded = loaded_after(
        "from stableprompt import Task, TuneConfig, ConfigError, load_bundled; "
        "load_bundled('support'); TuneConfig()"
    )
    assert loaded.isdisjoint(HEAVY)


def test_the_version_is_the_installed_one() -> None:
    assert stableprompt.__version__ == version("stableprompt")


def test_the_types_are_shipped() -> None:
    assert (resources.files("stableprompt") / "py.typed").is_file()


def test_the_citation_is_of_this_version_and_names_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == stableprompt.__version__
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()
    [paper] = citation["references"]
    assert paper["url"] == "https://arxiv.org/abs/2410.07652"
    assert [one["family-names"] for one in paper["authors"]] == [
        *("Kwon", "Kim", "Kim", "Lee", "Kim")
    ]


def test_the_table_has_every_extra_and_no_other() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    told = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?`) \|", told.partition("## Extras")[2], re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == set(settings["optional-dependencies"])


def test_licences_are_shipped() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [name for name in settings["license-files"] if not (ROOT / name).is_file()] == []


def test_a_shell_completes_options_without_torch() -> None:
    code = (
        "import os, sys\n"
        "os.environ |= {'_STABLEPROMPT_COMPLETE': 'complete_bash', 'COMP_CWORD': '2',"
        " 'COMP_WORDS': 'stableprompt tune --max-t'}\n"
        "sys.argv = ['stableprompt']\n"
        "from stableprompt.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    print(*({'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["--max-target-calls", "--max-tokens", "--max-time"]


def test_the_program_is_installed() -> None:
    [program] = entry_points(group="console_scripts", name="stableprompt")
    assert program.value == "stableprompt.cli:main"
    assert (Path(sys.executable).parent / "stableprompt").is_file()
