"""Keys, hosts and origins on a running slot and on a gateway before it, on every route (reliability.md, S1-S3, S10)."""

from __future__ import annotations

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
from llmctl.runner.auth import Auth
from llmctl.runner.protocols.openapi_operations import OPERATIONS
from llmctl.slots.state import Launch, SlotFolder
from tests.conftest import RunningSlot, free_port
from tests.gateway import fake_gate
from tests.gateway.conftest import gateway, served
from tests.runner import fake_slot
from tests.runner.fake_slot import Response, post, raw
from tests.runner.sockets import request as handshake
from tests.runner.sockets import websocket

Slots = Callable[..., RunningSlot]
Script = Callable[..., SlotSpec]
Served = Callable[..., Any]
__all__ = ["gateway", "served"]

ROUTES = [
    *((one.method, re.sub("{.*}", "alpha", one.path)) for one in OPERATIONS if one.key), ("GET", "/nothing"),
    ("OPTIONS", "/v1/chat/completions"), ("DELETE", "/v1/models/alpha"), ("GET", "/health/"), ("GET", "//health"),
    ("GET", "/health/../v1/models"), ("GET", "/v1/../health"),
    ("POST", "/execute"), ("POST", "/v1/jobs"), ("GET", "/v1/jobs/a/stream"), ("GET", "/v1/ready"),
    ("GET", "/v1/loading/progress"),
]  # fmt: skip
RBEE = ("/execute", "/v1/jobs", "/v1/jobs/a/stream", "/v1/ready", "/v1/loading/progress")  # with errors of their own
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


def ask(port: int, method: str, path: str, *headers: str, host: str = "localhost", body: Any = CHAT) -> Response:
    data = json.dumps(body).encode() if method == "POST" else b""
    request = post(path, data, *headers).replace(b"POST", method.encode(), 1)
    return raw(port, request.replace(b"Host: localhost", b"Host: " + host.encode(), 1))


@pytest.fixture
def start(served: Served, script: Script) -> Callable[..., Any]:
    """start(launch) → one that serves `alpha`."""
    return lambda launch=None: served(script("alpha", names=("first",)), launch)


@pytest.fixture(params=[fake_slot.serve, fake_gate.serve], ids=["slot", "gateway"])
def serve(request: pytest.FixtureRequest) -> Any:
    """A slot in this process, and one with a gate in front."""
    return request.param


def is_error(response: Response, kind: str) -> bool:
    """The body is an error of that kind, in the shape of whatever protocol the route belongs to."""
    found = response.json()
    error = found.get("error")
    return error["type"] == kind if isinstance(error, dict) else bool(error or found["message"])


def test_s1_every_route_needs_the_key(start: Callable[..., Any], home: Path) -> None:
    made = keys.show(home)
    slot = start(Launch(require_key=True))
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
    logs = [one.read_text(errors="replace") for one in home.glob("slots/*/*.log")]
    assert logs and not any(key in log for key in made.values() for log in logs)


def test_s1_a_rotation_ends_the_old_key_on_a_running_slot(start: Callable[..., Any], home: Path) -> None:
    old = keys.show(home)["client"]
    slot = start(Launch(require_key=True))
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


SOCKETS = ("/", "/ws", "/v1/chat/completions")


@pytest.mark.parametrize("path", [*SOCKETS, "/nothing"])
def test_s1_a_websocket_without_the_key_is_a_401_and_never_opens(path: str, serve: Any) -> None:
    with serve(auth=Auth("0.0.0.0", keys.Keys("admin-key", "client-key"))) as slot:
        for given in ([], ["x-api-key: wrong"], ["x-api-key:"], ["x-api-key: \xff"], ["Authorization: Bearer k\xe4y"]):
            response = raw(slot.port, handshake(path, *given))
            assert response.status == 401 and response.headers["www-authenticate"] == "Bearer", given
            assert response.json()["error"]["type"] == "authentication_error"
        good = 101 if path in SOCKETS else 404
        for key in ("client-key", "admin-key"):
            assert raw(slot.port, handshake(path, f"x-api-key: {key}")).status == good
            assert raw(slot.port, handshake(path, f"Authorization: Bearer {key}")).status == good
        page = ask(slot.port, "GET", "/metrics", "x-api-key: client-key").body.decode()
        counted = 'route="none",status="401"' if serve is fake_slot.serve else 'gateway_refused_total{status="401"}'
        assert counted in page


