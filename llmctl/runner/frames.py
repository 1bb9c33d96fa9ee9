"""Frames between slot server and engine process: lengths, a JSON head, a binary tail.

    4 bytes head length, 4 bytes tail length (big endian) · head (JSON object) · tail

server → engine   warm {engine} · spec {spec} · generate {request} +media · task {task} · cancel {id} · rest · wake ·
                  profile {to} · stop
engine → server   warm · progress {stage, done, total} · ready {identity} · failed {error} · events {list} ·
                  turned {error} · profiled {value or error} · beat {steps, active, memory}
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple
from typing import Any

from llmctl.domain import CallPiece, Chunk, Done, Event, Failure, Started, TokenLogprob, Usage

LENGTHS = struct.Struct(">II")
LARGEST = 256 * 2**20


def encode(head: Mapping[str, Any], tail: bytes = b"") -> bytes:
    """One frame as bytes."""
    body = json.dumps(head, separators=(",", ":")).encode()
    return LENGTHS.pack(len(body), len(tail)) + body + tail


class Reader:
    """Cuts a byte stream into frames; `rest` is what has come of the next one."""

    def __init__(self, rest: bytes = b"") -> None:
        self.rest = bytearray(rest)

    def feed(self, data: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
        """(head, tail) of each frame that is complete now; ValueError for a frame over LARGEST."""
        self.rest += data
        at = 0
        try:
            while len(self.rest) - at >= LENGTHS.size:
                head, tail = LENGTHS.unpack_from(self.rest, at)
                if head + tail > LARGEST:
                    raise ValueError(f"a frame of {head + tail} bytes")
                body = at + LENGTHS.size
                if len(self.rest) < body + head + tail:
                    break
                at = body + head + tail
                yield json.loads(self.rest[body : body + head]), bytes(self.rest[body + head : at])
        finally:
            del self.rest[:at]


def receive(sock: socket.socket) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Frames from a blocking socket until its other end closes."""
    reader = Reader()
    while data := sock.recv(2**18):
        yield from reader.feed(data)


def pack_events(events: Iterable[Event]) -> list[list[Any]]:
    """Events as short JSON arrays; a plain text chunk, by far the most frequent, is the shortest."""
    packed: list[list[Any]] = []
    for e in events:
        if isinstance(e, Chunk):
            row: list[Any] = [e.id, e.index, e.text, e.tokens]
            if e.finish or e.logprobs or e.usage or e.reasoning or e.calls:
                usage = list(astuple(e.usage)) if e.usage else None
                row += [e.finish, e.stop_match, [[t.text, t.id, t.logprob, t.top] for t in e.logprobs], usage]
                row += [e.reasoning, [[c.index, c.id, c.name, c.arguments] for c in e.calls]]
            packed.append(row)
        elif isinstance(e, Started):
            packed.append([e.id, e.prompt_tokens])
        elif isinstance(e, Done):
            packed.append([e.id, None, dict(e.value)])
        else:
            packed.append([e.id, dict(e.error)])
    return packed


def unpack_event(row: list[Any]) -> Event:
    """The event that `pack_events` packed."""
    if len(row) == 2:
        return Failure(row[0], row[1]) if isinstance(row[1], dict) else Started(row[0], row[1])
    if len(row) == 3:
        return Done(row[0], row[2])
    if len(row) == 4:
        return Chunk(row[0], row[1], row[2], row[3])
    id, index, text, tokens, finish, match, logprobs, usage, reasoning, calls = row
    return Chunk(
        id, index, text, tokens, finish, match,
        tuple(TokenLogprob(t, i, p, tuple((a, b, c) for a, b, c in top)) for t, i, p, top in logprobs),
        Usage(*usage) if usage else None, reasoning, tuple(CallPiece(*call) for call in calls),
    )  # fmt: skip
