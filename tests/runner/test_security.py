"""Keys, hosts and origins on a running slot, on every route (reliability.md, S1 to S3, S10)."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from llmctl import keys
from llmctl.domain import SlotSpec
from llmctl.runner.app import make_app
from llmctl.runner.auth import Auth
from llmctl.runner.metrics import Metrics
from llmctl.runner.protocols.openapi_operations import OPERATIONS
from llmctl.slots.state import Launch, SlotFolder
from tests.conftest import RunningSlot, free_port
from tests.runner.fake_slot import FakeService, Response, post, raw

Slots = Callable[..., RunningSlot]
Script = Callable[..., SlotSpec]

ROUTES = [
    *((one.method, re.sub("{.*}", "alpha", one.path)) for one in OPERATIONS if one.key), ("GET", "/nothing"),
    ("OPTIONS", "/v1/chat/completions"), ("DELETE", "/v1/models/alpha"), ("GET", "/health/"), ("GET", "//health"),
    ("GET", "/health/../v1/models"), ("GET", "/v1/../health"),
]  # fmt: skip
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


def ask(port: int, method: str, path: str, *headers: str, host: str = "localhost", body: Any = CHAT) -> Response:
    data = json.dumps(body).encode() if method == "POST" else b""
    request = post(path, data, *headers).replace(b"POST", method.encode(), 1)
    return raw(port, request.replace(b"Host: localhost", b"Host: " + host.encode(), 1))


def is_error(response: Response, kind: str) -> bool:
    """The body is an error of that kind, in the shape of whatever protocol the route belongs to."""
    found = response.json()
    error = found.get("error")
    return error["type"] == kind if isinstance(error, dict) else bool(error or found["message"])


def test_s1_every_route_needs_the_key(slots: Slots, script: Script, home: Path) -> None:
    made = keys.show(home)
    slot = slots(script("alpha"), Launch(require_key=True))
    bad = [[], ["x-api-key: wrong"], ["x-api-key:"], ["Authorization: Bearer"], ["Authorization: Bearer k\xe4y"]]
    for method, path in ROUTES:
        for headers in bad:
            response = ask(slot.port, method, path, *headers)
            assert response.status == 401, (method, path, headers)
            assert response.headers["www-authenticate"] == "Bearer"
            assert is_error(response, "authentication_error"), path
    assert ask(slot.port, "GET", "/health").status == 200
    for key in made.values():
        assert ask(slot.port, "POST", "/v1/chat/completions", f"Authorization: Bearer {key}").status == 200
        assert ask(slot.port, "GET", "/v1/models", f"x-api-key: {key}").status == 200
    assert not any(key in slot.log() for key in made.values())


def test_s1_a_rotation_ends_the_old_key_on_a_running_slot(slots: Slots, script: Script, home: Path) -> None:
    old = keys.show(home)["client"]
    slot = slots(script("alpha"), Launch(require_key=True))
    new = keys.rotate(home)["client"]
    assert ask(slot.port, "GET", "/v1/models", f"x-api-key: {old}").status == 401
    assert ask(slot.port, "GET", "/v1/models", f"x-api-key: {new}").status == 200


def test_a_slot_server_beyond_loopback_without_a_key_does_not_start(home: Path) -> None:
    SlotFolder(home, port := free_port()).make()
    launch = json.dumps(asdict(Launch(bind="0.0.0.0")))
    argv = [sys.executable, "-m", "llmctl.runner.server", str(port), "--home", str(home), "--launch", launch]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1 and "needs a key, and there is none" in ran.stderr
    assert not (home / "keys.json").exists()


def test_the_first_slot_beyond_loopback_makes_the_keys_and_needs_them(slots: Slots, script: Script, home: Path) -> None:
    slot = slots(script("alpha"), Launch(bind="0.0.0.0"))
    made = json.loads((home / "keys.json").read_text())
    assert made and (home / "keys.json").stat().st_mode & 0o777 == 0o600
    assert ask(slot.port, "GET", "/v1/models").status == 401
    key = keys.show(home)["client"]
    assert ask(slot.port, "GET", "/v1/models", f"x-api-key: {key}").status == 200


@pytest.mark.parametrize("headers", [[], [(b"x-api-key", b"wrong")], [(b"x-api-key", b"")], [(b"x-api-key", b"\xff")]])
def test_s1_a_websocket_without_the_key_is_closed_with_1008(headers: list[tuple[bytes, bytes]]) -> None:
    assert websocket(Auth("0.0.0.0", keys.Keys("a", "c")), headers) == 1008
    assert websocket(Auth("0.0.0.0", keys.Keys("a", "c")), [(b"x-api-key", b"c")]) == 1000


def test_s3_a_websocket_from_a_foreign_page_is_closed_with_1008() -> None:
    auth = Auth("127.0.0.1", None)
    assert websocket(auth, [(b"host", b"localhost"), (b"origin", b"https://example.com")]) == 1008
    assert websocket(auth, [(b"host", b"example.com")]) == 1008
    assert websocket(auth, [(b"host", b"localhost"), (b"origin", b"http://localhost:9000")]) == 1000


def websocket(auth: Auth, headers: list[tuple[bytes, bytes]]) -> int:
    """The code with which the application closes a WebSocket."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    app = make_app(FakeService(), auth, Metrics())
    asyncio.run(app({"type": "websocket", "path": "/ws", "headers": headers}, receive, send))
    assert [message["type"] for message in sent] == ["websocket.close"]
    return int(sent[0]["code"])


