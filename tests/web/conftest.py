"""Pages of a fleet that stands still, in this process; real ones are in test_real.py and test_browser.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from llmctl import keys
from llmctl.web.app import Door, Web
from tests.web.fixed import Fleet, Verbs, web_of

BASE = "http://127.0.0.1:8091"
FORM = {"Origin": BASE, "Accept": "text/html"}


class Site:
    """A status page and somebody at it."""

    def __init__(self, home: Path, **options: Any) -> None:
        self.home = home
        self.watch, self.verbs = Fleet(), Verbs()
        self.web: Web = web_of(home, **{"watch": self.watch, "verbs": self.verbs, **options})
        self.client = self.visitor()

    def visitor(self) -> TestClient:
        """Somebody else."""
        return TestClient(self.web.app, base_url=BASE, follow_redirects=False, headers={"Accept": "text/html"})

    def key(self, role: str) -> str:
        return keys.show(self.home)[role]

    def token(self, client: TestClient | None = None) -> str:
        """The one in the forms of this visitor."""
        found = re.search(r'name="token" value="([0-9a-f]{64})"', (client or self.client).get("/sign-in").text)
        assert found
        return found[1]

    def sign_in(self, role: str, client: TestClient | None = None) -> Any:
        who = client or self.client
        return who.post("/sign-in", data={"key": self.key(role), "token": self.token(who)}, headers=FORM)

    def post(self, path: str, client: TestClient | None = None, **fields: str) -> Any:
        """A form of a page of ours, with its token."""
        who = client or self.client
        return who.post(path, data={"token": self.token(who), **fields}, headers=FORM)

    def chat(self, text: str, path: str = "/slots/gpu1/8101/chat", **more: str) -> Any:
        headers = {"Origin": BASE, "X-Token": self.token(), "Accept": "*/*", **more}
        return self.client.post(path, json={"messages": [{"role": "user", "content": text}]}, headers=headers)


@pytest.fixture
def site(home: Path) -> Site:
    """On loopback, where nobody needs a key to read. Its streams end as they begin: this client reads answers whole."""
    found = Site(home)
    found.web.close()
    return found


@pytest.fixture
def keyed(home: Path) -> Site:
    """On all addresses, where everybody does."""
    keys.show(home)
    found = Site(home, door=Door("0.0.0.0"))
    found.web.close()
    return found


@pytest.fixture
def make_site(home: Path) -> Callable[..., Site]:
    return lambda **options: Site(home, **options)
