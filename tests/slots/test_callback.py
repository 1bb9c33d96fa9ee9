"""The callback of a worker: which URLs are taken, what address is given, and what is seen before anything starts."""

from __future__ import annotations

import pytest

from llmctl.errors import Refused, UsageError
from llmctl.slots import callback
from llmctl.slots.callback import Callback


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://pool", Callback("w", "pool", 80, "/", False)),
        ("https://pool/ready?x=1", Callback("w", "pool", 443, "/ready?x=1", True)),
        ("http://[::1]:9000/a", Callback("w", "::1", 9000, "/a", False)),
    ],
)
def test_a_url_is_read(url: str, expected: Callback) -> None:
    found = callback.parse("w", url)
    assert found == expected == Callback.from_json(found.to_json())
    assert str(found) == f"{found.host}:{found.port}", "the path may hold a secret"


@pytest.mark.parametrize(
    "url",
    ["", "pool:9000", "ftp://pool/x", "http://", "http://user:secret@pool/", "http://pool:99999/", "http://pöol/"],
)
def test_another_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        callback.parse("w", url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("id", ["", "a\nb", "\x1b[31m"])
def test_an_id_is_a_word(id: str) -> None:
    with pytest.raises(UsageError, match="id"):
        callback.parse(id, "http://pool")


@pytest.mark.parametrize(
    ("bind", "local", "uri"),
    [
        ("127.0.0.1", "127.0.0.1", "http://127.0.0.1:8101"),
        ("127.0.0.1", "::1", "http://127.0.0.1:8101"),
        ("0.0.0.0", "192.0.2.7", "http://192.0.2.7:8101"),
        ("0.0.0.0", "127.0.0.1", "http://127.0.0.1:8101"),
        ("::", "2001:db8::7", "http://[2001:db8::7]:8101"),
        ("192.0.2.9", "192.0.2.7", "http://192.0.2.9:8101"),
    ],
)
def test_the_address_is_one_that_the_pool_reaches(bind: str, local: str, uri: str) -> None:
    assert callback.uri(bind, local, 8101) == uri


@pytest.mark.parametrize("bind", ["127.0.0.1", "::1", "localhost"])
def test_a_slot_on_loopback_is_not_announced_to_another_machine(bind: str) -> None:
    with pytest.raises(Refused, match="another machine") as caught:
        callback.uri(bind, "192.0.2.7", 8101)
    assert 'bind = "0.0.0.0"' in str(caught.value.hint)


def test_what_can_be_seen_before_the_start_is_said_then(monkeypatch: pytest.MonkeyPatch) -> None:
    callback.check(callback.parse("w", "http://127.0.0.1:9"), "127.0.0.1", 8101)
    callback.check(callback.parse("w", "http://no-such-host.invalid:9"), "127.0.0.1", 8101)
    monkeypatch.setattr(callback.socket, "socket", Elsewhere)
    with pytest.raises(Refused, match="another machine"):
        callback.check(callback.parse("w", "http://127.0.0.1:9"), "127.0.0.1", 8101)


class Elsewhere:
    """A socket whose own end is on a network."""

    def __init__(self, *args: object) -> None: ...

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def connect(self, address: object) -> None: ...

    def getsockname(self) -> tuple[str, int]:
        return ("192.0.2.7", 1)