def test_s2_a_foreign_host_is_refused_on_every_route(scripted_slot: RunningSlot) -> None:
    for method, path in [*ROUTES, ("GET", "/health")]:
        response = ask(scripted_slot.port, method, path, host="rebound.example.com")
        assert response.status == 403 and is_error(response, "permission_error"), path
    for host in ("127.0.0.1:8101", "[::1]", "LOCALHOST:1"):
        assert ask(scripted_slot.port, "GET", "/v1/models", host=host).status == 200


def test_s3_no_answer_carries_cors_and_a_foreign_page_gets_403(scripted_slot: RunningSlot) -> None:
    preflight = ["Access-Control-Request-Method: POST", "Access-Control-Request-Headers: content-type"]
    for method, path in [*ROUTES, ("GET", "/health")]:
        for origin in ("https://example.com", "null"):
            response = ask(scripted_slot.port, method, path, f"Origin: {origin}", *preflight)
            assert response.status == 403, (method, path)
            assert not any(name.startswith("access-control") for name in response.headers)
        response = ask(scripted_slot.port, method, path, "Origin: http://localhost:3000", *preflight)
        assert response.status != 403 and not any(name.startswith("access-control") for name in response.headers)


def test_s10_what_a_client_sends_stays_out_of_log_and_metrics(scripted_slot: RunningSlot) -> None:
    slot, canary = scripted_slot, "canary\x1b[31m\r\nX-Evil: 1"
    for body in (
        {"messages": [{"role": "user", "content": canary}]},
        {"messages": [{"role": canary, "content": "x"}]},
        {"messages": CHAT["messages"], "model": canary},
        {"messages": CHAT["messages"], canary: 1},
        {"messages": CHAT["messages"], "stop": [canary], "user": canary},
    ):
        for stream in (False, True):
            response = ask(slot.port, "POST", "/v1/chat/completions", body={**body, "stream": stream})
            assert "x-evil" not in response.headers and b"\x1b" not in response.body
    ask(slot.port, "GET", "/canary?canary", "X-Canary: canary")
    raw(slot.port, b"canary\r\n\r\n")
    metrics = ask(slot.port, "GET", "/metrics").body.decode()
    assert "canary" not in slot.log() and "canary" not in metrics
