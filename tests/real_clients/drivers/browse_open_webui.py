"""A person at Open WebUI in headless Chromium: signs up, picks the model, asks, waits for the answer."""

from __future__ import annotations

import json
import sys
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

WAIT = 240
PERSON = {"name": "Operator", "email": "operator@example.org", "password": "a password of its own"}


class Browser:
    """Chromium, as Debian has it."""

    def __init__(self, program: str, driver: str) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = program
        for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1280,900"):
            options.add_argument(f"--{flag}")
        self.page = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        self.page.set_page_load_timeout(WAIT)

    def find(self, css: str, text: str = "") -> Any:
        """The first element of a selector that is shown and has the text; waits for it."""

        def shown(page: Any) -> Any:
            try:
                found = page.find_elements(By.CSS_SELECTOR, css)
                return next((one for one in found if one.is_displayed() and text in one.text), None)
            except WebDriverException:  # the page was made anew meanwhile
                return None

        return WebDriverWait(self.page, WAIT).until(shown, f"no {css} with {text!r}")

    def click(self, css: str, text: str = "") -> None:
        self.page.execute_script("arguments[0].click()", self.find(css, text))


def main(told: dict[str, str]) -> dict[str, str]:
    """What came of it; a screenshot lies at told["picture"] then, whatever happened."""
    browser = Browser(told["chromium"], told["chromedriver"])
    try:
        browser.page.get(f"{told['url']}/auth")
        browser.click("button", "Get started")
        for field, text in PERSON.items():
            browser.find(f"input#{field}").send_keys(text)
        browser.click("button[type=submit]", "Create Admin Account")
        browser.click("button", "Okay, Let's Go!")
        browser.click("#model-selector-model-button")
        browser.click("[role=option], button[aria-label*=model]", told["model"])
        box = browser.find("#chat-input")
        box.send_keys(told["question"])
        box.send_keys(Keys.ENTER)
        said = browser.find("[id^=response-content], .chat-assistant, #response-content-container", told["answer"])
        return {"said": said.text}
    finally:
        browser.page.save_screenshot(told["picture"])
        browser.page.quit()


print(json.dumps(main(json.loads(sys.argv[1]))))
