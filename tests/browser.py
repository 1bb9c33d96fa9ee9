"""Headless Chromium, as Debian has it, for drivers that run in the environment `browser` (scripts/own-environment)."""

from __future__ import annotations

from typing import Any

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait


class Browser:
    """One window; what is looked for is waited for, `wait` seconds at most."""

    def __init__(self, program: str, driver: str, wait: float) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = program
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1280,900"):
            options.add_argument(f"--{flag}")
        self.wait = wait
        self.page = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        self.page.set_page_load_timeout(wait)

    def find(self, css: str, text: str = "") -> Any:
        """The first element of a selector that is shown and has the text; waits for it."""

        def shown(page: Any) -> Any:
            try:
                found = page.find_elements(By.CSS_SELECTOR, css)
                return next((one for one in found if one.is_displayed() and text in one.text), None)
            except WebDriverException:  # the page was made anew meanwhile
                return None

        return WebDriverWait(self.page, self.wait).until(shown, f"no {css} with {text!r}")

    def click(self, css: str, text: str = "") -> None:
        self.page.execute_script("arguments[0].click()", self.find(css, text))

    def size(self, width: int, height: int, mobile: bool = False) -> None:
        """The window's inside, also narrower than a window can be."""
        told = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", told)

    def colours(self, scheme: str) -> None:
        """What the person prefers: light or dark."""
        told = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.page.execute_cdp_cmd("Emulation.setEmulatedMedia", told)

    def complaints(self) -> list[str]:
        """What the browser itself said of pages since it was asked last: errors, refusals by the content policy."""
        return [one["message"] for one in self.page.get_log("browser") if one["level"] in ("SEVERE", "WARNING")]
