"""The page holds what was found, nothing gets out of its place, nothing is fetched."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from stableprompt.config import make_config
from stableprompt.models.targets.providers import FUNCTION_PREFIX
from stableprompt.reporting.page import page
from stableprompt.reporting.reading import Run, read_run
from stableprompt.reporting.settings import command_of, settings_of, shareable
from tests.reporting import folders

NASTY = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"><svg onload=alert(1)>'",
    "<!-- --!> ]]> {{ 7 * 7 }} {% raw %}",
    "javascript:alert(1) &lt;b&gt;",
    "safe\u202egnp.exe \u2028 \x1b[31m \x00 \U000e0041",
)
EVIL = " ".join(NASTY)


class Parsed(HTMLParser):
    """Elements and attributes of a page, and what stands in its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self._open = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag
        if tag in self.inside:
            self.inside[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in self.inside:
            self.inside[self._open][-1] += data


def hostile(folder: Path) -> Path:
    """A run whose every text is an attack."""
    prompts = {"prompt": EVIL, "instruction": EVIL, "seed_prompt": f"seed {EVIL}"}
    task = folders.task() | {"name": EVIL, "seed_prompt": f"seed {EVIL}", "notes": [EVIL]}
    labels = {label: f"{label}{EVIL}" for label in folders.LABELS}
    task["label_words"] = {name: name for name in labels.values()}
    for part in ("train", "validation", "test"):
        task[part] = [{"text": EVIL, "label": labels[e["label"]]} for e in task[part]]
    seed, best = (
        folders.answers(prompt, right) | {"predictions": [EVIL] * 12}
        for prompt, right in (
            (f"seed {EVIL}", folders.SEED_RIGHT),
            (EVIL, folders.BEST_RIGHT),
        )
    )
    steps = [folders.step(n, best_prompt=EVIL) for n in range(3)]
    steps[1]["anchor"] = folders.decision(EVIL)
    steps[2]["monitor"]["alarms"] = [EVIL]
    messages = [{"role": EVIL, "content": EVIL}]
    return folders.finished(
        folder,
        config={"method": EVIL, "steps": 3, EVIL: EVIL, "agent": {"model": EVIL}},
        task=task,
        steps=steps,
        prompts=[folders.written(n, f"{n} {text}", fault=EVIL) for n, text in enumerate(NASTY)],
        writes=[{"input": EVIL, "prompt": EVIL, "fault": EVIL, "value": 1.0}],
        test={"prompts": [seed, best]},
        result=folders.result(**prompts, messages=messages, setting={EVIL: [EVIL], "agent": EVIL}),
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return read_run(folders.finished(tmp_path / "run"))


def test_the_verdict_stands_there_with_scores_intervals_and_n(run: Run) -> None:
    html = page([run])
    assert "not proven: better on test, but by no more than chance could give" in html
    for part in ("0.750", "[0.550, 0.950]", "n&nbsp;=&nbsp;12", "+0.250", "1 min 15 s", "0.340"):
        assert part in html
    assert "<ins>" in html and "<del>" in html


def test_equal_folders_give_equal_pages(run: Run) -> None:
    assert page([run]) == page([run])


def test_no_text_becomes_an_element(tmp_path: Path) -> None:
    evil, plain = (
        Parsed(page([read_run(make(tmp_path / name))]))
        for name, make in (("evil", hostile), ("plain", folders.finished))
    )
    assert {tag for tag, _ in evil.elements} <= {tag for tag, _ in plain.elements} | {
        "span", "div", "ul", "li",
    }  # fmt: skip
    tags = [tag for tag, _ in evil.elements]
    assert [tags.count(tag) for tag in ("script", "style", "img", "iframe")] == [5, 2, 0, 0]
    assert not any(name.startswith("on") for _, found in evil.elements for name in found)
    assert not any("style" in found for _, found in evil.elements)  # the policy would refuse it


def test_hidden_characters_are_nowhere_raw(tmp_path: Path) -> None:
    html = page([read_run(hostile(tmp_path))])
    assert (
        re.search(
            "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\U000e0000-\U000e007f]", html
        )
        is None
    )
    assert "⟨U+202E⟩" in html


def test_the_data_of_the_scripts_is_whole(tmp_path: Path) -> None:
    data = json.loads(Parsed(page([read_run(hostile(tmp_path))])).inside["script"][0])
    assert data["runs"][0]["copy"]["best"] == EVIL  # to be copied exactly
    assert len(data["runs"][0]["tables"]["candidates"]["rows"]) == len(NASTY) + 2


@pytest.mark.parametrize("live", [False, True])
def test_the_policy_allows_the_pages_own_scripts_and_nothing_else(run: Run, live: bool) -> None:
    found = Parsed(page([run], live=live))
    [policy] = [a["content"] for t, a in found.elements if a.get("http-equiv")]
    assert policy is not None
    rules = {rule.split()[0]: set(rule.split()[1:]) for rule in policy.split("; ")}
    assert rules["default-src"] == {"'none'"}
    for tag, texts in (("script", found.inside["script"][1:]), ("style", found.inside["style"])):
        digests = [hashlib.sha256(text.encode()).digest() for text in texts]
        allowed = {f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests}
        assert rules[f"{tag}-src"] == allowed
    assert ("connect-src" in rules) == live
    assert "unsafe" not in policy


def test_nothing_is_fetched_from_anywhere(run: Run) -> None:
    found = Parsed(page([run]))
    addresses = [a.get(name) for _, a in found.elements for name in ("src", "href", "action")]
    assert {a for a in addresses if a} == {"data:,", "#main"}
    assert not any("url(" in style or "@import" in style for style in found.inside["style"])


def test_runs_stand_side_by_side(tmp_path: Path) -> None:
    first = read_run(folders.finished(tmp_path / "first"))
    best = folders.answers("Other", [True] * 12)
    test = {"prompts": [folders.answers(folders.SEED_PROMPT, folders.SEED_RIGHT), best]}
    other = folders.result(prompt="Other", instruction="Other")
    second = read_run(folders.finished(tmp_path / "second", test=test, result=other))
    third = read_run(folders.unfinished(tmp_path / "third"))
    html = page([first, second, third])
    assert '<h1 id="runs">3 runs</h1>' in html
    assert "6 steps done, unfinished" in html
    # Nine right against twelve: three more, and none fewer.
    assert (
        '+0.250 <span class="interval">[+0.000, +0.500]</span> p&nbsp;=\N{NO-BREAK SPACE}0.25'
        in html
    )
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_scores_of_runs_side_by_side_say_of_what(tmp_path: Path) -> None:
    runs = [
        read_run(folders.finished(tmp_path / metric, task=folders.task() | {"metric": metric}))
        for metric in ("accuracy", "macro_f1")
    ]
    table = page(runs).split("<main")[1].split("</table>")[0]
    assert '<span class="quiet">accuracy</span>' in table
    assert '<span class="quiet">macro f1</span>' in table


def test_settings_that_differ_are_told_apart_and_folders_are_not_shown(tmp_path: Path) -> None:
    config = make_config({"steps": 7, "agent": {"model": "/home/jane/models/mine"}})
    run = read_run(folders.finished(tmp_path / "r", config=config.model_dump(mode="json")))
    changed = {s.name: (s.value, s.default) for s in settings_of(run) if s.differs}
    assert changed["steps"] == ("7", str(make_config({}).steps))
    assert changed["agent.model"][0] == "mine"
    assert set(changed) == {"steps", "agent.model"}
    assert "jane" not in page([run])
    assert shareable("https://user:secret@host/v1") == "https://host/v1"


def test_the_command_takes_examples_and_settings_from_the_run_folder(tmp_path: Path) -> None:
    run = read_run(folders.finished(tmp_path / "a run"))
    command = "stableprompt tune 'a run/task.json' --config 'a run/config.json'"
    assert command_of(run) == command
    assert "MODULE" not in page([run])


def test_the_command_names_functions_of_the_users_own(tmp_path: Path) -> None:
    task = folders.task() | {"metric": "near"}
    target = {"model": f"{FUNCTION_PREFIX}mine:answer"}
    config = make_config({"target": target}).model_dump(mode="json")
    run = read_run(folders.finished(tmp_path / "r", task=task, config=config))
    own = "--metric MODULE:near --target mine:answer"
    assert str(command_of(run)).endswith(f"r/config.json {own}")
    assert "with the module of your function for <code>MODULE</code>" in page([run])
