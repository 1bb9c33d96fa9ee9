"""Who may talk to a slot (runner.auth) and where its keys come from (llmctl.keys)."""

from __future__ import annotations

import hmac
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from llmctl import keys
from llmctl.errors import Refused, RequestError, StateError
from llmctl.keys import Keys, is_loopback
from llmctl.runner.auth import Auth

KEYS = Keys(admin="lm-admin-x", client="lm-y")


def scope(*headers: tuple[str, str], kind: str = "http") -> dict[str, Any]:
    return {"type": kind, "headers": [(k.encode(), v.encode("latin-1")) for k, v in headers]}


def status(auth: Auth, *headers: tuple[str, str]) -> int:
    """What `check` makes of a request; the same for a WebSocket."""
    found = []
    for kind in ("http", "websocket"):
        try:
            auth.check(scope(*headers, kind=kind))
            found.append(200)
        except RequestError as error:
            found.append(error.status)
    assert found[0] == found[1]
    return found[0]


# ── binding ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "bind", ["0.0.0.0", "::", "", "192.168.1.4", "example.com", "128.0.0.1", "127.0.0.1.example.com"]
)
def test_a_bind_beyond_loopback_needs_a_key(bind: str) -> None:
    with pytest.raises(Refused) as caught:
        Auth(bind, None)
    assert caught.value.hint == "make the keys first: llmctl keys show"
    assert status(Auth(bind, KEYS)) == 401


@pytest.mark.parametrize("bind", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_may_be_keyless(bind: str) -> None:
    assert is_loopback(bind)
    assert status(Auth(bind, None)) == status(Auth(bind, KEYS)) == 200
    assert status(Auth(bind, KEYS, require_key=True)) == 401
    with pytest.raises(Refused):
        Auth(bind, None, require_key=True)


# ── keys ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], 401),
        ([("authorization", "Bearer lm-y")], 200),
        ([("authorization", "bearer  lm-y ")], 200),
        ([("x-api-key", "lm-y")], 200),
        ([("x-api-key", "lm-admin-x")], 200),
        ([("authorization", "Basic abc"), ("x-api-key", "lm-y")], 200),
        ([("authorization", "lm-y")], 401),
        ([("authorization", "Basic lm-y")], 401),
        ([("authorization", "Bearer ")], 401),
        ([("authorization", "Bearer")], 401),
        ([("authorization", "Bearer lm-Y")], 401),
        ([("authorization", "Bearer lm-y\xff")], 401),
        ([("authorization", "Bearer \xe4\xf6")], 401),
        ([("x-api-key", "")], 401),
        ([("x-api-key", "lm-")], 401),
        ([("cookie", "x-api-key=lm-y")], 401),
    ],
)
def test_s1_keys(headers: list[tuple[str, str]], expected: int) -> None:
    assert status(Auth("0.0.0.0", KEYS), *headers) == expected


def test_s1_the_admin_key_is_separate() -> None:
    for bind in ("0.0.0.0", "127.0.0.1"):
        auth = Auth(bind, KEYS)
        auth.require("admin", scope(("x-api-key", "lm-admin-x")))
        auth.require("client", scope(("x-api-key", "lm-y")))
        for sent in ([("x-api-key", "lm-y")], [], [("authorization", "Bearer ")]):
            with pytest.raises(RequestError) as caught:
                auth.require("admin", scope(*sent))
            assert caught.value.status == 401
    with pytest.raises(RequestError):
        Auth("127.0.0.1", None).require("admin", scope())


