"""Makes a result fit to be shown: no host names, users, addresses or paths (decisions.md, "Public-safe"). Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any

_PATH = re.compile(r"(?<![\w/])(?:~|[A-Za-z]:)?/(?:[\w.@+~-]+/)*[\w.@+~-]+/?")
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])")
_IPV6 = re.compile(r"(?<![\w:])(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4}(?![\w:])")
_ROUTE = re.compile(r"/v1/[a-z/]+|/ready|/health|/metrics")


def aliases(hosts: Iterable[str]) -> dict[str, str]:
    """What each host is called in public: host-1, host-2, … in their order."""
    return {host: f"host-{i}" for i, host in enumerate(dict.fromkeys(hosts), 1)}


def clean(value: Any, secret: Mapping[str, str]) -> Any:
    """`value` (JSON) with each word of `secret` replaced by what it maps to, and all paths and addresses masked."""
    if isinstance(value, str):
        return _clean_text(value, secret)
    if isinstance(value, Mapping):
        return {key: clean(one, secret) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(one, secret) for one in value]
    return value


def _clean_text(text: str, secret: Mapping[str, str]) -> str:
    if words := "|".join(re.escape(word) for word in sorted(secret, key=len, reverse=True) if word):
        text = re.sub(rf"(?<![\w-])(?:{words})(?![\w-])", lambda found: secret[found[0]], text)
    text = _IPV4.sub("[address]", text)
    text = _IPV6.sub(lambda found: "[address]" if _is_address(found[0]) else found[0], text)
    return _PATH.sub(lambda found: found[0] if _ROUTE.fullmatch(found[0]) else "[path]", text)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