@pytest.mark.parametrize("path", SOCKETS)
def test_s3_a_websocket_from_a_foreign_page_is_a_403_and_never_opens(path: str, serve: Any) -> None:
    with serve() as slot:
        for origin in ("https://example.com", "null", "file://", "http://localhost.example.com"):
            response = raw(slot.port, handshake(path, f"Origin: {origin}"))
            assert response.status == 403 and response.json()["error"]["type"] == "permission_error"
        foreign = handshake(path).replace(b"Host: localhost", b"Host: rebound.example.com")
        assert raw(slot.port, foreign).status == 403
        assert raw(slot.port, handshake(path, "Origin: http://localhost:9000")).status == 101


@pytest.mark.parametrize("key", [[], ["x-api-key: client-key"], ["x-api-key: admin-key"]])
def test_s1_switch_model_over_a_websocket_needs_the_admin_key_on_loopback_too(key: list[str]) -> None:
    headers = dict(header.split(": ") for header in key)
    auth = Auth("127.0.0.1", keys.Keys("admin-key", "client-key"))
    with fake_slot.serve(auth=auth) as slot, websocket(slot.port, "/ws", additional_headers=headers) as client:
        client.say({"type": "switch_model", "model_path": "alpha"})
        answer = client.hear()
        if key == ["x-api-key: admin-key"]:
            assert answer == {"type": "model_switched", "model": "alpha"}
            client.say({"type": "switch_model", "model_path": "beta"})
            answer = client.hear()
        assert answer["type"] == "error" and "llmctl swap PORT MODEL" in answer["message"]


def test_s1_nobody_switches_a_slots_model_through_the_gateway() -> None:
    """A slot hears the gateway's key, never its client's."""
    auth = Auth("127.0.0.1", keys.Keys("admin-key", "client-key"))
    headers = {"x-api-key": "admin-key"}
    with fake_gate.serve(auth=auth) as slot, websocket(slot.port, "/ws", additional_headers=headers) as client:
        client.say({"type": "switch_model", "model_path": "alpha"})
        assert client.hear()["type"] == "error"


def test_s2_a_foreign_host_is_refused_on_every_route(start: Callable[..., Any]) -> None:
    slot = start()
    for method, path in [*ROUTES, ("GET", "/health")]:
        response = ask(slot.port, method, path, host="rebound.example.com")
        assert response.status == 403 and is_error(response, "permission_error"), path
    for host in ("127.0.0.1:8101", "[::1]", "LOCALHOST:1"):
        assert ask(slot.port, "GET", "/v1/models", host=host).status == 200


def test_s3_no_answer_carries_cors_and_a_foreign_page_gets_403(start: Callable[..., Any]) -> None:
    slot = start()
    preflight = ["Access-Control-Request-Method: POST", "Access-Control-Request-Headers: content-type"]
    for method, path in [*ROUTES, ("GET", "/health")]:
        for origin in ("https://example.com", "null"):
            response = ask(slot.port, method, path, f"Origin: {origin}", *preflight)
            assert response.status == 403, (method, path)
            assert not any(name.startswith("access-control") for name in response.headers)
        response = ask(slot.port, method, path, "Origin: http://localhost:3000", *preflight)
        assert response.status != 403 and not any(name.startswith("access-control") for name in response.headers)


def test_s10_what_a_client_sends_stays_out_of_log_and_metrics(start: Callable[..., Any], home: Path) -> None:
    slot = start()
    canary = "canary\x1b[31m\r\nX-Evil: 1"
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
    assert "canary" not in metrics
    logs = [one for one in home.glob("slots/*/*.log*") if "canary" in one.read_text(errors="replace")]
    assert not logs and list(home.glob("slots/*/*.log"))
