"""The parser of a slot's connections: h11, with the requests refused that it would let through."""

from __future__ import annotations

from typing import Any

import h11

from llmctl.domain import Limits
from llmctl.errors import RequestError

PIECES = 4096  # body pieces after which their size matters: one-byte chunks cost more to parse than they hold
SMALLEST_PIECE = 16


class Bodies:
    """The bytes of all requests' bodies on one port that are not answered yet."""

    def __init__(self) -> None:
        self.bytes = 0


class Intake(h11.Connection):
    """One connection. `why` is the last refusal; with `full` set it is one too many, and may ask for health only."""

    def __init__(self, limits: Limits, bodies: Bodies) -> None:
        super().__init__(h11.SERVER, limits.header_bytes)
        self.limits, self.bodies = limits, bodies
        self.full = False
        self.why = RequestError("")
        self._size = self._pieces = 0

    def next_event(self) -> Any:
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                self.forget_body()
                self._check_head(event)
            elif isinstance(event, h11.Data):
                self._check_body(event)
        except h11.RemoteProtocolError as error:
            self.why = self._explain(error)
            raise
        except RequestError as error:
            self.why = error
            raise h11.RemoteProtocolError(error.message) from None
        if event is h11.PAUSED and len(self.trailing_data[0]) <= self.limits.header_bytes:
            return h11.NEED_DATA  # keep reading behind a request in progress, to notice that the client goes away
        return event

    def forget_body(self) -> None:
        """The request is answered, or the connection has ended: nobody holds its body any more."""
        self.bodies.bytes -= self._size
        self._size = self._pieces = 0

    def _check_head(self, request: h11.Request) -> None:
        limits = self.limits
        headers = dict(request.headers)
        size = sum(len(name) + len(value) + 4 for name, value in request.headers) + len(request.target)
        if size > limits.header_bytes:
            raise self._head_too_large()
        if request.http_version not in (b"1.1", b"1.0"):
            raise _invalid("only HTTP/1.1 and HTTP/1.0 are spoken")
        if self.full and request.target != b"/health":
            raise RequestError(
                f"{limits.connections} connections are open already",
                status=503, code="too_many_connections", details={"retry_after": 1},
            )  # fmt: skip
        length = headers.get(b"content-length")
        if length and b"transfer-encoding" in headers:
            raise _invalid("Content-Length beside Transfer-Encoding")
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise RequestError("compressed request bodies are not taken", status=415, code="unsupported_encoding")
        if length and int(length) > limits.body_bytes:
            raise self._body_too_large()

    def _check_body(self, data: h11.Data) -> None:
        self._size += len(data.data)
        self.bodies.bytes += len(data.data)
        self._pieces += 1
        if self._size > self.limits.body_bytes:
            raise self._body_too_large()
        if self.bodies.bytes > self.limits.bodies_bytes:
            raise RequestError(
                f"requests of more than {self.limits.bodies_bytes >> 20} MiB together wait for their answers",
                status=503, code="too_many_bodies", details={"retry_after": 1},
            )  # fmt: skip
        if self._pieces > PIECES and self._size < self._pieces * SMALLEST_PIECE:
            raise _invalid(f"a body in chunks of less than {SMALLEST_PIECE} bytes")

    def _explain(self, error: h11.RemoteProtocolError) -> RequestError:
        if error.error_status_hint == 431:
            return self._head_too_large()
        if error.error_status_hint == 501:
            return RequestError("only Transfer-Encoding: chunked is taken", status=501, code="unsupported_encoding")
        return _invalid(str(error).partition(":")[0])  # behind the colon h11 repeats the client's bytes

    def _head_too_large(self) -> RequestError:
        message = f"the request's head is larger than {self.limits.header_bytes} bytes"
        return RequestError(message, status=431, code="headers_too_large")

    def _body_too_large(self) -> RequestError:
        message = f"the request body is larger than {self.limits.body_bytes} bytes"
        return RequestError(message, status=413, code="body_too_large")


def _invalid(what: str) -> RequestError:
    return RequestError(f"the request is not valid HTTP: {what}", code="invalid_http")
