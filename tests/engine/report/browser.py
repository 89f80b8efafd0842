"""A browser without a window, and what a test does with an open page. Importing it skips a module without selenium."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1280,900"),
)


@contextmanager
def open_chromium(profile: Path) -> Iterator[Any]:
    """Skips the test where there is none; `profile`: an empty folder."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("there is no chromium with its chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    os.environ |= {"SE_OFFLINE": "true", "SE_AVOID_STATS": "true"}  # selenium looks for no driver elsewhere
    chromium = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    chromium.set_script_timeout(10)
    yield chromium
    chromium.quit()


class Page:
    """An open page. `state()` waits until what was asked for is drawn."""

    def __init__(self, chromium: Any) -> None:
        self.chromium = chromium

    def js(self, code: str, *arguments: Any) -> Any:
        return self.chromium.execute_script(code, *arguments)

    def find(self, selector: str) -> Any:
        return self.chromium.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[Any]:
        return self.chromium.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def wait(self, condition: str) -> None:
        WebDriverWait(self.chromium, 5, poll_frequency=0.02).until(lambda _: self.js(f"return {condition}"), condition)

    def settle(self) -> None:
        """Two frames: changes are drawn in the next one."""
        self.chromium.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")

    def score(self, value: float) -> None:
        code = "const s = document.getElementById('score'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))"
        self.js(code, value)
        self.settle()

    def choose(self, identifier: str, text: str) -> None:
        Select(self.find(f"#{identifier}")).select_by_visible_text(text)
        self.settle()

    def width(self, pixels: int) -> None:
        metrics = {"width": pixels, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def drawn(page: Page, selector: str) -> str:
    """A canvas's pixels, once it has been drawn."""
    page.js("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", selector)
    page.wait(f"document.querySelector({selector!r}).dataset.drawn !== undefined")
    page.settle()
    pixels: str = page.js(f"return document.querySelector({selector!r}).toDataURL()")
    return pixels
