"""A person at the status page in headless Chromium: looks at every page at three widths, signs in, swaps, asks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from selenium.webdriver.common.keys import Keys

from tests.browser import Browser

WAIT = 60
LOOKS = (
    (360, 740, "light", ("/", "{slot}", "{gateway}", "/history", "/sign-in")),
    (768, 1024, "dark", ("/", "{slot}", "/history", "/sign-in")),
    (1280, 900, "light", ("/", "{slot}", "{gateway}")),
)
AXE = "const done = arguments[0]; axe.run({resultTypes: ['violations']}).then(found => done(found.violations))"
OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
LIVE = "return document.getElementById('live').textContent"


class Person:
    """Looks, and notes what is wrong."""

    def __init__(self, browser: Browser, told: dict[str, Any]) -> None:
        self.browser, self.told = browser, told
        self.axe = Path(told["axe"]).read_text()
        self.slot, self.gateway = (f"/slots/{told['host']}/{told[port]}" for port in ("port", "gateway"))
        self.wrong: list[str] = []
        self.looked = 0

    def go(self, path: str) -> None:
        self.browser.page.get(self.told["url"] + path)

    def look(self, what: str) -> None:
        """At the page as it is now: whether it fits, and what axe-core says."""
        page = self.browser.page
        if page.execute_script(OVERFLOW) > 0:
            self.wrong.append(f"{what}: it is wider than the window")
        page.execute_script(self.axe)
        for found in page.execute_async_script(AXE):
            if found["impact"] in ("serious", "critical"):
                where = [node["html"][:200] for node in found["nodes"][:3]]
                self.wrong.append(f"{what}: {found['id']}: {found['help']}: {where}")
        self.looked += 1

    def look_around(self) -> None:
        for width, height, scheme, paths in LOOKS:
            self.browser.size(width, height)
            self.browser.colours(scheme)
            for path in paths:
                self.go(path.format(slot=self.slot, gateway=self.gateway))
                if path in ("/", "{slot}", "{gateway}"):
                    self.browser.find("#live", "live")
                self.look(f"{path} at {width}, {scheme}")
        self.browser.colours("light")

    def without_scripts(self) -> str:
        page = self.browser.page
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        self.go("/")
        text = self.browser.find("main").text
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
        return str(text)

    def sign_in(self) -> None:
        """By the keyboard alone."""
        self.go("/sign-in")
        field = self.browser.find("#key")
        field.send_keys(self.told["key"])
        field.send_keys(Keys.ENTER)
        self.browser.find("button", "Sign out")

    def swap(self) -> str:
        """Click through a swap, and wait until the page shows by itself how it ended."""
        self.go(self.slot)
        self.browser.find("#live", "live")
        self.browser.find("#model").send_keys(self.told["next"])
        self.browser.find(".verbs button", "Swap").click()
        said = self.browser.find("#act", f"{self.told['next']} is ready").text
        self.browser.find("h1", self.told["next"])
        self.look("the slot, signed in")
        return str(said)

    def ask(self) -> str:
        box = self.browser.find("#question")
        box.send_keys(self.told["question"])
        box.send_keys(Keys.ENTER)
        return str(self.browser.find("#talk .answer", self.told["answer"]).text)

    def log(self) -> int:
        """How many lines of the log came by themselves."""
        self.browser.find("#log li", "swap by")
        return int(self.browser.page.execute_script("return document.querySelectorAll('#log li').length"))

    def switch_theme(self) -> list[str]:
        """What it was before and after the switch, and after the page was loaded anew."""
        read = "return document.documentElement.dataset.theme || 'none'"
        page = self.browser.page
        seen = [page.execute_script(read)]
        self.browser.find("#theme").click()
        seen.append(page.execute_script(read))
        self.go("/")
        return [*seen, page.execute_script(read)]

    def tabs(self) -> list[str]:
        """Where the tabulator leads from the top of the page."""
        self.go("/")
        seen = []
        for _ in range(4):
            self.browser.page.switch_to.active_element.send_keys(Keys.TAB)
            seen.append(self.browser.page.switch_to.active_element.text)
        return seen


def main(told: dict[str, Any]) -> dict[str, Any]:
    """What came of it; a picture of the last page lies at told["picture"], whatever happened."""
    browser = Browser(told["chromium"], told["chromedriver"], WAIT)
    try:
        person = Person(browser, told)
        person.look_around()
        found: dict[str, Any] = {"plain": person.without_scripts(), "tabs": person.tabs()}
        person.sign_in()
        found |= {"swap": person.swap(), "said": person.ask(), "lines": person.log(), "theme": person.switch_theme()}
        return {**found, "wrong": person.wrong, "looked": person.looked, "complaints": browser.complaints()}
    finally:
        browser.page.save_screenshot(told["picture"])
        browser.page.quit()


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
