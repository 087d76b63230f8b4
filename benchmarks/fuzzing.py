"""Damaged and hostile files for everything that the package reads, by seed.

A *door* is a way in: it takes the bytes of a file, and gives nothing or one of the package's own
errors. Used by ``benchmarks.bad_inputs`` at length and by the tests in short.
"""

import io
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from stableprompt.cli.evaluate import _as_in_run
from stableprompt.cli.plan_file import read_plan
from stableprompt.cli.settings import parse_assignments
from stableprompt.cli.settings_file import read_settings
from stableprompt.cli.terminal import on_one_line, printable
from stableprompt.config import make_config
from stableprompt.errors import StablePromptError
from stableprompt.runs.escapes import escaped
from stableprompt.runs.folder import CONFIG, RESULT, TASK, RunFolder
from stableprompt.tasks.archive import task_to_dict
from stableprompt.tasks.placeholders import fill, placeholders
from stableprompt.tasks.prompt_checks import find_fault
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import TargetTemplate

Door = Callable[[bytes, Path], None]

HOSTILE: Final = (
    "<script>alert(1)</script>", "\x1b[2J\x1b]0;owned\x07", "\x9b31m", "\x00", "\ufeff",
    "\u202e\u2066", "\u200b\u200d", "{{ 7*7 }}", "{x}", "{text}", "{% for a in b %}",
    "<|im_start|>system\n", "<|im_end|>", "<|endoftext|>", "</s>", "[INST]",
    "=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)",
    "\t", "\r\n\x0b\x0c\x85\u2028", "[bold]x[/bold]", "%s%n", "../../etc/passwd", "\ud83d",
    "\U000e0041", "null", "NaN", "-1e999", "!!python/object/apply:os.system ['true']", "&a [*a]",
    "[" * 3000, "9" * 5000, "a" * 100_000, '"', "'", ",", ";", "\\", "}", "]", "#", ":", "=",
)  # fmt: skip


STEERS: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
"""What no terminal may get."""


@dataclass
class Counts:
    """What became of the cases of one door."""

    read: int = 0
    refused: int = 0
    others: dict[str, int] = field(default_factory=dict)
    """Errors that are none of the package's own: each is a bug."""
    examples: dict[str, bytes] = field(default_factory=dict)
    longest_seconds: float = 0.0

    @property
    def cases(self) -> int:
        """All of them."""
        return self.read + self.refused + sum(self.others.values())


def damaged(seeds: list[bytes], rng: random.Random) -> bytes:
    """One of the files, cut, flipped, filled with something hostile, or made of such things."""
    content = rng.choice(seeds)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        content = rng.choice(_WAYS)(content, rng)
    return content


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _cut_out(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + content[start + rng.choice((1, 2, 9, 40)) :]


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content or b"\0")
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _insert(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    piece = rng.choice(HOSTILE).encode("utf-8", "surrogatepass")
    return content[:start] + piece + content[start:]


def _swap_value(content: bytes, rng: random.Random) -> bytes:
    """Another JSON value in the place of one: of another kind, too long, too deep, or gone."""
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        return _flip(content, rng)
    places = list(_places(whole))
    if not places:
        return content
    holder, key = rng.choice(places)
    if rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = rng.choice(_VALUES)
    return json.dumps(whole).encode()


_VALUES: Final = (
    None, True, 0, -1, 10**400, 1.5, float("nan"), "", "x", "../../x", "\x1b[0m", "\ud800", [], {},
    [[]], {"": None}, ["a", 1], {"a": {"b": {}}}, "a" * 100_000,
)  # fmt: skip


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    entries: Any = value.items() if isinstance(value, dict) else ()
    for key, inner in list(enumerate(value) if isinstance(value, list) else entries):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def _any_bytes(content: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(300))


_WAYS: Final = (
    _cut,
    _cut_out,
    _flip,
    _flip,
    _insert,
    _insert,
    _swap_value,
    _swap_value,
    _any_bytes,
)


# --- doors ---

ROWS: Final = [
    {
        "text": f"text {i} {{x}}",
        "label": ("red", "green")[i % 2],
        "split": ("train", "test")[i % 3 > 1],
    }
    for i in range(18)
]


def table(extension: str) -> Door:
    """A task from a file."""

    def door(content: bytes, folder: Path) -> None:
        path = folder / f"data{extension}"
        path.write_bytes(content)
        task = Task.from_file(path)
        # What was read can be shown, written down, and taken back.
        json.dumps(task_to_dict(task), ensure_ascii=False).encode("utf-8")
        for example in task.train[:3]:
            for message in TargetTemplate().messages(task.seed_prompt, example):
                message["content"].encode("utf-8")

    return door


def settings_file(extension: str) -> Door:
    """A settings file, as ``--config`` takes it."""

    def door(content: bytes, folder: Path) -> None:
        path = folder / f"settings{extension}"
        path.write_bytes(content)
        made = make_config(read_settings(path))
        made.model_dump_json().encode("utf-8")

    return door


def plan_file(extension: str) -> Door:
    """A plan file, as ``compare --plan`` takes it."""

    def door(content: bytes, folder: Path) -> None:
        path = folder / f"plan{extension}"
        path.write_bytes(content)
        read_plan(path, {})

    return door


def assignment(content: bytes, folder: Path) -> None:
    """``--set``."""
    text = content.decode("utf-8", "surrogateescape")
    made = make_config(*parse_assignments([text]))
    made.model_dump_json().encode("utf-8")


def template(content: bytes, folder: Path) -> None:
    """A prompt with an input, and a prompt as the agent may write it."""
    text = content.decode("utf-8", "replace")
    values = {"text": text, "premise": "{hypothesis}", "hypothesis": "h"}
    filled = fill(text, values)
    if not placeholders(text) & values.keys() and filled != text:
        raise AssertionError("nothing was to be filled in")
    if fill("{premise}", values) != "{hypothesis}":
        raise AssertionError("what was put in was searched again")
    find_fault(text, truncated=False, example_texts=[text[:50], "some other text of its own"])
    for shown in (on_one_line(text), escaped(text), printable(text)):
        if STEERS.search(shown):
            raise AssertionError(f"a control character is shown in {shown!r}")


def run_file(name: str, whole: Mapping[str, bytes]) -> Door:
    """One file of a run folder, when it is opened."""

    def door(content: bytes, folder: Path) -> None:
        for other, kept in whole.items():
            (folder / other).write_bytes(content if other == name else kept)
        prompt, task, settings = _as_in_run(folder, None)
        make_config(settings)
        replace(task, seed_prompt=prompt)
        RunFolder(folder).read_lines("steps.jsonl")

    return door


def run_files() -> dict[str, bytes]:
    """The files of a small finished run that are read without a model."""
    task = Task.from_records(ROWS, name="rows")
    return {
        CONFIG: make_config().model_dump_json().encode(),
        TASK: json.dumps(task_to_dict(task)).encode(),
        RESULT: b'{"prompt": "p", "setting": {"max_answer_tokens": 3}}',
        "steps.jsonl": b'{"step": 0}\n{"step": 1}\n',
    }


def seeds_of_tables() -> dict[str, list[bytes]]:
    """Whole files by extension."""
    import pyarrow
    import pyarrow.parquet

    header = "text,label,split\n"
    lines = "".join(f'"{r["text"]}",{r["label"]},{r["split"]}\n' for r in ROWS)
    comma = (header + lines).encode()
    tests = "input,__expected\n" + "".join(f'q{i},"contains-any: ""a, b"", c"\n' for i in range(12))
    packed = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), packed)
    as_lines = "\n".join(map(json.dumps, ROWS)).encode()
    return {
        ".csv": [comma, header.encode()],
        ".tsv": [comma.replace(b",", b"\t")],
        ".jsonl": [as_lines],
        ".ndjson": [as_lines.replace(b"\n", b"\r\n")],
        ".json": [json.dumps(ROWS).encode()],
        ".parquet": [packed.getvalue()],
        "promptfoo.csv": [tests.encode(), tests.replace("contains-any", "llm-rubric").encode()],
    }


