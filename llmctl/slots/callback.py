"""How a slot in the foreground tells a pool that it is ready, as a worker of rbee does: one POST to the pool's URL."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

from llmctl.errors import LlmctlError, Refused, Unreachable, UsageError
from llmctl.keys import is_loopback

TIMEOUT = 5.0  # seconds for one try
ANY = ("0.0.0.0", "::")


@dataclass(frozen=True)
class Callback:
    """Where worker `id` says that it is ready."""

    id: str
    host: str
    port: int
    path: str
    tls: bool

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Callback:
        return Callback(**json.loads(text))

    def __str__(self) -> str:
        """Without the path: it may hold a secret."""
        return f"{self.host}:{self.port}"


def parse(worker_id: str, url: str) -> Callback:
    """The callback of a worker; UsageError when the URL is no http or https one."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or parts.username is not None or not url.isascii():
        raise UsageError("the callback's URL must be http://HOST[:PORT]/PATH or https://…", hint="--callback-url URL")
    if not worker_id or not worker_id.isprintable():
        raise UsageError("the worker's id must be a word", hint="--worker-id ID")
    tls = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Callback(worker_id, host, port or (443 if tls else 80), path, tls)


def uri(bind: str, local: str, port: int) -> str:
    """Where a slot on `bind` is reached by who is reached from the address `local`; Refused when it is not."""
    if is_loopback(bind) and not is_loopback(local):
        raise Refused(
            f"the callback is on another machine, which cannot reach a slot on {bind}",
            hint='bind = "0.0.0.0" for this host in hosts.toml: then the slot needs a key (llmctl keys show)',
        )
    address = local if bind in ANY else bind
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def check(callback: Callback, bind: str, port: int) -> None:
    """Refused when it can be seen now that the callback would not reach the slot. Nothing is sent."""
    with contextlib.suppress(OSError):
        family, _, _, _, address = socket.getaddrinfo(callback.host, callback.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect(address)
            uri(bind, sock.getsockname()[0], port)


def post(callback: Callback, bind: str, port: int, vram_bytes: int) -> str:
    """Say once that the worker is ready; the address that it gave. Unreachable, LlmctlError: who answers does not
    take it; Refused: see `uri`."""
    kind = http.client.HTTPSConnection if callback.tls else http.client.HTTPConnection
    connection = kind(callback.host, callback.port, timeout=TIMEOUT)
    try:
        connection.connect()
        here = uri(bind, connection.sock.getsockname()[0], port)
        body = json.dumps({"worker_id": callback.id, "vram_bytes": vram_bytes, "uri": here})
        connection.request("POST", callback.path, body, {"Content-Type": "application/json"})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"no answer from {callback}: {error}") from None
    finally:
        connection.close()
    if not 200 <= status < 300:
        raise LlmctlError(f"{callback} answered {status}")
    return here
