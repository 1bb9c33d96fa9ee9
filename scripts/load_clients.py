#!/usr/bin/env python3
"""Keep N clients asking a slot while a command runs, and count what became of every request.

    scripts/load_clients.py 8101 --clients 20 -- llmctl swap 8101 tiny-llama

Half of the clients keep their connection, half open a new one for each request; half stream, half do not. The command
starts when each client has had an answer, and the load goes on for `--after` seconds when it has ended. A wait is the
time from sending a request to the first byte of its answer. Exit code 1 when a request or the command failed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from dataclasses import dataclass, field

import httpx


@dataclass
class Tally:
    """What the clients have seen so far. `answered` is set when each client has had its first answer."""

    waiting_for: set[int]
    served: int = 0
    waits: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def seen(self, client: int) -> None:
        self.waiting_for.discard(client)
        if not self.waiting_for:
            self.answered.set()


async def main() -> int:
    options = parse()
    tally = Tally(set(range(options.clients)))
    headers = {"Authorization": f"Bearer {options.key}"} if options.key else {}
    async with (
        httpx.AsyncClient(base_url=options.url, timeout=300, headers=headers, limits=unlimited(True)) as keeping,
        httpx.AsyncClient(base_url=options.url, timeout=300, headers=headers, limits=unlimited(False)) as closing,
    ):
        https = [keeping if number % 2 else closing for number in range(options.clients)]
        clients = [asyncio.create_task(client(number, http, options, tally)) for number, http in enumerate(https)]
        await tally.answered.wait()
        code = await (await asyncio.create_subprocess_exec(*options.command)).wait() if options.command else 0
        await asyncio.sleep(options.after)
        tally.stop.set()
        await asyncio.gather(*clients)
    for failure in sorted(set(tally.failures))[:10]:
        print(f"  failed: {failure}", file=sys.stderr)
    longest = max(tally.waits, default=0.0) * 1000
    print(f"served {tally.served} · failed {len(tally.failures)} · longest wait {longest:.0f} ms")
    return 1 if code or tally.failures else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(usage="%(prog)s PORT [options] [-- COMMAND ...]")
    parser.add_argument("port", type=int)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--after", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("--question", default="What is a slot?")
    parser.add_argument("--address", default="127.0.0.1", help="of the slot's host")
    parser.add_argument("--key")
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:at])
    options.command = words[at + 1 :]
    options.url = f"http://{options.address}:{options.port}"
    return options


def unlimited(keep: bool) -> httpx.Limits:
    return httpx.Limits(max_connections=None, max_keepalive_connections=None if keep else 0)


async def client(number: int, http: httpx.AsyncClient, options: argparse.Namespace, tally: Tally) -> None:
    """Ask until told to stop; a request that has begun is always finished."""
    asked = {"messages": [{"role": "user", "content": options.question}], "max_tokens": 24, "temperature": 0}
    body = {**asked, "stream": number // 2 % 2 == 0}
    while not tally.stop.is_set():
        try:
            tally.waits.append(await ask(http, body))
            tally.served += 1
        except (httpx.HTTPError, ValueError) as error:
            tally.failures.append(f"{type(error).__name__}: {error}")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(tally.stop.wait(), 0.1)
        tally.seen(number)


async def ask(http: httpx.AsyncClient, body: dict[str, object]) -> float:
    """The wait of one request; ValueError unless its answer is whole."""
    began = time.monotonic()
    first, text = 0.0, b""
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        async for piece in response.aiter_raw():
            first = first or time.monotonic()
            text += piece
    if response.status_code != 200:
        raise ValueError(f"HTTP {response.status_code}: {text[:200]!r}")
    end = b"data: [DONE]" if body["stream"] else b"}"
    if not text.rstrip().endswith(end) or b'"finish_reason"' not in text or b'"error"' in text:
        raise ValueError(f"not a whole answer: …{text[-200:]!r}")
    return first - began


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
