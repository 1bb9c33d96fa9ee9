"""Which addresses an image may be fetched from: a decision about a URL, and one about what its name resolves to."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from llmctl.errors import RequestError

ANY = "*"
PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?|[0-9a-f:.]+")
_PLAIN = re.compile(r"[!-\[\]-~]+")  # ASCII that is seen, but no backslash, which some parsers take for a slash
_UNICAST = IPv6Network("2000::/3")
_TUNNELS = (IPv6Network("2001::/23"), IPv6Network("2002::/16"), IPv6Network("3fff::/20"))


@dataclass(frozen=True)
class Address:
    """An http(s) URL, taken apart once: what is checked is what is sent."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def parse(at: str, url: str, hosts: Collection[str]) -> Address:
    """The address of `url` when `hosts` (MediaPolicy.url_hosts) has it; RequestError 400 that does not repeat it.

    An entry without a port means the usual ports, 80 and 443.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise not_allowed(at) from None
    plain = _PLAIN.fullmatch(url) and _NAME.fullmatch(host)
    if not plain or parts.scheme not in PORTS or "@" in parts.netloc or port == 0:
        raise not_allowed(at)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    address = Address(parts.scheme, host, port or PORTS[parts.scheme], target)
    usual = address.port in PORTS.values()
    known = {name.lower() for name in hosts}
    if f"{host}:{address.port}" in known or (usual and known & {host, ANY}):
        return address
    raise not_allowed(at)


def is_public(address: str) -> bool:
    """Whether a resolved address is one of the public internet, and leads nowhere else (a tunnel, a mapped IPv4)."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv4Address):
        return ip.is_global and not ip.is_multicast
    return ip.is_global and ip in _UNICAST and not any(ip in tunnel for tunnel in _TUNNELS)


def not_allowed(at: str) -> RequestError:
    """The same for every address, so that nobody learns by it what there is."""
    return RequestError(
        f"{at}: images are not fetched from there", param=at, code="image_not_allowed",
        hint="send the image's data; an operator lists in image_urls of hosts.toml where images may come from",
    )  # fmt: skip
