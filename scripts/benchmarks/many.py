"""Clients that ask one chat after another, in a process of their own: … many PORT CLIENTS REQUESTS < body.json

The clients begin within a second, and answers have other lengths with each, up to a third shorter or longer: as people
do, and not all in the same moment again and again.
Prints {"first": seconds to the first event with text, of each request, "events", "failed", "seconds"}.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

TIMEOUT = 300.0


async def ask(port: int, data: bytes) -> tuple[float, int]:
    """One streamed chat: seconds to its first text, events. RuntimeError for one that is refused or has no end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    began = time.perf_counter()
    writer.write(f"{head}Connection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
    first, events, seen = 0.0, 0, b""
    while chunk := await reader.read(2**18):
        if not seen and b" 200 " not in chunk[:16]:
            raise RuntimeError(chunk[:200].decode(errors="replace"))
        events += chunk.count(b"data: ")
        seen = (seen + chunk)[-4000:]
        if not first and b'"content":' in seen.replace(b'"content":""', b"").replace(b'"content": ""', b""):
            first = time.perf_counter() - began
    writer.close()
    if not first or b"finish_reason" not in seen:
        raise RuntimeError(seen[-200:].decode(errors="replace"))
    return first, events


async def client(port: int, data: bytes, requests: int, wait: float, seen: dict[str, Any]) -> None:
    await asyncio.sleep(wait)
    for _ in range(requests):
        try:
            first, events = await asyncio.wait_for(ask(port, data), TIMEOUT)
        except (RuntimeError, OSError, asyncio.TimeoutError) as error:
            seen["failed"] += 1
            seen["why"] = repr(error)[:300]
        else:
            seen["first"].append(first)
            seen["events"] += events


def lengthened(body: dict[str, Any], number: int) -> bytes:
    """The body of a client's requests."""
    share = 1 + (number * 7 % 21 - 10) / 30
    return json.dumps({**body, "max_tokens": max(2, round(body["max_tokens"] * share))}).encode()


async def main(port: int, clients: int, requests: int) -> None:
    body = {**json.load(sys.stdin), "stream": True}
    seen: dict[str, Any] = {"first": [], "events": 0, "failed": 0, "why": ""}
    began = time.perf_counter()
    await asyncio.gather(
        *(client(port, lengthened(body, number), requests, number / clients, seen) for number in range(clients))
    )
    print(json.dumps({**seen, "seconds": time.perf_counter() - began}))


asyncio.run(main(*map(int, sys.argv[1:4])))
