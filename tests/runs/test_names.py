"""Names from data stay where they belong, as files, in Markdown and in pictures."""

import re
import xml.dom.minidom
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stableprompt.errors import RunError
from stableprompt.runs.escapes import escaped, named, on_one_line
from stableprompt.runs.folder import RunFolder, default_run_dir
from stableprompt.runs.names import folder_name, require_no_links

NAMES = (
    "../../x", "..", ".", "", "/etc/passwd", "a/b", "a\\b", "C:\\x", "nul", "CON.txt", "com1",
    "x\x00y", "x" * 5000, "é" * 500, "\u202e", "-rf", "~root", "a\nb", "\ud83d", "name. ", "*?",
)  # fmt: skip


@given(st.sampled_from(NAMES) | st.text(st.characters()))
@settings(max_examples=300, deadline=None)
def test_any_text_names_one_folder_in_its_place(text: str) -> None:
    for name in (folder_name(text), default_run_dir(text).name):
        assert re.fullmatch(r"[\w=][\w.=-]*", name)
        assert not name.endswith(".")
        assert len(name.encode("utf-8")) < 110
        assert not re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name)
    assert default_run_dir(text).parent == Path("runs")


def test_different_long_names_stay_different_and_ordinary_ones_as_they_are() -> None:
    assert folder_name("x" * 500) != folder_name("x" * 501)
    assert folder_name("appo:ppo.replay=0") == "appo_ppo.replay=0"
    assert folder_name("ii/antonyms") == "ii_antonyms"


@pytest.mark.parametrize("place", ["steps.jsonl", "checkpoints/step-000001", ".result.json.part"])
def test_a_run_folder_with_a_link_is_refused_and_what_it_leads_to_stays(
    tmp_path: Path, place: str
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("years of work", encoding="utf-8")
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("config.json", "task.json"):
        (run / name).write_text("{}", encoding="utf-8")
    RunFolder.open(run)
    (run / place).symlink_to(precious)
    with pytest.raises(RunError, match="is a link"):
        RunFolder.open(run)
    assert precious.read_text(encoding="utf-8") == "years of work"


def test_the_run_folder_itself_may_be_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    require_no_links(tmp_path / "link")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "a/" * 3000])
def test_a_run_folder_that_cannot_be_is_an_error_of_ours(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError):
        RunFolder.create(tmp_path / name)
    with pytest.raises(RunError):
        RunFolder.open(tmp_path / name)


MARKS = (
    "|",
    "<script>",
    "</td>",
    "`",
    "\n",
    "# ",
    "*",
    "[x](javascript:y)",
    "\x1b",
    "\u202e",
    "&",
    "$",
)


@given(st.lists(st.sampled_from(MARKS) | st.text(max_size=4), max_size=8).map("".join))
@settings(max_examples=200, deadline=None)
def test_no_text_breaks_out_of_a_cell(text: str) -> None:
    for shown in (escaped(text), named(text)):
        assert "\n" not in shown and "<" not in shown and ">" not in shown
        assert shown.isprintable()
        bare = re.sub(r"\\.", "", shown)  # without what is escaped
        assert not set(bare) & set("|`*[]#$")
    assert escaped("plain text 1.5, ok") == "plain text 1.5, ok"
    assert on_one_line("abcdef", 4) == "abc…"


@pytest.mark.parametrize(
    "name",
    ["--><script>x</script>", "a\x00\x1b[31m", "<svg onload=x>&", "\ud83d", "x" * 5000, "]]>"],
)  # fmt: skip
def test_pictures_hold_hostile_names_as_letters(name: str) -> None:
    pytest.importorskip("matplotlib")
    from stableprompt.studies.plots import bars_svg, curves_svg

    for svg in (
        bars_svg("title", [(name, 0.5, 0.4, 0.6)], "x"),
        curves_svg("title", {name: [(0, 1.0)]}, "x", "y"),
    ):
        parsed = xml.dom.minidom.parseString(svg.encode("utf-8"))
        assert not parsed.getElementsByTagName("script")
        assert not [e for e in parsed.getElementsByTagName("*") if e.hasAttribute("onload")]
