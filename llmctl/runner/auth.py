"""Who may talk to a slot: Host and Origin against a browser's tricks, keys against everybody else.

Works on the ASGI scope, so that it holds for HTTP and WebSocket alike.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llmctl.errors import Refused, RequestError
from llmctl.keys import Keys, is_loopback

HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/@\[\]]+)(:[0-9]{1,5})?")


class Auth:
    """The rules of one bind address. `hosts` are further names that Host and Origin may carry; `what` listens there."""

    def __init__(
        self,
        bind: str,
        keys: Keys | None,
        *,
        require_key: bool = False,
        hosts: Iterable[str] = (),
        what: str = "a slot",
    ) -> None:
        self._loopback = is_loopback(bind)
        self._keyless = self._loopback and not require_key
        self._keys = keys
        self._hosts = {host.lower() for host in hosts}
        self._last: str | None = None  # Host header that was let in: nearly always that of the next request too
        if keys is None and not self._keyless:
            raise Refused(
                f"{what} on {bind or 'every address'} needs a key, and there is none",
                hint="make the keys first: llmctl keys show",
            )

    def check(self, scope: Mapping[str, Any]) -> None:
        """RequestError 401 or 403 unless this client may use the slot."""
        self.check_source(scope)
        if not self._keyless and not self._presents(scope, "client"):
            raise _unauthorized("a valid key is needed: send it as `Authorization: Bearer …` or `x-api-key`")

    def check_source(self, scope: Mapping[str, Any]) -> None:
        """RequestError 403 when a foreign web page stands behind the request; no key is asked for."""
        host = _header(scope, b"host")
        if self._loopback and host is not None and host != self._last:
            if not self._known(host):
                raise _forbidden("this server does not answer to the name in the Host header")
            self._last = host
        origin = _header(scope, b"origin")
        if origin is None:
            return
        scheme, _, rest = origin.partition("://")
        same = host is not None and _name(rest) is not None and _name(rest) == _name(host)
        if scheme not in ("http", "https") or not (same or self._known(rest)):
            raise _forbidden("requests from web pages of another origin are refused")

    def require(self, role: str, scope: Mapping[str, Any]) -> None:
        """RequestError 401 unless the key of `role` ("client" or "admin") is presented, on loopback too."""
        if not self._presents(scope, role):
            raise _unauthorized(f"the {role} key is needed")

    def _presents(self, scope: Mapping[str, Any], role: str) -> bool:
        """Whether a presented key opens `role`; takes the same time whichever key is wrong, and wherever."""
        if self._keys is None:
            return False
        self._keys = self._keys.fresh()
        good = [self._keys.admin] if role == "admin" else [self._keys.admin, self._keys.client]
        matches = [hmac.compare_digest(sent, key.encode()) for sent in _sent(scope) for key in good]
        return any(matches)

    def _known(self, host: str) -> bool:
        name = _name(host)
        return name is not None and (name in self._hosts or is_loopback(name))


def _name(host: str) -> str | None:
    """`host` without its port and brackets; None when it is no host."""
    found = HOST.fullmatch(host.lower())
    return found[1].strip("[]").rstrip(".") if found else None


def _header(scope: Mapping[str, Any], name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


def _sent(scope: Mapping[str, Any]) -> Iterator[bytes]:
    """The keys that a request presents."""
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            yield value[7:].strip()
        elif name == b"x-api-key":
            yield value.strip()


def _unauthorized(message: str) -> RequestError:
    return RequestError(message, status=401, code="invalid_api_key")


def _forbidden(message: str) -> RequestError:
    return RequestError(message, status=403, code="forbidden")
