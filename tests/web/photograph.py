"""Pages in headless Chromium: a picture of each, when it was painted first, and how many bytes it is."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

from selenium.webdriver.common.keys import Keys

from tests.browser import Browser

WAIT = 60
PAINTED = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
BYTES = """return performance.getEntriesByType('navigation').concat(performance.getEntriesByType('resource'))
    .filter(one => !one.name.endsWith('/live')).reduce((sum, one) => sum + one.transferSize, 0)"""


def photograph(browser: Browser, told: dict[str, Any], shot: dict[str, Any]) -> dict[str, float]:
    """{"painted": milliseconds, "bytes": …} of one page, whose picture lies at shot["picture"] where that is named."""
    browser.page.execute_cdp_cmd("Network.clearBrowserCache", {})
    browser.size(shot["width"], shot["height"], shot["width"] < 600)
    browser.colours(shot["scheme"])
    browser.page.get(told["url"] + shot["path"])
    browser.find("#live", "live")
    browser.page.implicitly_wait(1)
    found = {"painted": browser.page.execute_script(PAINTED), "bytes": browser.page.execute_script(BYTES)}
    if shot.get("picture"):
        taken = browser.page.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        Path(shot["picture"]).write_bytes(base64.b64decode(taken["data"]))
    return found


def main(told: dict[str, Any]) -> list[dict[str, float]]:
    browser = Browser(told["chromium"], told["chromedriver"], WAIT)
    try:
        if told.get("key"):
            browser.page.get(f"{told['url']}/sign-in")
            browser.find("#key").send_keys(told["key"] + Keys.ENTER)
            browser.find("button", "Sign out")
        browser.page.execute_cdp_cmd("Network.enable", {})
        return [photograph(browser, told, shot) for shot in told["shots"]]
    finally:
        browser.page.quit()


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
