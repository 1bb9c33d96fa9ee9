"""Fetches an image over HTTP from the address that was checked, and from no other: no proxy, no cookie, bounded."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from llmctl.domain import MediaPolicy
from llmctl.errors import RequestError
from llmctl.runner.media.addresses import Address, is_public, not_allowed, parse
from llmctl.runner.media.room import Take, too_large

if TYPE_CHECKING:
    import httpx

REDIRECTS = 3
TRIES = 3  # addresses of one name
READ = 10.0  # seconds without a byte
HEADERS = [("Accept", "image/*"), ("Accept-Encoding", "identity"), ("Connection", "close"), ("User-Agent", "llmctl")]

_RESOLVERS = ThreadPoolExecutor(4, "resolve")  # of their own: a name server that does not answer holds up nothing else

Resolve = Callable[[str, int], Awaitable[list[str]]]


class Fetch(Protocol):
    """What `fetch` is to those who call it."""

    async def __call__(self, at: str, url: str, policy: MediaPolicy, take: Take) -> bytes: ...


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, each once (also of 0x7f.1 and its like, as the system reads them). OSError."""
    ask = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(_RESOLVERS, ask)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def fetch(
    at: str, url: str, policy: MediaPolicy, take: Take,
    *, resolve: Resolve = resolve, public: Callable[[str], bool] = is_public,
) -> bytes:  # fmt: skip
    """The body at `url`. Each redirect is checked like the first address. RequestError 400 names the field.

    A name is resolved once, every address that it has must be public, and the connection goes to one of these: a name
    that resolves to something else a moment later (DNS rebinding) changes nothing.
    """
    for _ in range(1 + REDIRECTS):
        address = parse(at, url, policy.url_hosts)
        try:
            found = await resolve(address.host, address.port)
        except (OSError, UnicodeError):
            raise _unreachable(at, "its name is not known") from None
        if not found or not all(map(public, found)):
            raise not_allowed(at)
        answer = await _first(at, address, found[:TRIES], policy.bytes, take)
        if isinstance(answer, bytes):
            return answer
        url = answer
    raise _unreachable(at, f"it redirects more than {REDIRECTS} times")


async def _first(at: str, address: Address, found: list[str], most: int, take: Take) -> bytes | str:
    """The answer of the first address that takes a connection."""
    import httpx

    why = "it does not answer"
    for ip in found:
        try:
            return await _get(at, address, ip, most, take)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            continue
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError):
            why = "its answer breaks off"
            break
    raise _unreachable(at, why)


async def _get(at: str, address: Address, ip: str, most: int, take: Take) -> bytes | str:
    """GET from `ip`: the body, or where it redirects to (absolute)."""
    import httpx

    url = httpx.URL(scheme=address.scheme, host=ip, port=address.port, raw_path=address.target.encode())
    timeout = {"connect": READ, "read": READ, "write": READ, "pool": READ}
    request = httpx.Request(
        "GET", url, headers=[("Host", address.authority), *HEADERS],
        extensions={"sni_hostname": address.host, "timeout": timeout},
    )  # fmt: skip
    async with httpx.AsyncHTTPTransport(verify=_trust()) as transport:
        response = await transport.handle_async_request(request)
        try:
            if response.status_code in (301, 302, 303, 307, 308) and "location" in response.headers:
                here = httpx.URL(f"{address.scheme}://{address.authority}{address.target}")
                return str(here.join(response.headers["location"]))
            if response.status_code != 200:
                raise _unreachable(at, f"it answers {response.status_code}")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise _unreachable(at, "it answers with a compressed body")
            return await _body(at, response, most, take)
        finally:
            await response.aclose()


async def _body(at: str, response: httpx.Response, most: int, take: Take) -> bytes:
    if int(response.headers.get("content-length", 0)) > most:
        raise too_large(at, most)
    data = bytearray()
    async for piece in response.aiter_raw():
        if len(data) + len(piece) > most:
            raise too_large(at, most)
        take(at, len(piece))
        data += piece
    return bytes(data)


@functools.cache
def _trust() -> ssl.SSLContext:
    """The certificates of the system, and those that come with httpx for a Python that does not find them."""
    import certifi

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def _unreachable(at: str, why: str) -> RequestError:
    return RequestError(f"{at}: the image cannot be fetched: {why}", param=at, code="image_unavailable")
