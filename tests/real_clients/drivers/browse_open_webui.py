"""A person at Open WebUI in headless Chromium: signs up, picks the model, asks, waits for the answer."""

from __future__ import annotations

import json
import sys

from selenium.webdriver.common.keys import Keys

from tests.browser import Browser

WAIT = 240
PERSON = {"name": "Operator", "email": "operator@example.org", "password": "a password of its own"}


def main(told: dict[str, str]) -> dict[str, str]:
    """What came of it; a screenshot lies at told["picture"] then, whatever happened."""
    browser = Browser(told["chromium"], told["chromedriver"], WAIT)
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
