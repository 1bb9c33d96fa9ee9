"""The process that hands one message to a webhook or to apprise: a task as JSON on stdin, why it failed on stdout.

Its parent ends it at the deadline. Addresses and tokens are read here, and no text of a library, which may hold them,
gets out.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

from llmctl import __version__
from llmctl.domain import build
from llmctl.errors import NotifyFailed
from llmctl.health.target import WEBHOOK, Secret, checked, host_of

TRIES = 3
PAUSE = 0.5
AGAIN = (429, 502, 503, 504)


def main() -> None:
    """Do the task; stdout gets {} or the error."""
    print(json.dumps(perform(json.load(sys.stdin))))


def perform(task: Mapping[str, Any]) -> dict[str, Any]:
    """{} once it was taken, or the error."""
    try:
        (_webhook if task["kind"] == WEBHOOK else _apprise)(task)
    except NotifyFailed as error:
        return error.to_dict()
    except Exception as error:  # its text may hold the address
        hint = "look at its address; one that is right should not do this"
        return NotifyFailed(f"{type(error).__name__} in what sends it", hint=hint).to_dict()
    return {}


def _webhook(task: Mapping[str, Any]) -> None:
    """POST it as JSON; tried again when nobody listened, or who did is busy."""
    url = task["address"] or _secret(task["url"])
    try:
        checked(url, secret=True)
    except ValueError as error:
        raise NotifyFailed(f"{_source(task)} {error}", hint="it must be like https://host/path") from None
    headers = {"User-Agent": f"llmctl/{__version__}"}
    if task["token"]:
        token = _secret(task["token"])
        if not token.isascii() or not token.isprintable():
            source = build(Secret, task["token"])
            raise NotifyFailed(f"{source} is no token: it has characters that none has", hint="write it anew")
        headers["Authorization"] = f"Bearer {token}"
    for left in reversed(range(TRIES)):
        why, busy = _post(url, task["message"], headers, task["timeout"])
        if not why:
            return
        if not busy or not left:
            raise NotifyFailed(f"{host_of(url)} {why}", hint=_hint(why))
        time.sleep(PAUSE * (TRIES - left))


def _post(url: str, message: Any, headers: Mapping[str, str], timeout: float) -> tuple[str, bool]:
    """Why it was not taken ("" when it was), and whether another try may help. Redirects are not followed: the
    message, and the token, are for this address alone."""
    import httpx

    try:
        with (
            httpx.Client(timeout=timeout, follow_redirects=False) as client,
            client.stream("POST", url, json=message, headers=headers) as response,
        ):
            status = response.status_code
            if response.is_success:
                return "", False
            if response.has_redirect_location:
                return f"redirects to {host_of(str(response.url.join(response.headers['location'])))}", False
            return f"answers {status}", status in AGAIN
    except httpx.ConnectError as error:
        return f"is not reached: {error}", True
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"does not answer as it should ({type(error).__name__})", False


def _hint(why: str) -> str:
    if why.startswith("redirects"):
        return "give the address that it redirects to"
    if re.search(r"40[134]", why):
        return "look whether the address and the token are right"
    return "the next run tries it again"


def _apprise(task: Mapping[str, Any]) -> None:
    url, message = _secret(task["url"]), task["message"]
    try:
        import apprise
    except ImportError:
        raise NotifyFailed("apprise is not installed here", hint="pip install 'llmctl-fleet[notify]'") from None
    service = apprise.Apprise()
    if not service.add(url):
        raise NotifyFailed(
            f"{_source(task)} is no address that apprise knows", hint="https://github.com/caronc/apprise lists them"
        )
    kind = apprise.NotifyType.FAILURE if message["kind"] == "problem" else apprise.NotifyType.SUCCESS
    with apprise.LogCapture(level=logging.WARNING) as said:  # type: ignore[no-untyped-call]
        if not service.notify(body=message["text"], title=message["title"], notify_type=kind):
            code = re.search(r"\berror=(\d{3})\b", said.getvalue())
            why = f" (it answers {code[1]})" if code else ""
            raise NotifyFailed(f"the service of {_source(task)} did not take it{why}", hint="apprise -vv tells more")


def _secret(found: Mapping[str, str]) -> str:
    return build(Secret, found).read()


def _source(task: Mapping[str, Any]) -> str:
    return str(build(Secret, task["url"])) if task["url"] else host_of(task["address"])


if __name__ == "__main__":
    main()
