"""A client's request as it was read, and why one is refused before anybody looks at what it asks."""

from __future__ import annotations

import http
import json
from dataclasses import dataclass, field
from typing import Any

import httptools

from llmctl.domain import Limits
from llmctl.errors import RequestError
from llmctl.runner.exchange import error_headers, error_object

VERSIONS = ("1.1", "1.0")


@dataclass
class Request:
    """One request, whole. `target` is as it was sent; names of headers are in lower case."""

    method: str = ""
    target: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    version: str = "1.1"
    keep: bool = True
    upgrade: bool = False

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def websocket(self) -> bool:
        """Whether it asks to become a WebSocket."""
        return self.upgrade and (self.header(b"upgrade") or b"").lower() == b"websocket"

    @property
    def path(self) -> str:
        return self.target.partition(b"?")[0].decode("latin-1")

    def scope(self) -> dict[str, Any]:
        """What `Auth` looks at."""
        return {"headers": self.headers}


def check_head(request: Request, limits: Limits, *, full: bool) -> None:
    """RequestError for a head that llhttp lets through and we do not; `full`: its connection is one too many."""
    size = sum(len(name) + len(value) + 4 for name, value in request.headers) + len(request.target)
    if size > limits.header_bytes:
        raise head_too_large(limits)
    if request.method == "CONNECT":
        raise RequestError(
            "CONNECT asks a proxy, and this is none",
            status=405, code="method_not_allowed", details={"allow": "GET, HEAD, POST"},
        )  # fmt: skip
    if request.version not in VERSIONS:
        raise invalid("only HTTP/1.1 and HTTP/1.0 are spoken")
    hosts = 0
    for name, value in request.headers:
        if name == b"host":
            hosts += 1
        elif name == b"transfer-encoding" and value.lower() != b"chunked":
            raise RequestError("only Transfer-Encoding: chunked is taken", status=501, code="unsupported_encoding")
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise RequestError("compressed request bodies are not taken", status=415, code="unsupported_encoding")
        elif name == b"content-length" and int(value) > limits.body_bytes:
            raise body_too_large(limits)
    if hosts > 1 or (not hosts and request.version == "1.1"):
        raise invalid("it has no Host header, or several")
    if full and request.target != b"/health":
        raise RequestError(
            f"{limits.connections} connections are open already",
            status=503, code="too_many_connections", details={"retry_after": 1},
        )  # fmt: skip


def unreadable(error: Exception) -> RequestError:
    """What llhttp says of it, without the client's bytes."""
    if isinstance(error, httptools.HttpParserInvalidMethodError | httptools.HttpParserInvalidURLError):
        return invalid("its first line is none")
    return invalid(str(error).partition(":")[0])


def invalid(what: str) -> RequestError:
    return RequestError(f"the request is not valid HTTP: {what}", code="invalid_http")


def timed_out(message: str) -> RequestError:
    return RequestError(message, status=408, code="request_timeout")


def head_too_large(limits: Limits) -> RequestError:
    message = f"the request's head is larger than {limits.header_bytes} bytes"
    return RequestError(message, status=431, code="headers_too_large")


def body_too_large(limits: Limits) -> RequestError:
    message = f"the request body is larger than {limits.body_bytes} bytes"
    return RequestError(message, status=413, code="body_too_large")


def whole(error: RequestError) -> bytes:
    """A whole response that ends the connection."""
    body = json.dumps(error_object(error)).encode()
    lines = [
        b"HTTP/1.1 %d %s" % (error.status, phrase(error.status)),
        b"content-type: application/json",
        b"content-length: %d" % len(body),
        b"connection: close",
        *(name + b": " + value for name, value in error_headers(error)),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def phrase(status: int) -> bytes:
    try:
        return http.HTTPStatus(status).phrase.encode()
    except ValueError:
        return b"Unknown"
