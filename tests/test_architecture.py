"""Rules about the source that no type checker knows."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import stableprompt

SOURCE = Path(stableprompt.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
MOST_LINES = 350
MOST_FUNCTION_LINES = 60
LOADERS = ("models/loading.py", "models/checkpoint_files.py", "models/targets/masked_loading.py")
PEERS = ("studies/peers/registry.py", "studies/peers/problem.py")
"""Their own packages by name, from a list in the source."""
VAGUE = {"utils", "util", "common", "core", "base", "helpers", "helper", "manager", "misc"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def shown(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in MODULES:
        yield shown(path), ast.parse(path.read_text(encoding="utf-8"))


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def imported(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def test_the_package_is_found() -> None:
    # Every other test here passes on an empty list.
    assert {"config.py", "cli/tune.py", "tuning/tuner.py"} <= {shown(path) for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_modules_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_functions_are_short() -> None:
    long = [
        f"{name}: {node.name} has {(node.end_lineno or 0) - node.lineno + 1} lines"
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, Function)
        and (node.end_lineno or 0) - node.lineno + 1 > MOST_FUNCTION_LINES
    ]
    assert long == []


def test_no_name_says_nothing() -> None:
    names = {part for path in MODULES for part in path.relative_to(SOURCE).with_suffix("").parts}
    assert {name for name in names if set(name.split("_")) & VAGUE} == set()


@pytest.mark.parametrize("module", ["pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"])
def test_nothing_is_pickled(module: str) -> None:
    users = [
        name
        for name, tree in trees()
        if any(used == module or used.startswith(f"{module}.") for used in imported(tree))
    ]
    assert users == []


def test_no_weights_are_read_or_written_by_torch() -> None:
    # torch.load unpickles; weights are safetensors.
    forbidden = {"torch.load", "torch.save", "numpy.load", "np.load"}
    assert [
        name for name, tree in trees() if forbidden & {called for called, _ in calls(tree)}
    ] == []
    assert [name for name, tree in trees() if {"torch.load", "torch.save"} & imported(tree)] == []


def is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def test_no_remote_code_is_trusted_and_nothing_is_evaluated() -> None:
    trusting = [
        f"{name}:{call.lineno}"
        for name, tree in trees()
        for called, call in calls(tree)
        if any(k.arg == "trust_remote_code" and not is_false(k.value) for k in call.keywords)
        or called in {"eval", "exec", "compile", "__import__"}
    ]
    assert trusting == []


def test_transformers_is_always_told_that_code_of_a_checkpoint_is_not_run() -> None:
    # Without the argument it asks on the terminal whether it may.
    loading = [
        (f"{name}:{call.lineno}", call)
        for name, tree in trees()
        for called, call in calls(tree)
        if re.fullmatch(r"AutoTokenizer\.from_pretrained|load", called) and name in LOADERS
    ]
    told = [
        place for place, call in loading if any(k.arg == "trust_remote_code" for k in call.keywords)
    ]
    assert told == [place for place, _ in loading]
    assert len(told) == 3


def test_no_shell_no_process_and_only_known_imports_by_name() -> None:
    starting = [
        f"{name}:{call.lineno} {called}"
        for name, tree in trees()
        for called, call in calls(tree)
        if re.match(r"(os\.(system|popen|exec|spawn)|subprocess\.|pty\.)", called)
        or any(k.arg == "shell" for k in call.keywords)
    ]
    assert starting == []
    importing = {
        name
        for name, tree in trees()
        for called, _ in calls(tree)
        if called in {"importlib.import_module", "import_module"}
    }
    # What the user names on the command line; the packages of metrics; the package's own names.
    assert importing <= {"cli/data.py", "tasks/metrics/overlap.py", "__init__.py", *PEERS}


@pytest.mark.parametrize("module", ["zipfile", "tarfile", "gzip", "ctypes", "code", "telnetlib"])
def test_no_archive_is_unpacked_and_nothing_lower_is_touched(module: str) -> None:
    # The C library is told there to give memory back.
    allowed = ["models/memory.py"] if module == "ctypes" else []
    assert [name for name, tree in trees() if module in imported(tree)] == allowed


def test_no_table_for_a_spreadsheet_is_written() -> None:
    # A cell such as =cmd|... would be run there: whoever adds an export must defuse its cells.
    writing = [
        f"{name}:{call.lineno}"
        for name, tree in trees()
        for called, call in calls(tree)
        if called in {"csv.writer", "csv.DictWriter"} or called.endswith((".to_csv", ".to_excel"))
    ]
    assert writing == []


def test_all_that_is_printed_goes_through_one_module() -> None:
    printing = {
        name
        for name, tree in trees()
        for called, _ in calls(tree)
        if re.fullmatch(r"print|typer\.(secho|echo)|click\.echo|(rich\.console\.)?Console", called)
    }
    assert printing == {"cli/terminal.py"}


def test_yaml_is_read_safely() -> None:
    loaders = {called for _, tree in trees() for called, _ in calls(tree) if "yaml" in called}
    assert loaders == {"yaml.safe_load"}


def test_only_the_command_line_prints() -> None:
    printing = {
        name
        for name, tree in trees()
        for called, _ in calls(tree)
        if re.fullmatch(r"print|(rich\.)?print|sys\.std(out|err)\.write|typer\.echo", called)
    }
    assert {name for name in printing if not name.startswith("cli/")} == set()
    assert printing, "the command line says something, so this test looks for the wrong calls"


def test_text_files_are_opened_with_their_encoding() -> None:
    # Without it the locale decides, and a run folder written here is not read there.
    own = {"os.open", "RunFolder.open", "cls.open", "self.write_text", "self._folder.write_text"}
    own |= {"out.write_text", "place.write_text", "folder.write_text"}  # RunFolders, too
    careless = [
        f"{name}:{call.lineno} {called}"
        for name, tree in trees()
        for called, call in calls(tree)
        if called.rsplit(".", 1)[-1] in {"read_text", "write_text", "open"}
        and called not in own
        and not any(k.arg == "encoding" for k in call.keywords)
        and not any(isinstance(a, ast.Constant) and "b" in str(a.value) for a in call.args)
    ]
    assert careless == []
