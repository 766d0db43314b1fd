"""The HTML page as a browser shows it: Chromium without a window, driven by its driver, without a network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amct_pytorch.report import save_report

from . import sample_reports as sample

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (extra test)")

_CHROMIUM, _DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (_CHROMIUM and _DRIVER), reason="chromium or its chromedriver is not on the PATH")

# Nothing but the page itself: none of the requests that a browser makes on its own account.
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
_NAMES = ("layer1.conv1", "layer2.conv2", "<b>layer10</b>")


def started(profile: Path, *, scripts: bool = True) -> Any:
    """A browser with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = _CHROMIUM
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    if not scripts:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    return webdriver.Chrome(options, webdriver.ChromeService(_DRIVER))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the page in both languages."""
    place = tmp_path_factory.mktemp("pages")
    reports = sample.every_kind(*_NAMES)
    save_report(place / "en.html", reports)
    save_report(place / "zh.html", reports, language="zh")
    return place


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    driver = started(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


def shown(browser: Any, page: Path, *, width: int = 1280, scheme: str = "light") -> Any:
    """The browser with a page in a window of this width, in CSS pixels."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
    browser.get(page.as_uri())
    return browser


def column(browser: Any, table: int, number: int) -> list[str]:
    script = """
    const [table, column] = arguments;
    return [...document.querySelectorAll('table')[table].tBodies[0].rows].map(row => row.cells[column].textContent);
    """
    found: list[str] = browser.execute_script(script, table, number)
    return found


def press(browser: Any, table: int, number: int) -> str:
    """Press the heading of a column, and return how the table is now sorted by it."""
    script = """
    const heading = document.querySelectorAll('table')[arguments[0]].tHead.rows[0].cells[arguments[1]];
    heading.querySelector('button').click();
    return heading.getAttribute('aria-sort');
    """
    return str(browser.execute_script(script, table, number))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_asks_for_nothing_and_has_no_error(browser: Any, folder: Path, language: str) -> None:
    browser.get("about:blank")
    browser.get_log("performance")
    page = folder / f"{language}.html"
    shown(browser, page)
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert [url for url in sent if not url.startswith("data:")] == [page.as_uri()]
    assert browser.get_log("browser") == []


def test_all_pictures_are_drawn(browser: Any, folder: Path) -> None:
    script = """
    return [...document.querySelectorAll('svg')].map(svg => {
      const lines = [...svg.querySelectorAll('.line')].map(line => line.getBBox());
      return [svg.getBoundingClientRect().width, svg.getBBox().height, ...lines.map(box => box.width + box.height)];
    });
    """
    pictures = shown(browser, folder / "en.html").execute_script(script)
    assert len(pictures) == 1 + len(_NAMES)
    assert all(size > 20 for picture in pictures[1:] for size in picture)
    assert pictures[0][0] > 400


def test_a_click_on_a_heading_sorts_the_table_by_its_numbers(browser: Any, folder: Path) -> None:
    shown(browser, folder / "en.html")
    scores = column(browser, 0, 2)
    assert scores == ["99.75", "97.125", "99.5"]
    assert press(browser, 0, 2) == "ascending"
    assert column(browser, 0, 2) == ["97.125", "99.5", "99.75"]
    assert press(browser, 0, 2) == "descending"
    assert column(browser, 0, 2) == ["99.75", "99.5", "97.125"]
    # Layers are sorted as people count, and what has no number stays below.
    press(browser, 1, 0)
    assert column(browser, 1, 0) == ["<b>layer10</b>", "head", "layer1.conv1", "layer2.conv2", "stem"]
    for _ in range(2):
        press(browser, 1, 8)
        assert column(browser, 1, 8) == ["0.312"] * 3 + [""] * 2


@pytest.mark.parametrize("language", ["en", "zh"])
def test_without_javascript_the_text_is_the_same(browser: Any, folder: Path, tmp_path: Path, language: str) -> None:
    page = folder / f"{language}.html"
    text = "return [document.body.innerText, document.querySelectorAll('button').length]"
    with_scripts, buttons = shown(browser, page).execute_script(text)
    plain = started(tmp_path, scripts=False)
    try:
        without, no_buttons = shown(plain, page).execute_script(text)
    finally:
        plain.quit()
    assert buttons > 20
    assert no_buttons == 0
    assert without == with_scripts


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("width", [400, 1280])
def test_only_tables_scroll_sideways(browser: Any, folder: Path, language: str, width: int) -> None:
    script = """
    const wide = [...document.body.querySelectorAll('*')].filter(one =>
      !one.closest('.scroll') && one.getBoundingClientRect().right > innerWidth + 1);
    return [document.documentElement.scrollWidth - innerWidth, wide.map(one => one.outerHTML.slice(0, 80))];
    """
    excess, wide = shown(browser, folder / f"{language}.html", width=width).execute_script(script)
    assert wide == []
    assert excess <= 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser: Any, folder: Path, scheme: str) -> None:
    """By the contrast ratio of WCAG 2, of which 4.5 is asked for text of this size."""
    script = """
    const channels = colour => colour.match(/[\\d.]+/g).map(Number);
    const light = colour => {
      const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
      const [r, g, b] = channels(colour).map(v => linear(v / 255));
      return .2126 * r + .7152 * g + .0722 * b;
    };
    const ground = one => {
      for (; one; one = one.parentElement) {
        const colour = getComputedStyle(one).backgroundColor;
        if (channels(colour)[3] !== 0) return colour;
      }
    };
    return [...document.body.querySelectorAll(':not(script)')].filter(one =>
      [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim())).map(one => {
      const style = getComputedStyle(one);
      const pair = [light(one.closest('svg') ? style.fill : style.color), light(ground(one))].sort((a, b) => b - a);
      return (pair[0] + .05) / (pair[1] + .05);
    });
    """
    ratios = shown(browser, folder / "en.html", scheme=scheme).execute_script(script)
    assert len(ratios) > 100
    assert min(ratios) >= 4.5