def test_s1_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key is compared, by hmac, whichever matches."""
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    for sent in ("lm-y", "lm-admin-x", "wrong"):
        compared.clear()
        status(Auth("0.0.0.0", KEYS), ("x-api-key", sent))
        assert compared == [(sent.encode(), b"lm-admin-x"), (sent.encode(), b"lm-y")] * 2


# ── Host and Origin ─────────────────────────────────────────────────────────────────────────────────────────────────

LOCAL = ["localhost", "localhost:8101", "LOCALHOST", "127.0.0.1:8101", "127.9.9.9", "[::1]", "[::1]:8101", "localhost."]
FOREIGN = [
    "example.com", "example.com:8101", "localhost.example.com", "127.0.0.1.nip.io", "192.168.0.1", "0.0.0.0", "[::]",
    "127.1", "2130706433", "0x7f000001", "localhost@example.com", "a b", "", "[::1", "::1", "localhost:x",
    "127.0.0.1/x",
]  # fmt: skip


def test_s2_hosts_on_loopback() -> None:
    auth = Auth("127.0.0.1", None, hosts=["Box.lan"])
    assert [status(auth, ("host", host)) for host in LOCAL] == [200] * len(LOCAL)
    assert [status(auth, ("host", host)) for host in FOREIGN] == [403] * len(FOREIGN)
    assert status(auth, ("host", "box.lan:8101")) == 200
    assert status(auth) == 200  # HTTP/1.0; a browser always sends one


def test_s2_beyond_loopback_the_key_decides() -> None:
    assert status(Auth("0.0.0.0", KEYS), ("host", "box.lan"), ("x-api-key", "lm-y")) == 200
    assert status(Auth("0.0.0.0", KEYS), ("host", "localhost")) == 401


def test_s3_origins() -> None:
    keyed = ("x-api-key", "lm-y")
    for auth in (Auth("127.0.0.1", None), Auth("0.0.0.0", KEYS)):
        for origin in ("https://example.com", "null", "", "file://", "app://localhost", "http://localhost.example.com"):
            assert status(auth, ("host", "localhost:8101"), ("origin", origin), keyed) == 403
        for origin in ("http://localhost:8101", "http://127.0.0.1", "https://[::1]:9"):
            assert status(auth, ("host", "localhost:8101"), ("origin", origin), keyed) == 200
    page = ("origin", "http://box.lan:8101")
    assert status(Auth("0.0.0.0", KEYS), ("host", "box.lan:8101"), page, keyed) == 200
    assert status(Auth("0.0.0.0", KEYS), ("host", "other.lan:8101"), page, keyed) == 403
    assert status(Auth("127.0.0.1", None, hosts=["box.lan"]), ("host", "localhost"), page) == 200


# ── the keys file ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_keys_are_made_at_first_use_and_private(tmp_path: Path) -> None:
    home = tmp_path / "state"
    assert keys.read(home) is None and not home.exists()
    shown = keys.show(home)
    assert shown == keys.show(home) and list(shown) == ["client", "admin"]
    assert shown["admin"].startswith("lm-admin-") and shown["client"].startswith("lm-")
    assert all(len(key) > 40 and key.isascii() for key in shown.values())
    assert (home / "keys.json").stat().st_mode & 0o777 == 0o600 and home.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in home.iterdir()] == ["keys.json"]
    assert shown["client"] not in repr(keys.read(home))


def test_who_makes_keys_at_once_gets_the_same(tmp_path: Path) -> None:
    shown: list[dict[str, str]] = []
    threads = [threading.Thread(target=lambda: shown.append(keys.show(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({json.dumps(one) for one in shown}) == 1 and len(shown) == 8


def test_a_rotation_ends_the_old_keys_at_once(tmp_path: Path) -> None:
    old = keys.show(tmp_path)
    auth = Auth("0.0.0.0", keys.read(tmp_path))
    assert status(auth, ("x-api-key", old["client"])) == 200
    new = keys.rotate(tmp_path)
    assert not set(new.values()) & set(old.values())
    assert status(auth, ("x-api-key", old["client"])) == 401
    assert status(auth, ("x-api-key", new["client"])) == 200
    (tmp_path / "keys.json").unlink()
    assert status(auth) == 401
    assert status(auth, ("x-api-key", new["client"])) == 200


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"admin": "", "client": ""}', '{"admin": "x", "client": "x"}'])
def test_a_damaged_keys_file_opens_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys.json").write_text(text)
    with pytest.raises(StateError, match="does not hold two keys"):
        keys.read(tmp_path)
    assert keys.rotate(tmp_path)["client"]


def test_current_is_the_client_key_of_this_host(home: Path) -> None:
    assert keys.current() is None
    assert keys.show(home)["client"] == keys.current()
