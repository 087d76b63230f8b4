"""The page in a real browser: skipped where chromium, chromedriver or selenium is missing."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stableprompt.reporting.live import LiveServer
from stableprompt.reporting.writing import write_report
from tests.reporting import folders
from tests.reporting.test_page import hostile

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER),
    reason="no chromium and chromedriver on this machine (Debian: chromium, chromium-driver)",
)

# Chromium speaks to its maker at every start unless it is told not to.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
OPENS_WITHIN_SECONDS = 2.0
PATIENCE_SECONDS = 20.0

Open = Callable[[str], Any]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # The driver is named: selenium must not go and look for one.
    service = webdriver.ChromeService(executable_path=CHROMEDRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture
def open_page(driver: Any) -> Iterator[Open]:
    """Opens a page; afterwards nothing may have been asked of anyone, or complained about."""
    opened: list[str] = []
    screen(driver, 1280)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    for kind in ("browser", "performance"):
        driver.get_log(kind)  # what is there is of the test before

    def open_page(address: str) -> Any:
        opened.append(address)
        driver.get(address)
        wait(driver, "return document.documentElement.dataset.ready === 'yes'")
        return driver

    yield open_page
    assert driver.get_log("browser") == []
    asked = {url for url in requests(driver) if not url.startswith("data:")}
    assert asked <= {address.split("#")[0] for address in opened}
    driver.get("about:blank")


def requests(driver: Any) -> Iterator[str]:
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            yield message["params"]["request"]["url"].split("#")[0]


def screen(driver: Any, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def wait(driver: Any, script: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not driver.execute_script(script):
        assert time.monotonic() < end, f"never true: {script}"
        time.sleep(0.05)


def report(folder: Path) -> str:
    write_report([folder], folder / "report.html")
    return (folder / "report.html").as_uri()


def column(driver: Any, number: int, table: str = "candidates") -> list[str]:
    """What stands in a column of a table, from above."""
    cells = f"[data-table={table}] tbody td:nth-child({number})"
    script = "return [...document.querySelectorAll(arguments[0])].map((cell) => cell.innerText)"
    return list(driver.execute_script(script, cells))


def click(driver: Any, selector: str, text: str) -> None:
    script = """
        [...document.querySelectorAll(arguments[0])]
            .find((one) => one.innerText.startsWith(arguments[1])).click()
    """
    driver.execute_script(script, selector, text)


def press(driver: Any, *keys: str) -> None:
    action = webdriver.ActionChains(driver)
    for key in keys:
        action = action.send_keys(key)
    action.perform()


def background(driver: Any) -> str:
    return str(driver.execute_script("return getComputedStyle(document.body).backgroundColor"))


def test_charts_draw_and_can_be_read_by_key(open_page: Open, tmp_path: Path) -> None:
    driver = open_page(report(folders.finished(tmp_path)))
    # Of each chart, how many pixels have ink.
    inked = driver.execute_script(
        """return [...document.querySelectorAll(".chart canvas")].map((canvas) =>
             canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data
               .filter((value, at) => at % 4 === 3 && value > 0).length)"""
    )
    assert len(inked) >= 6
    assert min(inked) > 500
    driver.execute_script("document.querySelector('.plot').focus()")
    right, end = webdriver.Keys.ARROW_RIGHT, webdriver.Keys.END
    press(driver, right, right, right)
    spoken = "return document.querySelector('.chart [aria-live]').textContent"
    assert driver.execute_script(spoken).startswith("120 calls · anchor follows the policy, mean")
    click(driver, ".charts .segments button", "Over steps")
    driver.execute_script("document.querySelector('.plot').focus()")
    press(driver, end)
    assert driver.execute_script(spoken).startswith("step 6 · drift, mean")


def test_a_line_can_be_hidden(open_page: Open, tmp_path: Path) -> None:
    driver = open_page(report(folders.finished(tmp_path)))
    click(driver, ".chart .keys button", "mean")
    shown = "return document.querySelector('.keys button').getAttribute('aria-pressed')"
    assert driver.execute_script(shown) == "false"


def test_tables_sort_filter_and_search_by_keyboard_alone(open_page: Open, tmp_path: Path) -> None:
    driver = open_page(report(folders.with_many_prompts(tmp_path, 300)))
    gains = [float(text.replace("\N{MINUS SIGN}", "-")) for text in column(driver, 6)]
    assert gains == sorted(gains, reverse=True)
    assert len(gains) == 25
    driver.execute_script("document.querySelector('[data-table=candidates] th button').focus()")
    press(driver, webdriver.Keys.TAB, webdriver.Keys.TAB, webdriver.Keys.ENTER)  # "Step"
    assert column(driver, 3) == ["6"] * 25
    press(driver, webdriver.Keys.ENTER)
    assert column(driver, 3) == ["1"] * 25
    sorted_by = "return document.querySelector('[data-table=candidates] th[aria-sort=ascending]')"
    assert driver.execute_script(f"{sorted_by}.innerText").startswith("Step")
    click(driver, "[data-table=candidates] .pager button", "Next")
    where = "document.querySelector('[data-table=candidates] .pager span').innerText"
    wait(driver, f"return {where}.startsWith('26')")
    driver.execute_script("document.querySelector('[data-table=candidates] input').focus()")
    lines = (tmp_path / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    wanted = json.loads(lines[137])["prompt"]
    press(driver, " ".join(wanted.split()[-2:]).upper())
    assert column(driver, 1) == [wanted]
    press(driver, "nobody")
    assert column(driver, 1) == ["Nothing like that."]


def test_examples_can_be_told_apart(open_page: Open, tmp_path: Path) -> None:
    driver = open_page(report(folders.finished(tmp_path)))
    click(driver, "[data-table=examples] .segments button", "broke 1")
    assert column(driver, 2, "examples") == ["message 4"]


def test_it_is_dark_where_the_reader_is(open_page: Open, driver: Any, tmp_path: Path) -> None:
    open_page(report(folders.finished(tmp_path)))
    light = background(driver)
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    assert background(driver) != light
    click(driver, "#theme", "Light")
    assert background(driver) == light


@pytest.mark.parametrize("make", [folders.finished, folders.unfinished, hostile])
def test_a_phone_scrolls_one_way_only(
    open_page: Open, driver: Any, tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    screen(driver, 360)
    open_page(report(make(tmp_path)))
    driver.execute_script("document.querySelectorAll('details').forEach((one) => one.open = true)")
    assert driver.execute_script("return document.documentElement.scrollWidth") == 360


def test_hostile_text_runs_nothing_and_is_shown_as_it_is(open_page: Open, tmp_path: Path) -> None:
    driver = open_page(report(hostile(tmp_path)))  # an alert would make every call here fail
    counted = "return document.querySelectorAll('img, iframe, svg[onload], [onerror]').length"
    assert driver.execute_script(counted) == 0
    assert any("<img src=x onerror=alert(1)>" in text for text in column(driver, 1))
    hidden = "return document.querySelector('.prompt .hidden-char').innerText"
    assert driver.execute_script(hidden) == "⟨U+202E⟩"


def test_runs_open_from_the_table(open_page: Open, tmp_path: Path) -> None:
    runs = [folders.finished(tmp_path / name) for name in ("a", "b")]
    write_report(runs, tmp_path / "both.html")
    driver = open_page((tmp_path / "both.html").as_uri())
    drawn = "return document.querySelectorAll('#run-1 canvas').length"
    assert driver.execute_script(drawn) == 0
    click(driver, "a[href='#run-1']", "2")
    wait(driver, f"{drawn} > 5")


def test_ten_thousand_prompts_open_at_once(open_page: Open, tmp_path: Path) -> None:
    address = report(folders.with_many_prompts(tmp_path, 10_000))
    seconds = []
    for _ in range(3):  # other work on the machine only ever adds time
        started = time.perf_counter()
        driver = open_page(address)
        seconds.append(time.perf_counter() - started)
    assert len(column(driver, 1)) == 25
    assert min(seconds) < OPENS_WITHIN_SECONDS, seconds


def test_a_live_page_shows_what_is_new_and_keeps_what_the_reader_did(
    open_page: Open, tmp_path: Path
) -> None:
    folder = folders.unfinished(tmp_path)
    with LiveServer([folder]) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            driver = open_page(server.address)
            wait(driver, "return document.getElementById('live').innerText === 'live'")
            driver.execute_script("document.querySelector('[data-table=candidates] input').focus()")
            press(driver, "team")
            for name, line in (
                ("steps", folders.step(6)),
                ("prompts", folders.written(6, "Is it the team?")),
            ):
                with (folder / f"{name}.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
            headline = "document.querySelector('.headline').innerText"
            wait(driver, f"return {headline}.toLowerCase().startsWith('unfinished: 7 of')")
            wait(driver, "return document.body.innerText.includes('Is it the team?')")
            assert all("team" in text for text in column(driver, 1))
            assert driver.execute_script("return document.activeElement.value") == "team"
            folders.finished(tmp_path)
            wait(driver, "return document.getElementById('live').innerText === 'finished'")
            assert driver.execute_script("return document.querySelectorAll('.bars').length") == 1
        finally:
            server.shutdown()
            thread.join()
        driver.get("about:blank")


def test_a_column_that_comes_later_takes_no_sorting_over(open_page: Open, tmp_path: Path) -> None:
    folder = folders.unfinished(tmp_path, steps=[folders.step(n) for n in range(3)])
    table = "document.querySelector('[data-table=steps] th:not([aria-sort=none])').innerText"
    with LiveServer([folder]) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            driver = open_page(server.address)
            driver.execute_script("document.querySelectorAll('details').forEach((d) => d.open = 1)")
            click(driver, "[data-table=steps] th button", "Seconds")
            with (folder / "steps.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(folders.step(3, anchor=folders.decision("keep"))) + "\n")
            headers = "[...document.querySelectorAll('[data-table=steps] th')]"
            wait(driver, f"return {headers}.some((one) => one.innerText.startsWith('Anchor'))")
            assert driver.execute_script(f"return {table}").startswith("Seconds")
        finally:
            server.shutdown()
            thread.join()
        driver.get("about:blank")
