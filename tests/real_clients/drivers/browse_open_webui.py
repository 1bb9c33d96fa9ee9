"""A person at Open WebUI in headless Chromium: signs up, then in each chat picks a model, asks, waits for the answer.

A chat is {"model", "question", "answer"}, with the path of an "image" to send along or without.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.browser import Browser

WAIT = 240
PERSON = {"name": "Operator", "email": "operator@example.org", "password": "a password of its own"}
FILES = "input[type=file][multiple]:not([webkitdirectory]):not([accept])"


def main(told: dict[str, Any]) -> dict[str, Any]:
    """What came of it; a screenshot lies at told["picture"] then, whatever happened."""
    browser = Browser(told["chromium"], told["chromedriver"], WAIT)
    try:
        browser.page.get(f"{told['url']}/auth")
        browser.click("button", "Get started")
        for field, text in PERSON.items():
            browser.find(f"input#{field}").send_keys(text)
        browser.click("button[type=submit]", "Create Admin Account")
        browser.click("button", "Okay, Let's Go!")
        return {"said": [chat(browser, told["url"], one) for one in told["chats"]]}
    finally:
        browser.page.save_screenshot(told["picture"])
        browser.page.quit()


def chat(browser: Browser, url: str, asked: dict[str, str]) -> str:
    """What the model said."""
    browser.page.get(url)
    browser.click("#model-selector-model-button")
    browser.click("[role=option], button[aria-label*=model]", asked["model"])
    box = browser.find("#chat-input")
    if "image" in asked:
        browser.page.find_element(By.CSS_SELECTOR, FILES).send_keys(asked["image"])
        browser.find("#message-input-container img, form img")  # it is there when it is shown
    box.send_keys(asked["question"])
    box.send_keys(Keys.ENTER)
    said = browser.find("[id^=response-content], .chat-assistant, #response-content-container", asked["answer"])
    return str(said.text)


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