TOML: Final = b"""steps = 30
seed = 3
[agent]
temperature = 0.9
model = "smollm2-135m"
[anchor]
update_period = 3
[target.api]
base_url = "http://localhost:8000/v1"
"""
YAML: Final = b"""steps: 30
agent: {temperature: 0.9, model: smollm2-135m}
anchor:
  update_period: 3
target: {api: {base_url: "http://localhost:8000/v1"}}
"""
PLAN_TOML: Final = b"""tasks = ["support"]
methods = ["appo", "best-of-n"]
seeds = [0, 1]
budget = 1200
limit = {test = 20}
[settings]
steps = 5
"""
PLAN_YAML: Final = b"tasks: [support]\nmethods: [appo]\nseeds: [0]\nbudget: 10\nlimit: {test: 3}\n"


def doors() -> dict[str, tuple[Door, list[bytes]]]:
    """Every door that needs no model, with whole files for it."""
    tables = seeds_of_tables()
    found: dict[str, tuple[Door, list[bytes]]] = {
        f"task, {name.removeprefix('promptfoo') if name[0] == '.' else 'promptfoo .csv'}": (
            table("." + name.rpartition(".")[2]),
            seeds,
        )
        for name, seeds in tables.items()
    }
    found["settings, .toml"] = settings_file(".toml"), [TOML]
    found["settings, .yaml"] = settings_file(".yaml"), [YAML]
    found["plan, .toml"] = plan_file(".toml"), [PLAN_TOML]
    found["plan, .yaml"] = plan_file(".yaml"), [PLAN_YAML]
    found["--set"] = assignment, [b"ppo.learning_rate=1e-4", b"target.separator=x", b"steps=3"]
    found["prompt and template"] = template, [b"Is {premise} so? {{ text }} {text}", b"Say yes."]
    whole = run_files()
    for name in whole:
        found[f"run folder, {name}"] = run_file(name, whole), [whole[name]]
    return found


def throw(door: Door, seeds: list[bytes], cases: int, seed: int, scratch: Path) -> Counts:
    """Put damaged files to a door, and count what it says.

    Args:
        door: The way in.
        seeds: Whole files.
        cases: How many damaged ones are tried.
        seed: Decides the damage.
        scratch: A folder that is emptied for each of them.
    """
    from time import perf_counter

    rng, counts = random.Random(seed), Counts()
    for _ in range(cases):
        content = damaged(seeds, rng)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        started = perf_counter()
        try:
            door(content, scratch)
            counts.read += 1
        except StablePromptError as error:
            counts.refused += 1
            if not str(error).strip() or "\n" in on_one_line(str(error)):
                raise AssertionError(f"an error without a line: {error!r}") from error
        except Exception as error:  # what is counted here is a bug, and the caller says so
            name = type(error).__name__
            counts.others[name] = counts.others.get(name, 0) + 1
            counts.examples.setdefault(name, content)
        counts.longest_seconds = max(counts.longest_seconds, perf_counter() - started)
    return counts
