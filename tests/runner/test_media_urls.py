"""Images by URL: only from where the operator allows, only at public addresses, bounded in size and time."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import http.server
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl.domain import MediaPolicy
from llmctl.errors import RequestError
from llmctl.runner.media import addresses, fetch, gather, source
from llmctl.runner.media.room import Room
from llmctl.runner.protocols import asked
from tests.conftest import eventually
from tests.runner.fake_slot import connect, post, serve
from tests.runner.pictures import drawn
from tests.runner.test_media_http import Seeing

PNG = drawn()
DEADLINE = 30.0
connects: list[Any] = []


def _record(event: str, args: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        connects.append(args[1])


sys.addaudithook(_record)


class Web(http.server.BaseHTTPRequestHandler):
    """A web server on loopback that plays every trick; `seen` are the requests' heads."""

    seen: list[dict[str, str]]

    def do_GET(self) -> None:
        type(self).seen.append({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
        getattr(self, self.path.split("?")[0].strip("/").replace(".", "_") or "missing", self.missing)()

    def a_png(self) -> None:
        self.answer(200, PNG, ("Content-Length", str(len(PNG))), ("Set-Cookie", "a=b"))

    def missing(self) -> None:
        self.answer(404, b"")

    def loop(self) -> None:
        self.answer(302, b"", ("Location", "/loop"))

    def relative(self) -> None:
        self.answer(302, b"", ("Location", "a.png"), ("Set-Cookie", "a=b"))

    def to(self) -> None:
        self.answer(302, b"", ("Location", self.path.partition("?")[2]))

    def huge(self) -> None:
        self.answer(200, PNG, ("Content-Length", str(10 * 2**30)))
        self.rfile.read(1)  # until the client hangs up

    def odd(self) -> None:
        self.answer(200, PNG, ("Content-Length", "ten"))

    def endless(self) -> None:
        self.answer(200, b"")
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(bytes(2**16))

    def drip(self) -> None:
        self.answer(200, b"", ("Content-Length", "1000"))
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"x")
                time.sleep(0.05)
        type(self).seen.append({"path": "/gone"})

    def short(self) -> None:
        self.answer(200, PNG, ("Content-Length", str(2 * len(PNG))))

    def gzip(self) -> None:
        self.answer(200, PNG, ("Content-Encoding", "gzip"))

    def page(self) -> None:
        self.answer(200, b"<html>", ("Content-Type", "image/png"))

    def answer(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[dict[str, str]]]]:
    handler = type("Handler", (Web,), {"seen": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.server_port, handler.seen  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def web() -> Iterator[tuple[int, list[dict[str, str]]]]:
    with serving() as served:
        yield served


@pytest.fixture
def port(web: tuple[int, list[dict[str, str]]]) -> int:
    web[1].clear()
    return web[0]


async def here(host: str, port: int) -> list[str]:
    """Every name is this machine."""
    return ["127.0.0.1"]


def get(url: str, policy: MediaPolicy, *, resolve: fetch.Resolve = here, public: Any = lambda ip: True) -> bytes:
    """The image at `url` as a request would have it; loopback counts as public unless told otherwise."""

    async def run() -> bytes:
        getter = functools.partial(fetch.fetch, resolve=resolve, public=public)
        async with gather.gathered([source.of_url("image", url)], policy, fetch=getter) as found:
            return found[0].data

    connects.clear()
    return asyncio.run(asyncio.wait_for(run(), DEADLINE))


def refused(work: Callable[[], object], code: str, status: int = 400) -> RequestError:
    with pytest.raises(RequestError) as caught:
        work()
    error = caught.value
    assert (error.status, error.param, error.code) == (status, "image", code), error.to_dict()
    return error


def at(port: int, **more: Any) -> MediaPolicy:
    return MediaPolicy(url_hosts=(f"a.example:{port}", "a.example"), **more)


# ── what is allowed ─────────────────────────────────────────────────────────────────────────────────────────────────

INWARD = [
    "http://127.0.0.1{}/", "http://127.1{}/", "http://localhost{}/", "http://0.0.0.0{}/", "http://0{}/",
    "http://2130706433{}/", "http://0x7f000001{}/", "http://0x7f.1{}/", "http://0177.0.0.1{}/",
    "http://017700000001{}/", "http://127.0.0.1.{}/", "http://[::]{}/", "http://[::1]{}/",
    "http://[::ffff:127.0.0.1]{}/", "http://[::ffff:7f00:1]{}/", "http://[0:0:0:0:0:0:0:1]{}/", "http://[::127.0.0.1]{}/",
    "http://[64:ff9b::7f00:1]{}/", "http://[2002:7f00:1::]{}/", "http://[fe80::1]{}/", "http://[fe80::1%25lo]{}/",
    "http://[fc00::1]{}/", "http://[ff02::1]{}/", "http://[fec0::1]{}/", "http://169.254.169.254{}/latest/meta-data/",
    "http://10.0.0.1{}/", "http://172.16.0.1{}/", "http://192.168.0.1{}/", "http://100.64.0.1{}/",
    "http://198.18.0.1{}/", "http://224.0.0.1{}/", "http://255.255.255.255{}/", "http://user@127.0.0.1{}/",
    "http://a.example@127.0.0.1{}/", "http://user:word@localhost{}/", "http://127.0.0.1\\@a.example{}/",
    "http:///127.0.0.1{}/", "http://127.0.0.1%2f{}/", "http://127。0。0。1{}/", "http://ⓛocalhost{}/",
    "http://127.0.0.1\t{}/", "http://a.example#@127.0.0.1{}/", "http://127.0.0.1:0/", "http://127.0.0.1:99999/",
    "http://127.0.0.1:x/", "http://[127.0.0.1]{}/", "http://[::1{}/", "http://%31%32%37.0.0.1{}/",
]  # fmt: skip


@pytest.mark.parametrize("url", INWARD)
def test_s04_no_address_of_this_machine_or_its_networks_is_connected_to(url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        url = url.replace("{}", f":{port}")
        host = url.partition("//")[2].partition("/")[0].rpartition("@")[2]
        anywhere = MediaPolicy(url_hosts=("*", host, host.lower()))
        code = "image_not_allowed"
        with pytest.raises(RequestError) as caught:
            get(url, anywhere, resolve=fetch.resolve, public=addresses.is_public)
        assert caught.value.status == 400 and caught.value.code in (code, "image_unavailable")
        assert url not in caught.value.message
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert not connects


def test_s04_the_same_without_a_port() -> None:
    for url in INWARD:
        with pytest.raises(RequestError):
            get(url.replace("{}", ""), MediaPolicy(url_hosts=("*",)), resolve=fetch.resolve, public=addresses.is_public)
        assert not connects, url


PUBLIC = "1.1.1.1 93.184.215.14 2606:4700:4700::1111 2a00:1450:4001::200e"
INNER = """
127.0.0.1 0.0.0.0 10.1.2.3 169.254.169.254 100.64.0.1 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 :: ::1
::ffff:1.1.1.1 ::ffff:127.0.0.1 ::127.0.0.1 64:ff9b::101:101 2002:7f00:1::1 2001::1 2001:db8::1 3fff::1 5f00::1
fe80::1%eth0 fd00::1 ff0e::1 fec0::1
"""


def test_s04_which_addresses_are_public() -> None:
    assert [address for address in PUBLIC.split() if not addresses.is_public(address)] == []
    assert [address for address in INNER.split() if addresses.is_public(address)] == []


def test_s12_nothing_is_resolved_or_fetched_unless_allowed(port: int) -> None:
    async def nobody(host: str, port: int) -> list[str]:
        raise AssertionError("asked a name server")

    for policy in (
        MediaPolicy(),
        MediaPolicy(url_hosts=("b.example", "a.example.org", "example", f"a.example:{port + 1}")),
    ):
        error = refused(lambda p=policy: get(f"http://a.example:{port}/a.png", p, resolve=nobody), "image_not_allowed")
        assert error.hint and "image_urls" in error.hint
    assert not connects


def test_a_port_is_allowed_by_name_only() -> None:
    parse = functools.partial(addresses.parse, "image")
    assert parse("http://a.example", ["a.example"]).port == 80
    assert parse("https://A.example.:443/x?y=1#z", ["A.Example"]).target == "/x?y=1"
    assert parse("http://a.example:8080/", ["a.example:8080"]).authority == "a.example:8080"
    assert parse("https://[2606:4700::1]/", ["*"]).authority == "[2606:4700::1]"
    for url, hosts in (
        ("http://a.example:22/", ["a.example", "*"]),
        ("http://b.example/", ["a.example"]),
        ("http://a.example:0/", ["a.example"]),
    ):
        refused(lambda u=url, h=hosts: parse(u, h), "image_not_allowed")
    refused(lambda: parse("ftp://a.example/", ["*"]), "image_not_allowed")


# ── how it is fetched ───────────────────────────────────────────────────────────────────────────────────────────────


def test_an_image_is_fetched(web: tuple[int, list[dict[str, str]]], port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # no proxy of the environment is used
    assert get(f"http://a.example:{port}/a.png?b=c%20d", at(port)) == PNG
    (seen,) = web[1]
    assert (seen["path"], seen["host"], seen["user-agent"]) == ("/a.png?b=c%20d", f"a.example:{port}", "llmctl")
    assert not {"cookie", "authorization", "referer"} & seen.keys()


def test_s04_the_connection_goes_to_the_address_that_was_checked(port: int) -> None:
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    assert get(f"http://a.example:{port}/a.png", at(port), resolve=rebinding, public="127.0.0.1".__eq__) == PNG
    assert asked == ["a.example"]
    assert connects == [("127.0.0.1", port)]


def test_s04_one_inner_address_among_those_of_a_name_is_enough_to_refuse(port: int) -> None:
    async def both(host: str, port: int) -> list[str]:
        return ["127.0.0.1", "127.0.0.2"]

    url = f"http://a.example:{port}/a.png"
    refused(lambda: get(url, at(port), resolve=both, public="127.0.0.1".__eq__), "image_not_allowed")
    assert not connects


def test_the_next_address_is_tried_when_one_does_not_answer(port: int) -> None:
    async def both(host: str, port: int) -> list[str]:
        return ["127.0.0.3", "127.0.0.1"]

    assert get(f"http://a.example:{port}/a.png", at(port), resolve=both) == PNG


def test_redirects_are_followed_where_they_may_go(web: tuple[int, list[dict[str, str]]], port: int) -> None:
    assert get(f"http://a.example:{port}/relative", at(port)) == PNG
    assert "cookie" not in web[1][-1]


@pytest.mark.parametrize(
    "to",
    [
        "http://b.example/a.png", "//b.example/a.png", "file:///etc/passwd", "ftp://a.example/a.png", "data:,x",
        "http://user@a.example/", "http://a.example:22/",
    ],
)  # fmt: skip
def test_s04_a_redirect_is_checked_like_the_first_address(port: int, to: str) -> None:
    refused(lambda: get(f"http://a.example:{port}/to?{to}", at(port)), "image_not_allowed")
    assert connects == [("127.0.0.1", port)]


def test_s04_a_redirect_to_a_name_with_an_inner_address(port: int) -> None:
    async def inner(host: str, port: int) -> list[str]:
        return ["127.0.0.1"] if host == "a.example" else ["127.0.0.2"]

    policy = MediaPolicy(url_hosts=(f"a.example:{port}", f"b.example:{port}"))
    url = f"http://a.example:{port}/to?http://b.example:{port}/a.png"
    assert get(url, policy) == PNG
    refused(lambda: get(url, policy, resolve=inner, public="127.0.0.1".__eq__), "image_not_allowed")


@pytest.mark.parametrize("path", ["missing", "loop", "short", "gzip", "odd", "to?http://[::1", "to?%00"])
def test_a45_what_does_not_lead_to_an_image(port: int, path: str) -> None:
    refused(lambda: get(f"http://a.example:{port}/{path}", at(port)), "image_unavailable")


def test_a45_a_redirect_loop_ends(web: tuple[int, list[dict[str, str]]], port: int) -> None:
    refused(lambda: get(f"http://a.example:{port}/loop", at(port)), "image_unavailable")
    assert len(web[1]) == 1 + fetch.REDIRECTS


def test_a45_a_name_that_is_none_and_a_port_that_is_shut(port: int) -> None:
    async def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror

    refused(lambda: get(f"http://a.example:{port}/a.png", at(port), resolve=unknown), "image_unavailable")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        shut = listener.getsockname()[1]
    refused(lambda: get(f"http://a.example:{shut}/a.png", at(shut)), "image_unavailable")


def test_a46_a_drip_is_a_504_at_the_deadline(port: int) -> None:
    refused(lambda: get(f"http://a.example:{port}/drip", at(port, seconds=0.5)), "image_timeout", 504)


@pytest.mark.parametrize("path", ["huge", "endless"])
def test_a47_more_than_is_allowed_is_refused_at_once(port: int, path: str) -> None:
    error = refused(lambda: get(f"http://a.example:{port}/{path}", at(port, bytes=10**6)), "image_too_large")
    assert "the file is larger than 1000000 bytes" in error.message
    assert gather._ROOM.bytes == 0


def test_what_is_fetched_counts_as_held(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "_ROOM", Room(most=len(PNG) - 1))
    with pytest.raises(RequestError) as caught:
        get(f"http://a.example:{port}/a.png", at(port))
    assert (caught.value.status, caught.value.code) == (503, "too_many_images")


def test_what_is_fetched_is_checked_by_its_content(port: int) -> None:
    refused(lambda: get(f"http://a.example:{port}/page", at(port)), "invalid_image")


def test_the_certificate_is_that_of_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = certificate(tmp_path, "a.example")
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(made)
    monkeypatch.setattr(fetch, "_trust", lambda: ssl.create_default_context(cafile=made))
    with serving(served) as (port, _):
        policy = MediaPolicy(url_hosts=(f"a.example:{port}", f"b.example:{port}"))
        assert get(f"https://a.example:{port}/a.png", policy) == PNG
        refused(lambda: get(f"https://b.example:{port}/a.png", policy), "image_unavailable")


def test_a_client_that_goes_away_ends_the_fetch(
    web: tuple[int, list[dict[str, str]]], port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    getter = functools.partial(fetch.fetch, resolve=here, public=lambda ip: True)
    monkeypatch.setattr(asked, "gathered", functools.partial(gather.gathered, fetch=getter))
    content = [{"type": "image_url", "image_url": {"url": f"http://a.example:{port}/drip"}}]
    body = json.dumps({"messages": [{"role": "user", "content": content}]}).encode()
    with serve(Seeing(media=at(port))) as slot:
        with connect(slot.port) as client:
            client.sendall(post("/v1/chat/completions", body))
            eventually(lambda: web[1])
        eventually(lambda: web[1][-1]["path"] == "/gone" and gather._ROOM.bytes == 0)
        assert slot.service.seen == []


def certificate(folder: Path, name: str) -> str:
    """A self-signed certificate of `name` with its key, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
        .add_extension(x509.BasicConstraints(True, None), True).sign(key, hashes.SHA256())
    )  # fmt: skip
    pem, no = serialization.Encoding.PEM, serialization.NoEncryption()
    path = folder / "certificate.pem"
    path.write_bytes(made.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, no))
    return str(path)
